package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/starferry/starferry/agent/api"
	"github.com/starferry/starferry/scripting"
)

const (
	// answerAfter is how long an agent tells how a run ended.
	answerAfter = time.Minute
	// startWithin bounds the wait for a run's first journal record.
	startWithin = 30 * time.Second
)

// errStopping is the cause of interruption when the agent stops.
var errStopping = errors.New("the agent is stopping; the run stays open in the journal")

// active is one run in this agent's hands.
type active struct {
	run    string
	mu     sync.Mutex
	ending *api.Ending      // nil: running
	waits  *scripting.Event // the newest progress; nil: it does not wait
	over   chan struct{}    // closed: another has taken the run up, and answers for it
	begun  chan struct{}
	once   sync.Once
	retire sync.Once
	failed chan error    // the run ended before it had begun
	last   atomic.Uint64 // the journal record that this agent wrote last; 0: none
}

// written is the agent's journal as the runner of one run sees it. It keeps which
// record was written last, and gives up when the agent stops and NATS is gone.
type written struct {
	scripting.Journal
	act      *active
	stopping context.Context // of the agent
}

// Append implements scripting.Journal.
func (w written) Append(ctx context.Context, after uint64, r scripting.Record) (uint64, error) {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	defer context.AfterFunc(w.stopping, func() {
		time.AfterFunc(connectWithin, func() { giveUp(errStopping) })
	})()
	seq, err := w.Journal.Append(ctx, after, r)
	if err == nil {
		w.act.last.Store(seq)
	}
	return seq, err
}

func (a *active) progress(agent string) api.Progress {
	a.mu.Lock()
	defer a.mu.Unlock()
	return api.Progress{Run: a.run, Agent: agent, Running: a.ending == nil, Ending: a.ending, Last: a.waits}
}

// heard keeps what the run waits for, for those who ask in the middle of it.
func (a *active) heard(e scripting.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waits = nil; e.Kind == scripting.Progress {
		a.waits = &e
	}
}

// asked answers whoever follows the run. What asks for no answer is the word that
// the run begins anew somewhere: how it ended before is of no interest then. That
// word is lost with a NATS server that dies, so an end is told only while the
// journal says the same.
func (a *Agent) asked(act *active, m *nats.Msg) {
	p := act.progress(a.id)
	if p.Running {
		if m.Reply != "" {
			a.respond(m, p, nil)
		}
		return
	}
	over := m.Reply == ""
	if last := act.last.Load(); !over && last != 0 {
		ctx, cancel := context.WithTimeout(a.ctx, connectWithin)
		defer cancel()
		seq, err := a.journal.Last(ctx, act.run)
		if err != nil {
			a.log.Warn("how a run ended is not told", "run", act.run, "err", err)
			return // whoever asks will ask again
		}
		over = seq != last
	}
	if over {
		act.retire.Do(func() { close(act.over) })
		return
	}
	a.respond(m, p, nil)
}

// work is what is done with a run: Run, Resume or Rollback.
type work func(ctx context.Context, r *scripting.Runner) (*scripting.Outcome, error)

// begin carries out work on a run in the background and returns when its first
// record is journaled, or with the reason why it could not begin.
func (a *Agent) begin(ctx context.Context, run, by string, fresh bool, do work) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	runCtx, interrupt := context.WithCancelCause(a.ctx)
	own, err := a.own(ctx, run, interrupt)
	if err != nil {
		interrupt(err)
		return err
	}
	started := func() {}
	if fresh {
		start, err := a.locks.take(ctx, startLock, func(error) {})
		if err != nil {
			own.release()
			interrupt(err)
			return fmt.Errorf("start run %s: %w", run, err)
		}
		started = sync.OnceFunc(start.release)
	}
	act := &active{run: run, begun: make(chan struct{}), over: make(chan struct{}), failed: make(chan error, 1)}
	sub, err := a.answerFor(act)
	if err != nil {
		started()
		own.release()
		interrupt(err)
		return fmt.Errorf("start run %s: %w", run, err)
	}
	a.wg.Go(func() {
		defer interrupt(nil)
		a.carryOut(runCtx, act, by, do)
		started()
		own.release()
		a.linger(act)
		_ = sub.Unsubscribe() // the connection may be closed already
	})
	select {
	case <-act.begun:
		started()
		return nil
	case err := <-act.failed:
		return err
	case <-ctx.Done():
		return fmt.Errorf("start run %s: nothing journaled within %v; it may still begin: look with `starferry status %s`", run, startWithin, run)
	}
}

// answerFor silences those who still tell how the run ended last time, and
// answers for it from now on.
func (a *Agent) answerFor(act *active) (*nats.Subscription, error) {
	if err := a.nc.Publish(api.SubjectOwner(act.run), nil); err != nil {
		return nil, err
	}
	return a.nc.Subscribe(api.SubjectOwner(act.run), func(m *nats.Msg) {
		select {
		case <-act.over:
		default:
			a.asked(act, m)
		}
	})
}

