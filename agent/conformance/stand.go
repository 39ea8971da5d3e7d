package conformance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/fleet"
	"github.com/starferry/starferry/internal/records"
	"github.com/starferry/starferry/internal/wire"
)

// partitions is how many a stand's topic has.
const partitions = 4

// stand is what one scenario has for itself. Its methods are for the scenario's
// goroutine, but where said.
type stand struct {
	g       *ground
	command []string
	name    string // of the scenario
	group   starferry.Group
	topic   starferry.Topic
	store   *desired.Store
	fleet   *fleet.Fleet
	patient time.Duration
	log     *slog.Logger

	ear    *ear
	all    []*instance // ever started
	wrote  [partitions]starferry.Offset
	blocks map[starferry.TopicPartition][]starferry.Offset // offsets on old of records that are never handled
	again  bool                                            // records are meant to be handled again

	placement control.Placement // by hand
	revision  uint64

	mu     sync.Mutex
	leases map[starferry.InstanceID]control.Lease

	closers []func()
}

// newStand prepares a stand; close ends it.
func newStand(ctx context.Context, g *ground, o Options, name string, log *slog.Logger) (s *stand, err error) {
	id := fmt.Sprintf("%s-%x", name, time.Now().UnixNano()&0xffffffff)
	s = &stand{g: g, command: o.Command, name: name, patient: o.Patience, log: log, group: starferry.Group("conformance-" + id), topic: starferry.Topic("conformance." + id),
		blocks: map[starferry.TopicPartition][]starferry.Offset{}, leases: map[starferry.InstanceID]control.Lease{}}
	if s.store, err = desired.Open(ctx, g.conn, desired.Options{Logger: log}); err != nil {
		return s, err
	}
	if s.fleet, err = fleet.Open(fleet.Config{Clusters: g.wires, Store: s.store, Copies: twin{s}, Logger: log}); err != nil {
		return s, err
	}
	for _, w := range g.wires {
		if err := w.CreateTopic(ctx, wire.TopicSpec{Topic: s.topic, Partitions: partitions, Replication: -1}); err != nil {
			return s, err
		}
	}
	s.closers = append(s.closers, s.cleanUp)
	for _, tp := range s.partitions() {
		if err := s.write(ctx, newName, tp, slices.Repeat([]string{"was here before"}, int(shift(tp.Partition)))); err != nil {
			return s, err
		}
	}
	schema, err := compile("lease")
	if err != nil {
		return s, err
	}
	s.ear = &ear{group: s.group, schema: schema}
	stop, err := s.ear.listen(g.conn)
	if err != nil {
		return s, err
	}
	s.closers = append(s.closers, stop, s.follow(ctx))
	return s, nil
}

// follow keeps the newest leases, until the returned function is called.
func (s *stand) follow(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := s.store.WatchLeases(ctx, s.group, func(ls []control.Lease, _ error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			clear(s.leases)
			for _, l := range ls {
				s.leases[l.Instance] = l
			}
		})
		if ctx.Err() == nil {
			s.log.Error("watch of leases ended", "error", err)
		}
	}()
	return func() { cancel(); <-done }
}

// close ends all processes, then all else.
func (s *stand) close() {
	for _, i := range s.all {
		if i.running() {
			i.kill()
		}
	}
	for i := len(s.closers) - 1; i >= 0; i-- {
		s.closers[i]()
	}
}

// cleanUp removes the topics: the clusters may be somebody's.
func (s *stand) cleanUp() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for name, w := range s.g.wires {
		if err := w.DeleteTopics(ctx, s.topic, starferry.Topic(s.group)+".skipped"); err != nil && !errors.Is(err, kafka.UnknownTopicOrPartition) {
			s.log.Debug("remove topics", "cluster", name, "error", err)
		}
	}
}

func (s *stand) partitions() []starferry.TopicPartition {
	var tps []starferry.TopicPartition
	for p := range starferry.Partition(partitions) {
		tps = append(tps, s.tp(p))
	}
	return tps
}

