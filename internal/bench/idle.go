package bench

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent/embednats"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/internal/process"
)

// IdleCommand as the first argument of a program makes it an instance that has
// nothing to do; see ServeIdle.
const IdleCommand = "idle-instance"

// Times of the idle instance.
const (
	idleWarm = 5 * time.Second
	idleFor  = 10 * time.Second
)

const idleTopic = starferry.Topic("idle")

// ServeIdle is an instance of a service that nobody sends anything, until it is
// told to end.
func ServeIdle(broker, natsURL string) error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	nc, err := nats.Connect(natsURL)
	if err != nil {
		return err
	}
	defer nc.Close()
	c, err := consumer.Open(ctx, consumer.Config{
		Group: "idle", Topics: []starferry.Topic{idleTopic}, Start: consumer.Earliest, NATS: nc,
		Clusters: []starferry.Cluster{{Name: "old", Brokers: []string{broker}}},
	}, func(context.Context, consumer.Record) error { return nil })
	if err != nil {
		return err
	}
	<-ctx.Done()
	late, end := context.WithTimeout(context.Background(), closeWithin)
	defer end()
	return c.Close(late)
}

// idle is the processor time of an instance in a process of its own that holds
// as many partitions as the switched group has and gets no records, milliseconds
// a second.
func (b *bench) idle(ctx context.Context, dir string, p *pair) (_ float64, err error) {
	server, err := embednats.Open(embednats.Options{Dir: filepath.Join(dir, "nats"), Listen: "127.0.0.1:0"})
	if err != nil {
		return 0, err
	}
	defer server.Close()
	l := Load{Topic: idleTopic, Partitions: switchPartitions}
	if err := l.Make(ctx, p.source.cluster); err != nil {
		return 0, err
	}
	proc, err := b.processes.Start(process.Spec{Name: "idle", Path: b.Relay, Args: []string{IdleCommand, p.source.address, server.URL()}})
	if err != nil {
		return 0, err
	}
	defer proc.Stop()
	var at [2]time.Duration
	for i, wait := range []time.Duration{idleWarm, time.Duration(b.sized(int(idleFor), int(time.Second)))} {
		select {
		case <-proc.Done():
			return 0, fmt.Errorf("the idle instance ended; it said:\n%s", proc.Tail())
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(wait):
		}
		if at[i], err = proc.CPU(); err != nil {
			return 0, err
		}
	}
	group, err := p.source.cluster.DescribeGroup(ctx, "idle")
	if err == nil && len(group.Members) != 1 {
		err = errors.New("it never joined its group")
	}
	return ms(at[1]-at[0]) / (time.Duration(b.sized(int(idleFor), int(time.Second)))).Seconds(), err
}