// own takes the run into this agent's hands. A run in the hands of a living
// agent is refused; the lease of a dead one is waited for.
func (a *Agent) own(ctx context.Context, run string, interrupt context.CancelCauseFunc) (*lock, error) {
	p, err := api.Owner(ctx, a.nc, run)
	if err == nil && p.Running {
		return nil, &scripting.UsageError{Text: fmt.Sprintf("run %s is being carried out by agent %s: wait for it (`starferry status %s`), or stop that agent first", run, p.Agent, run)}
	}
	own, err := a.locks.take(ctx, "run "+run, interrupt)
	if err != nil {
		return nil, fmt.Errorf("take run %s: %w", run, err)
	}
	return own, nil
}

// carryOut does the work and keeps how it ended.
func (a *Agent) carryOut(ctx context.Context, act *active, by string, do work) {
	runner := a.runner(by, func(e scripting.Event) {
		act.once.Do(func() { close(act.begun) })
		act.heard(e)
		a.publish(e)
	})
	runner.Journal = written{a.journal, act, a.ctx}
	out, err := do(ctx, runner)
	ending := &api.Ending{Exit: scripting.ExitCode(err), Outcome: out}
	if err != nil {
		ending.Text = err.Error()
		errors.As(err, &ending.Refused)
	}
	act.mu.Lock()
	act.ending = ending
	act.mu.Unlock()
	if err != nil {
		act.failed <- err
	}
	// Without any event of its own (nothing was left to do) it has begun now.
	if err == nil {
		act.once.Do(func() { close(act.begun) })
	}
	a.log.Info("run ended", "run", act.run, "exit", ending.Exit, "err", err)
}

// linger keeps answering for a while, so that whoever follows hears the end.
func (a *Agent) linger(act *active) {
	select {
	case <-a.ctx.Done():
	case <-act.over:
	case <-time.After(answerAfter):
	}
}

func (a *Agent) publish(e scripting.Event) {
	body, err := json.Marshal(e)
	if err == nil {
		err = a.nc.Publish(api.SubjectEvents(e.Run), body)
	}
	if err != nil {
		a.log.Warn("event lost", "run", e.Run, "err", err)
	}
}

// load makes the program of a request.
func (a *Agent) load(r api.RunRequest) (*scripting.Program, error) {
	if r.Snippet != "" {
		return scripting.LoadExec(r.Snippet, a.registry)
	}
	return scripting.Load(scripting.Files(r.Files), r.File, a.registry)
}

// Start runs a script or snippet and returns the run's name once it is journaled.
func (a *Agent) Start(ctx context.Context, r api.RunRequest) (string, error) {
	p, err := a.load(r)
	if err != nil {
		return "", err
	}
	run := r.Run
	if run == "" {
		run = api.NewRunName(r.File)
	}
	if records, err := a.journal.Read(ctx, run); err != nil || len(records) > 0 {
		return "", cmp.Or(err, error(&scripting.UsageError{Text: fmt.Sprintf("run %s exists already: choose another name", run)}))
	}
	return run, a.begin(ctx, run, r.By, true, func(ctx context.Context, rr *scripting.Runner) (*scripting.Outcome, error) {
		return rr.Run(ctx, p, r.Params, run)
	})
}

// Plan plans a script or snippet.
func (a *Agent) Plan(ctx context.Context, r api.RunRequest) (api.PlanAnswer, error) {
	p, err := a.load(r)
	if err != nil {
		return api.PlanAnswer{}, err
	}
	plan, err := a.runner(r.By, nil).Plan(ctx, p, r.Params)
	if err != nil {
		return api.PlanAnswer{}, err
	}
	return api.PlanAnswer{Plan: plan, Text: plan.String()}, nil
}

// Resume takes up an interrupted run.
func (a *Agent) Resume(ctx context.Context, run, by string) error {
	return a.reopen(ctx, run, by, func(ctx context.Context, r *scripting.Runner) (*scripting.Outcome, error) { return r.Resume(ctx, run) })
}

// Rollback undoes a run.
func (a *Agent) Rollback(ctx context.Context, run, by string) error {
	return a.reopen(ctx, run, by, func(ctx context.Context, r *scripting.Runner) (*scripting.Outcome, error) {
		return r.Rollback(ctx, run)
	})
}

func (a *Agent) reopen(ctx context.Context, run, by string, do work) error {
	if _, err := a.runner(by, nil).Status(ctx, run); err != nil {
		return err // an unknown run
	}
	return a.begin(ctx, run, by, false, do)
}

// Runs lists all runs, oldest first.
func (a *Agent) Runs(ctx context.Context) ([]scripting.Status, error) {
	return a.runner("", nil).Runs(ctx)
}

// Status tells where a run stands.
func (a *Agent) Status(ctx context.Context, run string) (*scripting.Status, error) {
	return a.runner("", nil).Status(ctx, run)
}

func (a *Agent) runner(by string, events func(scripting.Event)) *scripting.Runner {
	return &scripting.Runner{Registry: a.registry, Journal: a.journal, By: by, Events: events}
}