func (s *stand) tp(p starferry.Partition) starferry.TopicPartition {
	return starferry.TopicPartition{Topic: s.topic, Partition: p}
}

// start starts an instance.
func (s *stand) start(name starferry.InstanceID) (*instance, error) {
	i, err := launch(s.command, Assignment{
		NATS: s.g.nats, Group: s.group, Topics: []starferry.Topic{s.topic}, Instance: name, Clusters: s.g.clusters, Home: oldName,
		Session: s.g.session, Heartbeat: s.g.session / 10, Rebalance: 2 * s.g.session, Commit: 50 * time.Millisecond,
	})
	if err != nil {
		return nil, err
	}
	s.all = append(s.all, i)
	return i, nil
}

// write puts values into a partition, one batch.
func (s *stand) write(ctx context.Context, c starferry.ClusterName, tp starferry.TopicPartition, values []string) error {
	var rs []records.Record
	for n, v := range values {
		rs = append(rs, records.Record{Timestamp: time.Now().UnixMilli(), Key: fmt.Appendf(nil, "k%d", n%5), Value: []byte(v)})
	}
	w := s.g.wires[c]
	for {
		_, err := w.Produce(ctx, tp, records.Encode(rs))
		if !errors.Is(err, kafka.NotLeaderForPartition) && !errors.Is(err, kafka.UnknownTopicOrPartition) {
			return err
		}
		w.Forget(tp.Topic) // a new topic's leader may still be finding itself
		if !rest(ctx, 20*time.Millisecond) {
			return err
		}
	}
}

// produce writes n records to every partition, to both clusters.
func (s *stand) produce(ctx context.Context, n int) error {
	for _, tp := range s.partitions() {
		if err := s.both(ctx, tp, slices.Repeat([]string{"record"}, n)); err != nil {
			return err
		}
	}
	return nil
}

func (s *stand) both(ctx context.Context, tp starferry.TopicPartition, values []string) error {
	for _, c := range []starferry.ClusterName{oldName, newName} {
		if err := s.write(ctx, c, tp, values); err != nil {
			return err
		}
	}
	for i, v := range values {
		if v == block {
			s.blocks[tp] = append(s.blocks[tp], s.wrote[tp.Partition]+starferry.Offset(i))
		}
	}
	s.wrote[tp.Partition] += starferry.Offset(len(values))
	return nil
}

// traffic produces all the time, while f runs.
func (s *stand) traffic(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	quit := make(chan struct{})
	go func() {
		for {
			select {
			case <-quit:
				done <- nil
				return
			case <-time.After(10 * time.Millisecond):
			}
			if err := s.produce(ctx, 1); err != nil {
				done <- err
				return
			}
		}
	}()
	err := f()
	close(quit)
	return errors.Join(err, <-done)
}

// live are the newest leases. It may be called by any goroutine.
func (s *stand) live() map[starferry.InstanceID]control.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[starferry.InstanceID]control.Lease, len(s.leases))
	for k, v := range s.leases {
		out[k] = v
	}
	return out
}

// mark is one commit.
type mark struct {
	control.Mark
	offset starferry.Offset
}

// marks are the commits of the group on a cluster. What is no mark is Unmet.
func (s *stand) marks(ctx context.Context, c starferry.ClusterName) (map[starferry.TopicPartition]mark, error) {
	got, err := s.g.wires[c].Committed(ctx, s.group, nil)
	if err != nil {
		return nil, err
	}
	out := map[starferry.TopicPartition]mark{}
	for tp, com := range got {
		m, err := control.ParseMark(com.Metadata)
		if err != nil {
			return nil, s.unmet("3", "every commit to bear a mark", fmt.Sprintf("%s on %s at %d with metadata %q: %v", tp, c, com.Offset, com.Metadata, err))
		}
		out[tp] = mark{m, com.Offset}
	}
	return out, nil
}
