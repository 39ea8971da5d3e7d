package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/switchover"
	"github.com/starferry/starferry/internal/wire"
)

// delayLimit bounds a measurement of the copy's delay.
const delayLimit = time.Second

// readTimeout bounds one read; a barrier asks again.
const readTimeout = 5 * time.Second

// reader runs the reads of one Ask at the same time.
type reader struct {
	wg  sync.WaitGroup
	mu  sync.Mutex
	ans switchover.Answers
}

// start runs one read. What it returns is applied under the lock.
func (r *reader) start(what string, read func() (func(), error)) {
	r.wg.Go(func() {
		apply, err := read()
		r.mu.Lock()
		defer r.mu.Unlock()
		if err != nil {
			r.ans.Failed = append(r.ans.Failed, fmt.Sprintf("%s: %v", what, err))
			return
		}
		apply()
	})
}

// answer carries out an Ask, everything in parallel.
func (s *run) answer(ctx context.Context, a switchover.Ask) switchover.Answers {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	r := &reader{ans: switchover.Answers{Round: a.Round,
		Groups: map[starferry.ClusterName]switchover.GroupSeen{}, Commits: map[starferry.ClusterName]switchover.Found{}}}
	for _, c := range a.Describe {
		r.start(fmt.Sprintf("describe the group on %s", c), func() (func(), error) {
			g, err := s.f.describe(ctx, c, s.o.Group)
			return func() { r.ans.Groups[c] = g }, err
		})
	}
	for _, c := range a.Commits {
		r.start(fmt.Sprintf("read commits on %s", c), func() (func(), error) {
			found, err := s.f.found(ctx, c, s.o.Group)
			return func() { r.ans.Commits[c] = found }, err
		})
	}
	if a.Link != nil {
		r.start(fmt.Sprintf("look at link %s", s.o.Link), func() (func(), error) {
			h, err := s.f.c.Copies.Health(ctx, s.o.Link, a.Link)
			return func() { r.ans.Link = &switchover.LinkSeen{Lag: h.Lag, Stopped: h.Stopped} }, err
		})
	}
	if a.Translate != nil {
		r.start("translate the cut", func() (func(), error) {
			var wait time.Duration
			if a.Wait {
				wait = readTimeout - time.Second
			}
			t, err := s.f.c.Copies.Translate(ctx, s.o.Link, s.dir, a.Translate, wait)
			return func() { r.ans.Translate = &t }, err
		})
	}
	if len(a.Delay) > 0 {
		r.start("measure the copy", func() (func(), error) {
			d, err := s.delay(ctx, a.Delay)
			return func() { r.ans.DelayMS = d.Milliseconds() }, err
		})
	}
	if a.Skips {
		r.start("carry the skips over", func() (func(), error) {
			return func() {}, s.carrySkips(ctx, a.Translate)
		})
	}
	r.wg.Wait()
	return r.ans
}

// delay is how long the copy takes to pass where partitions of the source end
// now. It is a measure of time, which a lag in records is not.
func (s *run) delay(ctx context.Context, tps []starferry.TopicPartition) (time.Duration, error) {
	w, err := s.f.cluster(s.o.Source)
	if err != nil {
		return 0, err
	}
	ends, err := w.Offsets(ctx, tps, wire.LatestStable)
	if err != nil {
		return 0, err
	}
	cut := make(starferry.Cut, len(ends))
	for tp, end := range ends {
		cut[tp] = starferry.Place{Next: end}
	}
	began := s.f.c.Now()
	_, err = s.f.c.Copies.Translate(ctx, s.o.Link, s.dir, cut, delayLimit)
	return s.f.c.Now().Sub(began), err
}

// describe asks a coordinator about a group. A group that it does not know is
// one without members.
func (f *Fleet) describe(ctx context.Context, c starferry.ClusterName, g starferry.Group) (switchover.GroupSeen, error) {
	w, err := f.cluster(c)
	if err != nil {
		return switchover.GroupSeen{}, err
	}
	d, err := w.AnyGroup(ctx, g)
	if errors.Is(err, kafka.GroupIdNotFound) {
		return switchover.GroupSeen{State: "Dead"}, nil
	}
	if err != nil {
		return switchover.GroupSeen{}, err
	}
	seen := switchover.GroupSeen{State: d.State, ProtocolType: d.ProtocolType, Protocol: d.Protocol}
	if d.ProtocolType == fenceType && len(d.Members) == 0 {
		seen.ProtocolType = "" // a lifted fence: brokers keep the type until somebody joins, of whatever type
	}
	for _, m := range d.Members {
		boot, ours := control.ReadUserData(m.UserData)
		seen.Members = append(seen.Members, switchover.MemberSeen{ID: m.ID, Client: m.ClientID, Host: m.Host, Library: ours, Boot: boot, Static: m.InstanceID})
	}
	return seen, nil
}

// found reads what the commits of a group say on a cluster.
func (f *Fleet) found(ctx context.Context, c starferry.ClusterName, g starferry.Group) (switchover.Found, error) {
	w, err := f.cluster(c)
	if err != nil {
		return nil, err
	}
	commits, err := w.Committed(ctx, g, nil)
	if err != nil {
		return nil, err
	}
	return parse(commits)
}

func parse(commits map[starferry.TopicPartition]wire.Committed) (switchover.Found, error) {
	found := make(switchover.Found, len(commits))
	for tp, c := range commits {
		mark, err := control.ParseMark(c.Metadata)
		switch {
		case err == nil:
			found[tp] = switchover.FoundCommit{Offset: c.Offset, Mark: &mark}
		case errors.Is(err, control.ErrForeign):
			found[tp] = switchover.FoundCommit{Offset: c.Offset}
		default:
			return nil, fmt.Errorf("%s: %w", tp, err)
		}
	}
	return found, nil
}
