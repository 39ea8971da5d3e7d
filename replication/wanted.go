package replication

import (
	"errors"
	"maps"
	"slices"
)

// wanted is the spec as it is wanted now. Its topics, and whether the link is
// paused, change while the copier runs; what c.spec says besides does not.
func (c *copier) wanted() LinkSpec {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// update goes over to a later spec. It is false if that takes a new copier.
func (c *copier) update(next LinkSpec) bool {
	c.mu.Lock()
	was := c.now
	if was.Revision == next.Revision && was.Made == next.Made {
		c.mu.Unlock()
		return true
	}
	if !was.follows(next) {
		c.mu.Unlock()
		return false
	}
	c.now = next
	if was.Attempt != next.Attempt {
		clear(c.ids)
		clear(c.missing)
	}
	c.paused.Store(next.Paused)
	c.mu.Unlock()
	c.limits.set(next.RateBytes, next.RateRecords)
	if was.Paused != next.Paused {
		for _, l := range c.all() {
			l.turn(next.Paused)
		}
	}
	if was.Attempt != next.Attempt {
		for _, r := range c.running() {
			r.look()
		}
	}
	if !slices.Equal(was.Topics, next.Topics) || was.Attempt != next.Attempt {
		select {
		case c.look <- struct{}{}:
		default:
		}
	}
	return true
}

// running are the buckets that this shard owns now.
func (c *copier) running() []*running {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(c.buckets))
}

// turn takes a lane that copies out of it, or one that rests back to it, by way
// of reading it back. One that is being read back finds out at its end.
func (l *lane) turn(paused bool) {
	l.mu.Lock()
	turned := paused && l.active || !paused && l.state == Paused
	if turned {
		l.haltLocked(Recovering, "")
	}
	l.mu.Unlock()
	if turned {
		l.bucket.refence(l, errTurned)
	}
}

var errTurned = errors.New("the link was paused or resumed")

// restLocked leaves a recovered lane as it is: nothing is copied, and the map
// answers.
func (l *lane) restLocked(s LaneState, reason string) {
	l.haltLocked(s, reason)
	l.wake()
}

// clean lets go of the lanes that are not the link's any more, and of those that
// have stopped and are to be tried again. It is called with the bucket locked.
func (b *bucket) clean(spec LinkSpec) {
	for tp, l := range b.lanes {
		if !spec.has(tp.Topic) || l.status().State == Stopped && l.attempt != spec.Attempt {
			l.close()
			delete(b.lanes, tp)
		}
	}
}
