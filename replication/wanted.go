package replication

import "slices"

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
	if !was.follows(next) {
		c.mu.Unlock()
		return false
	}
	c.now = next
	if was.Attempt != next.Attempt {
		clear(c.ids)
		clear(c.missing)
	}
	var rs []*running
	for _, r := range c.buckets {
		rs = append(rs, r)
	}
	c.mu.Unlock()
	for _, r := range rs {
		if was.Paused != next.Paused || was.Attempt != next.Attempt && r.stopped() {
			r.bump(errLanes)
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

// stopped reports whether a lane of the bucket has stopped.
func (b *bucket) stopped() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.lanes {
		if l.status().State == Stopped {
			return true
		}
	}
	return false
}

// clean lets go of the lanes that are not the link's any more, and of those that
// have stopped and are to be tried again. Nothing of the bucket runs.
func (b *bucket) clean(spec LinkSpec) {
	for tp, l := range b.lanes {
		if !spec.has(tp.Topic) || l.status().State == Stopped && l.attempt != spec.Attempt {
			l.close()
			delete(b.lanes, tp)
		}
	}
}
