package chaos

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/internal/chaos/checker"
	"github.com/starferry/starferry/internal/estate"
)

// ear hears how acts go on, and reads overflow topics before they are deleted.
type ear struct {
	w *World
	c *crew

	mu      sync.Mutex
	now     map[string]string // the last phase of each kind of act, since it was expected
	changed chan struct{}
	// Where the group stood when a redistribution was asked for, or earlier.
	from      map[starferry.ClusterName]map[starferry.TopicPartition]starferry.Offset
	stretches map[string]*checker.Stretch // by the id of the redistribution
	spilled   map[starferry.ClusterName]map[checker.ID]checker.Spill
}

// listen starts to. It ends with the world.
func (w *World) listen(ctx context.Context, c *crew) (*ear, error) {
	e := &ear{w: w, c: c, now: map[string]string{}, changed: make(chan struct{}), from: map[starferry.ClusterName]map[starferry.TopicPartition]starferry.Offset{},
		stretches: map[string]*checker.Stretch{}, spilled: map[starferry.ClusterName]map[checker.ID]checker.Spill{}}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var all sync.WaitGroup
	w.OnClose(func() { cancel(); all.Wait() })
	all.Go(func() { _ = w.store.WatchGroup(ctx, c.group, e.group) }) // it ends with ctx
	all.Go(func() {
		_ = w.store.Producing().Watch(ctx, c.lanes[0].Topic, func(p *control.TopicPlacement, _ uint64, err error) {
			if err == nil && p != nil {
				e.hear(moves, string(p.Phase))
			}
		})
	})
	for i, name := range []starferry.ClusterName{estate.Old, estate.New} {
		e.spilled[name] = map[checker.ID]checker.Spill{}
		client, err := kgo.NewClient(kgo.SeedBrokers(w.Addresses[i]), kgo.ConsumeRegex(), kgo.ConsumeTopics("^"+string(c.group)+`\.overflow-.*`),
			kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond),
			kgo.MetadataMinAge(50*time.Millisecond), kgo.MetadataMaxAge(150*time.Millisecond), kgo.ClientID("chaos-overflow"))
		if err != nil {
			return nil, fmt.Errorf("read the overflow on %s: %w", name, err)
		}
		all.Go(func() {
			defer client.Close()
			for ctx.Err() == nil {
				client.PollFetches(ctx).EachRecord(func(r *kgo.Record) { e.spill(name, r) })
			}
		})
	}
	return e, nil
}

// group hears of a change.
func (e *ear) group(u desired.Update) {
	if u.Placement != nil {
		e.hear(switches, string(u.Placement.Phase))
	}
	if u.Settings == nil || u.Settings.Overflow == nil {
		return
	}
	o := u.Settings.Overflow
	e.mu.Lock()
	s := e.stretches[o.ID]
	if s == nil {
		s = &checker.Stretch{Cluster: o.Cluster, TopicPartition: o.Partition, Loose: o.Order == control.NoOrder, Range: starferry.Range{From: e.from[o.Cluster][o.Partition]}}
		e.stretches[o.ID] = s
	}
	s.To = max(s.To, o.Until)
	e.mu.Unlock()
	e.hear(redistributes, string(o.Phase))
}

func (e *ear) spill(name starferry.ClusterName, r *kgo.Record) {
	id, err := strconv.ParseInt(string(r.Value), 10, 64)
	if err != nil {
		return // the checker misses it where it matters
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.spilled[name][checker.ID(id)] = checker.Spill{Offset: starferry.Offset(r.Offset),
		TopicPartition: starferry.TopicPartition{Topic: starferry.Topic(r.Topic), Partition: starferry.Partition(r.Partition)}}
}

// heard is what was redistributed, and where to.
func (e *ear) heard() (all []checker.Stretch, spilled map[starferry.ClusterName]map[checker.ID]checker.Spill) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.stretches {
		all = append(all, *s)
	}
	spilled = map[starferry.ClusterName]map[checker.ID]checker.Spill{}
	for name, m := range e.spilled {
		spilled[name] = maps.Clone(m)
	}
	return all, spilled
}

// expect forgets what was heard of earlier acts of a kind.
func (e *ear) expect(kind string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.now, kind)
}

// expectFrom notes where the group stands before a redistribution; on both
// clusters, since a switch may come in between.
func (e *ear) expectFrom(ctx context.Context) error {
	for name, reader := range e.w.readers {
		commits, err := reader.Committed(ctx, e.c.group)
		if err != nil {
			return err
		}
		e.mu.Lock()
		e.from[name] = commits
		e.mu.Unlock()
	}
	return nil
}

func (e *ear) hear(kind, phase string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.now[kind] = phase
	close(e.changed)
	e.changed = make(chan struct{})
}

// reach waits until an act has begun, and has come to a phase; false if it ended
// before.
func (e *ear) reach(ctx context.Context, a *act, phase string) bool {
	select {
	case <-ctx.Done():
		return false
	case <-a.over:
		return false
	case <-a.begun:
	}
	for phase != "" {
		e.mu.Lock()
		now, changed := e.now[a.kind], e.changed
		e.mu.Unlock()
		// Phases that follow each other fast may be seen as one.
		if slices.Index(a.phases, now) >= slices.Index(a.phases, phase) {
			break
		}
		select {
		case <-ctx.Done():
			return false
		case <-a.over:
			return false
		case <-changed:
		}
	}
	return true
}

// topics lists the topics of a cluster whose names begin so.
func (r *Reader) topics(ctx context.Context, prefix string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req := kmsg.NewPtrMetadataRequest() // without topics: all
	resp, err := req.RequestWith(ctx, r.client)
	if err != nil {
		return nil, fmt.Errorf("list the topics of %s: %w", r.name, err)
	}
	var found []string
	for _, t := range resp.Topics {
		if t.Topic != nil && strings.HasPrefix(*t.Topic, prefix) && t.ErrorCode == 0 {
			found = append(found, *t.Topic)
		}
	}
	return found, nil
}

// owner is the instance that owns the partition on which the hand is laid; the
// first if nobody says so.
func (t *trial) owner(ctx context.Context) string {
	leases, err := t.w.store.Leases(ctx, t.crews[0].group)
	if err == nil {
		for _, l := range leases {
			for _, p := range l.Partitions {
				if p.Partition == t.lane && p.Cluster == l.Home && slices.Contains(t.crews[0].instances, string(l.Instance)) {
					return string(l.Instance)
				}
			}
		}
	}
	return t.crews[0].instances[0]
}
