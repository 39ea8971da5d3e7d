package chaos

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/internal/chaos/ground"
)

// ServiceOptions describe one process of the service.
type ServiceOptions struct {
	Group    starferry.Group
	Topics   []starferry.Topic
	Clusters []starferry.Cluster // the first is the group's home to begin with
	NATS     string
	Instance starferry.InstanceID
	Out      string // file that gets a line for each record handled
	// Session is the group membership's session timeout: short, so that a
	// killed process is missed soon.
	Session time.Duration
	// Early plants a bug: a record counts as handled, and is committed, some
	// time before it is.
	Early time.Duration
	Work  time.Duration // a record takes
	Log   *slog.Logger
}

// RunService handles records until ctx ends: handling is writing the line.
func RunService(ctx context.Context, o ServiceOptions) error {
	out, err := os.OpenFile(o.Out, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("service: %w", err)
	}
	defer out.Close()
	conn, err := nats.Connect(o.NATS, nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true), nats.ReconnectWait(200*time.Millisecond))
	if err != nil {
		return fmt.Errorf("service: %w", err)
	}
	defer conn.Close()
	write := func(ctx context.Context, r consumer.Record) error {
		ground.Pause(ctx, o.Work)
		// One write each, so that a kill leaves whole lines.
		_, err := fmt.Fprintf(out, "%d %s %d %d %s %s %s\n", time.Now().UnixNano(), r.Topic, r.Partition, r.Offset, r.Key, r.Value, r.Cluster)
		return err
	}
	handle := write
	if o.Early > 0 {
		late := newProcrastinator(write, o.Early)
		defer late.close()
		handle = late.handle
	}
	c, err := consumer.Open(ctx, consumer.Config{
		Group: o.Group, Topics: o.Topics, Clusters: o.Clusters, Home: o.Clusters[0].Name, NATS: conn, Instance: o.Instance,
		Start: consumer.Earliest, SessionTimeout: o.Session, DrainDeadline: DrainDeadline, Logger: o.Log,
		// The in-process Kafka waits this long, not the session, for a member that
		// died between its join and its sync.
		RebalanceTimeout: 2 * o.Session,
	}, handle)
	if err != nil {
		return fmt.Errorf("service: %w", err)
	}
	<-ctx.Done()
	bounded, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return c.Close(bounded)
}

// procrastinator says at once that it has handled a record, and does so later.
type procrastinator struct {
	do    consumer.Handler
	delay time.Duration
	queue chan promised
	work  sync.WaitGroup
}

type promised struct {
	record consumer.Record
	due    time.Time
}

func newProcrastinator(do consumer.Handler, delay time.Duration) *procrastinator {
	p := &procrastinator{do: do, delay: delay, queue: make(chan promised, 100_000)}
	p.work.Go(func() {
		for w := range p.queue {
			time.Sleep(time.Until(w.due))
			// The bug is the point: whoever promised is long gone.
			_ = p.do(context.Background(), w.record)
		}
	})
	return p
}

func (p *procrastinator) handle(ctx context.Context, r consumer.Record) error {
	r.Key, r.Value = append([]byte(nil), r.Key...), append([]byte(nil), r.Value...)
	select {
	case p.queue <- promised{r, time.Now().Add(p.delay)}:
		return nil
	case <-ctx.Done():
		return errors.New("the queue is full")
	}
}

func (p *procrastinator) close() { close(p.queue); p.work.Wait() }

// DrainDeadline is how long a drained instance waits for a word of the agent.
const DrainDeadline = 5 * time.Second
