package conformance

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/internal/wire"
)

// clients are what this test's program can be: the library's own client, and
// clients with a mistake each.
func clients() map[string]func(context.Context, *slog.Logger) error {
	return map[string]func(context.Context, *slog.Logger) error{
		"good":      func(ctx context.Context, log *slog.Logger) error { return RunClient(ctx, os.Getenv, os.Stdout, log) },
		"obedient":  mistaken(obedient),
		"talkative": mistaken(talkative),
		"bare":      mistaken(bare),
		"sloppy":    mistaken(sloppy),
		"boastful":  boastful,
		"garrulous": garrulous,
		"short":     func(context.Context, *slog.Logger) error { return nil },
		"unwilling": unwilling,
	}
}

// faulty is a client of the library that does something beside it.
type faulty struct {
	Assignment
	nc    *nats.Conn
	c     *consumer.Consumer
	wires map[starferry.ClusterName]*wire.Cluster
}

// mistaken runs the library's client and a mistake beside it.
func mistaken(mistake func(context.Context, *faulty)) func(context.Context, *slog.Logger) error {
	return func(ctx context.Context, log *slog.Logger) error {
		f, err := newFaulty(ctx, log, true)
		if err != nil {
			return err
		}
		go mistake(ctx, f)
		<-ctx.Done()
		return shut(f.c)
	}
}

func newFaulty(ctx context.Context, log *slog.Logger, guided bool) (*faulty, error) {
	a, err := ReadAssignment(os.Getenv)
	if err != nil {
		return nil, err
	}
	f := &faulty{Assignment: a, wires: map[starferry.ClusterName]*wire.Cluster{}}
	if f.nc, err = nats.Connect(a.NATS); err != nil {
		return nil, err
	}
	for _, c := range a.Clusters {
		if f.wires[c.Name], err = wire.Open(c); err != nil {
			return nil, err
		}
	}
	nc := f.nc
	if !guided {
		nc = nil
	}
	f.c, err = a.open(ctx, nc, os.Stdout, log)
	return f, err
}

// commit commits what its own partitions have on a cluster, with other words.
func (f *faulty) commit(ctx context.Context, c starferry.ClusterName, metadata string) error {
	l, err := f.c.State(ctx)
	if err != nil {
		return err
	}
	m := on(l, c)
	if m == nil || len(m.Partitions) == 0 {
		return nil
	}
	got, err := f.wires[c].Committed(ctx, f.Group, m.Partitions)
	if err != nil {
		return err
	}
	com := wire.Commit{Group: f.Group, Member: m.Member, Generation: m.Generation, Offsets: map[starferry.TopicPartition]wire.Committed{}}
	for tp, was := range got {
		com.Offsets[tp] = wire.Committed{Offset: was.Offset, LeaderEpoch: -1, Metadata: metadata}
	}
	return f.wires[c].Commit(ctx, com)
}

// obedient obeys any order to drain, however old it is.
func obedient(ctx context.Context, f *faulty) {
	_, err := f.nc.Subscribe("$KV."+desired.DesiredBucket+"."+desired.EncodeKey(string(f.Group))+".placement", func(m *nats.Msg) {
		var p control.Placement
		l, err := f.c.State(ctx)
		if err != nil || json.Unmarshal(m.Data, &p) != nil || p.Phase != control.Drain || p.Epoch >= l.HomeEpoch {
			return
		}
		_ = f.commit(ctx, p.Active, control.Mark{State: control.Draining, Epoch: p.Epoch}.String())
	})
	if err != nil {
		panic(err)
	}
}

// talkative says once more that the group lives where it has left.
func talkative(ctx context.Context, f *faulty) {
	for {
		l, err := f.c.State(ctx)
		if err != nil {
			return
		}
		if l.Home == newName && f.commit(ctx, oldName, control.Mark{State: control.Home, Epoch: l.HomeEpoch}.String()) == nil {
			return
		}
		if !rest(ctx, 10*time.Millisecond) {
			return
		}
	}
}

// bare commits without a mark.
func bare(ctx context.Context, f *faulty) {
	for rest(ctx, 10*time.Millisecond) {
		_ = f.commit(ctx, oldName, "offsets of mine")
	}
}

// sloppy leaves out of its leases what it finds of no use.
func sloppy(ctx context.Context, f *faulty) {
	key := "$KV." + desired.LiveBucket + "." + desired.EncodeKey(string(f.Group)) + "." + desired.EncodeKey(string(f.Instance))
	for rest(ctx, 50*time.Millisecond) {
		l, err := f.c.State(ctx)
		if err != nil {
			return
		}
		text, err := json.Marshal(l)
		if err == nil {
			_ = f.nc.Publish(key, []byte(strings.Replace(string(text), `"boot":`, `"started":`, 1)))
		}
	}
}

// boastful knows of no settings and says that it keeps them.
func boastful(ctx context.Context, log *slog.Logger) error {
	f, err := newFaulty(ctx, log, false)
	if err != nil {
		return err
	}
	s, err := desired.Open(ctx, f.nc, desired.Options{})
	if err != nil {
		return err
	}
	for rest(ctx, 20*time.Millisecond) {
		l, err := f.c.State(ctx)
		if err != nil {
			return err
		}
		if _, rev, err := s.Settings(ctx, f.Group); err == nil {
			l.SettingsRevision = rev
		}
		_ = s.PutLease(ctx, l)
	}
	return shut(f.c)
}

// garrulous writes more than lines to standard output.
func garrulous(ctx context.Context, log *slog.Logger) error {
	if _, err := os.Stdout.WriteString("Welcome!\n"); err != nil {
		return err
	}
	return RunClient(ctx, os.Getenv, os.Stdout, log)
}

// unwilling ignores that it is asked to end in good order.
func unwilling(ctx context.Context, log *slog.Logger) error {
	err := RunClient(ctx, os.Getenv, os.Stdout, log)
	if err == nil {
		os.Exit(7)
	}
	return err
}
