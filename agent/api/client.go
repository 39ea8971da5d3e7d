package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/starferry/starferry/internal/jet"
	"github.com/starferry/starferry/scripting"
)

const (
	askEvery  = time.Second
	askWithin = 3 * time.Second
	// silence is how long a run's owner may say nothing before it counts as gone.
	silence = 10 * time.Second
)

// ErrNoAgent is returned when nobody serves the agents' subjects.
var ErrNoAgent = errors.New("no agent answers")

// Client asks agents.
type Client struct {
	Conn *nats.Conn
	// Operator is the name to ask under; empty: none. See SubjectAs.
	Operator string
	// Hint ends the message of ErrNoAgent: how to start an agent.
	Hint string
}

func (c *Client) ask(ctx context.Context, subject string, request, answer any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("ask agent: %w", err)
	}
	m, err := jet.Request(ctx, c.Conn, SubjectAs(subject, c.Operator), body)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%w at %s: %s", ErrNoAgent, c.Conn.ConnectedUrlRedacted(), c.Hint)
	case errors.Is(err, nats.ErrPermissionViolation):
		return fmt.Errorf("ask agent at %s: %w: `starferry nats permissions --operator NAME` prints what an operator needs, and nats.operator in the configuration says under which name to ask",
			c.Conn.ConnectedUrlRedacted(), err)
	case err != nil:
		return fmt.Errorf("ask agent at %s: %w", c.Conn.ConnectedUrlRedacted(), err)
	}
	return Open(m.Data, answer)
}

// Start runs a script or snippet and returns the run's name at once.
func (c *Client) Start(ctx context.Context, r RunRequest) (string, error) {
	subject := SubjectRun
	if r.Snippet != "" {
		subject = SubjectExec
	}
	var a RunAnswer
	err := c.ask(ctx, subject, r, &a)
	return a.Run, err
}

// Plan plans a script or snippet.
func (c *Client) Plan(ctx context.Context, r RunRequest) (PlanAnswer, error) {
	var a PlanAnswer
	err := c.ask(ctx, SubjectPlan, r, &a)
	return a, err
}

// Resume takes up an interrupted run.
func (c *Client) Resume(ctx context.Context, run, by string) error {
	return c.ask(ctx, SubjectResume, NameRequest{run, by}, &RunAnswer{})
}

// Rollback undoes a run.
func (c *Client) Rollback(ctx context.Context, run, by string) error {
	return c.ask(ctx, SubjectRollback, NameRequest{run, by}, &RunAnswer{})
}

// Runs lists all runs, oldest first.
func (c *Client) Runs(ctx context.Context) ([]scripting.Status, error) {
	var a []scripting.Status
	err := c.ask(ctx, SubjectRuns, struct{}{}, &a)
	return a, err
}

// Status tells where a run stands.
func (c *Client) Status(ctx context.Context, run string) (scripting.Status, error) {
	var a scripting.Status
	err := c.ask(ctx, SubjectStatus, NameRequest{Run: run}, &a)
	return a, err
}

// History returns a run's journal as events, for people.
func (c *Client) History(ctx context.Context, run string) ([]scripting.Event, error) {
	var a []scripting.Event
	err := c.ask(ctx, SubjectHistory, NameRequest{Run: run}, &a)
	return a, err
}

// Owner asks who carries out a run; nobody is ErrNoAgent.
func Owner(ctx context.Context, nc *nats.Conn, run string) (Progress, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	var p Progress
	m, err := nc.RequestWithContext(ctx, SubjectOwner(run), nil)
	if errors.Is(err, nats.ErrNoResponders) {
		return p, ErrNoAgent
	}
	if err != nil {
		return p, fmt.Errorf("ask for the owner of run %s: %w", run, err)
	}
	return p, Open(m.Data, &p)
}

// Follower shows a run while it goes on.
type Follower struct {
	client *Client
	sub    *nats.Subscription
	events chan *nats.Msg
	run    string
}

// Follow subscribes to the events of a run. Do it before the run is resumed or
// rolled back, so that none is missed.
func (c *Client) Follow(run string) (*Follower, error) {
	f := &Follower{client: c, run: run, events: make(chan *nats.Msg, 1024)}
	sub, err := c.Conn.ChanSubscribe(SubjectEvents(run), f.events)
	if err != nil {
		return nil, fmt.Errorf("follow run %s: %w", run, err)
	}
	f.sub = sub
	return f, nil
}

// Close ends the subscription.
func (f *Follower) Close() error { return f.sub.Unsubscribe() }

// Wait hands events to show until the run ends, and returns how. If ctx ends
// first the run goes on without us. An owner that falls silent is an error that
// says how the run is taken up again.
func (f *Follower) Wait(ctx context.Context, show func(scripting.Event)) (*Ending, error) {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	heard := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case m := <-f.events:
			var e scripting.Event
			if json.Unmarshal(m.Data, &e) == nil {
				show(e)
			}
			heard = time.Now()
			if ended(e) {
				tick.Reset(time.Millisecond) // ask at once
			}
			continue
		case <-tick.C:
			tick.Reset(askEvery)
		}
		p, err := Owner(ctx, f.client.Conn, f.run)
		switch {
		case err == nil && !p.Running:
			f.drain(show)
			return p.Ending, nil
		case err == nil:
			heard = time.Now()
		case time.Since(heard) > silence:
			return nil, fmt.Errorf("follow run %s: the agent that carries it out is silent (%w): what it has done stands in the journal; start an agent and go on with `starferry resume %s`", f.run, err, f.run)
		}
	}
}

// drain shows the events that came before the answer.
func (f *Follower) drain(show func(scripting.Event)) {
	for {
		select {
		case m := <-f.events:
			var e scripting.Event
			if json.Unmarshal(m.Data, &e) == nil {
				show(e)
			}
		default:
			return
		}
	}
}

func ended(e scripting.Event) bool {
	switch e.Kind {
	case scripting.Finished, scripting.Failed, scripting.RolledBack:
		return true
	}
	return false
}
