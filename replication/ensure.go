package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

// Ensured is what Ensure did.
type Ensured struct {
	LinkStatus
	Created bool              // the request made the link
	Added   []starferry.Topic // the topics it added, all of them if it made the link
}

// Ensure makes a link, or adds topics to it: it creates the target topics,
// writes the spec and returns when every lane is owned and past its recovery.
// It does not wait for the copy. Without a name it is [starferry.LinkBetween]. A
// repeated request with the same token says
// the same again. Lanes that have stopped are tried once more; a link that is
// paused stays so.
func (c *Client) Ensure(ctx context.Context, want LinkSpec) (Ensured, error) {
	want.Name = cmp.Or(want.Name, starferry.LinkBetween(want.Source, want.Target))
	if err := want.Check(); err != nil {
		return Ensured{}, fmt.Errorf("ensure %w", err)
	}
	src, err := c.cluster(want.Source)
	if err != nil {
		return Ensured{}, fmt.Errorf("ensure link %s: %w", want.Name, err)
	}
	tgt, err := c.cluster(want.Target)
	if err != nil {
		return Ensured{}, fmt.Errorf("ensure link %s: %w", want.Name, err)
	}
	others, err := c.Links(ctx)
	if err == nil {
		want, err = want.expand(ctx, src, others)
	}
	if err == nil {
		err = want.admitted(others)
	}
	if err == nil && len(want.Topics) > 0 {
		err = makeTopics(ctx, src, tgt, want)
	}
	if err != nil {
		return Ensured{}, fmt.Errorf("ensure link %s: %w", want.Name, err)
	}
	spec, err := c.put(ctx, src, want)
	if err != nil {
		return Ensured{}, fmt.Errorf("ensure link %s: %w", want.Name, err)
	}
	out := Ensured{Created: spec.AddedBy[""] == want.Token && (want.Token != "" || spec.made)}
	for _, t := range spec.Topics {
		if by, ok := spec.AddedBy[t]; ok && by == want.by(t) && (want.Token != "" || spec.fresh[t]) {
			out.Added = append(out.Added, t)
		}
	}
	out.LinkStatus, err = c.ready(ctx, spec)
	return out, err
}

// admitted refuses what contradicts the links that are there, before topics are
// made for it.
func (s LinkSpec) admitted(others []LinkSpec) error {
	for _, have := range others {
		if have.Name == s.Name {
			if err := have.admits(s); err != nil {
				return err
			}
		}
	}
	return ring(others, s)
}

// admits reports why a link cannot be widened to what is wanted.
func (s LinkSpec) admits(want LinkSpec) error {
	if s.Source != want.Source || s.Target != want.Target {
		return fmt.Errorf("it leads from %s to %s already; choose another name", s.Source, s.Target)
	}
	if err := s.differs(want); err != nil {
		return err
	}
	return s.contradicts(want)
}

// put writes the spec by compare-and-set.
func (c *Client) put(ctx context.Context, src *wire.Cluster, want LinkSpec) (LinkSpec, error) {
	st, err := c.open(ctx)
	if err != nil {
		return want, err
	}
	for {
		have, err := st.Link(ctx, want.Name)
		made := errors.Is(err, errNoLink)
		if err != nil && !made {
			return want, err
		}
		next, err := c.widen(ctx, src, have, want, made)
		if err != nil || next.Revision != 0 && !next.changed {
			return next, err
		}
		next.Revision, err = st.PutLink(ctx, next)
		if !errors.Is(err, errChanged) {
			return next, err
		}
	}
}

// widen says what the spec has to be so that it covers what is wanted.
func (c *Client) widen(ctx context.Context, src *wire.Cluster, have, want LinkSpec, made bool) (LinkSpec, error) {
	if made {
		next := want.normal()
		next.Made = time.Now().UnixMilli()
		next.AddedBy = map[starferry.Topic]string{"": want.Token}
		next.made, next.changed, next.fresh = true, true, map[starferry.Topic]bool{}
		for _, t := range next.Topics {
			next.AddedBy[t], next.fresh[t] = want.by(t), true
		}
		next.Begin, next.Ends = nil, nil
		return next, next.resolve(ctx, src, want, next.Topics)
	}
	if err := have.admits(want); err != nil {
		return have, err
	}
	next := have
	next.AddedBy = maps.Clone(have.AddedBy)
	if next.AddedBy == nil {
		next.AddedBy = map[starferry.Topic]string{}
	}
	next.fresh = map[starferry.Topic]bool{}
	next.Topics = slices.Clone(have.Topics)
	for _, t := range want.Topics {
		if !have.has(t) && !next.fresh[t] {
			next.Topics = append(next.Topics, t)
			next.AddedBy[t], next.fresh[t] = want.by(t), true
			next.changed = true
		}
	}
	for _, p := range want.Patterns {
		if !slices.Contains(next.Patterns, p) {
			next.Patterns, next.changed = append(slices.Clone(next.Patterns), p), true
		}
	}
	if loss := want.plain().OnLoss; loss != have.OnLoss {
		next.OnLoss, next.changed = loss, true
	}
	if want.RateRecords != have.RateRecords {
		next.RateRecords, next.changed = want.RateRecords, true
	}
	if want.RateBytes != have.RateBytes {
		next.RateBytes, next.changed = want.RateBytes, true
	}
	if want.VerifyBytes != have.VerifyBytes {
		next.VerifyBytes, next.changed = want.VerifyBytes, true
	}
	if status, err := c.Status(ctx, have.Name); err == nil {
		if status.denied != "" || slices.ContainsFunc(status.Lanes, func(l LaneStatus) bool { return l.State == Stopped }) {
			next.Attempt++
			next.changed = true
		}
	}
	if err := next.Check(); err != nil {
		return have, err
	}
	if err := next.resolve(ctx, src, want, slices.Collect(maps.Keys(next.fresh))); err != nil {
		return have, err
	}
	return next.normal(), nil
}

// ready waits until every lane copies, or one of them has stopped.
func (c *Client) ready(ctx context.Context, spec LinkSpec) (LinkStatus, error) {
	var last LinkStatus
	for {
		status, err := c.Status(ctx, spec.Name)
		if err == nil {
			last = status
			state, reason := status.State()
			if status.denied != "" && status.seen >= spec.Revision {
				return status, fmt.Errorf("link %s was written, and cannot be copied: %s; then ask for it again", spec.Name, status.denied)
			}
			if status.seen >= spec.Revision && (len(status.Lanes) > 0 || len(spec.Topics) == 0) {
				switch state {
				case Copying, Stalled, Paused, Done:
					return status, nil
				case Stopped:
					return status, fmt.Errorf("link %s: lane %s", spec.Name, reason)
				}
			}
			err = fmt.Errorf("%s: %s", state, reason)
		}
		if wait(ctx, 50*time.Millisecond) != nil {
			return last, fmt.Errorf("link %s was written, and is not ready: %w (%w); are shards running?", spec.Name, err, ctx.Err())
		}
	}
}
