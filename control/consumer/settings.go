package consumer

import (
	"context"
	"maps"
	"math"
	"time"

	"golang.org/x/time/rate"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// settings are the operator's wishes, and what of them counts now: neither what
// has ended, nor what is meant for another cluster or epoch.
type settings struct {
	revision uint64
	wish     control.Settings

	throttle  *control.Throttle
	throttles map[starferry.TopicPartition]control.Throttle
	skips     []control.Skip
	holds     []control.Hold
	rewinds   []control.Rewind
	ends      int64 // when some of it ends, Unix milliseconds; 0: nothing does
}

// inForce is what counts of the wishes at a time, for an instance that lives at
// an epoch.
func inForce(wish control.Settings, revision uint64, epoch starferry.Epoch, now time.Time) *settings {
	s := &settings{revision: revision, wish: wish, skips: wish.Skips, ends: math.MaxInt64}
	counts := func(until int64) bool {
		if until == 0 {
			return true
		}
		if until > now.UnixMilli() {
			s.ends = min(s.ends, until)
			return true
		}
		return false
	}
	if t := wish.Throttle; t != nil && counts(t.Until) {
		s.throttle = t
	}
	s.throttles = maps.Clone(wish.Throttles)
	maps.DeleteFunc(s.throttles, func(_ starferry.TopicPartition, t control.Throttle) bool { return !counts(t.Until) })
	for _, h := range wish.Holds {
		if counts(h.Until) {
			s.holds = append(s.holds, h)
		}
	}
	for _, r := range wish.Rewinds {
		if r.Epoch == epoch && counts(r.Until) {
			s.rewinds = append(s.rewinds, r)
		}
	}
	if s.ends == math.MaxInt64 {
		s.ends = 0
	}
	return s
}

// adopt puts settings in force. It runs on the loop.
func (c *Consumer) adopt(v control.Settings, revision uint64) {
	was := c.settings.Load()
	if was.revision == revision && c.started {
		return
	}
	v.Overflow = c.overflowOf(v)
	c.settings.Store(&settings{revision: revision, wish: v})
	c.resubscribe(was.wish.Overflow, v.Overflow)
	c.enforce()
	c.reposition()
	c.publish()
}

// enforce makes what counts now felt. It runs on the loop.
func (c *Consumer) enforce() {
	was := c.settings.Load()
	c.settings.Store(inForce(was.wish, was.revision, c.machine.Lease().HomeEpoch, time.Now()))
	own, every := c.machine.Partitions(c.machine.Home())
	c.limit(len(own), len(every))
	for _, s := range []*session{c.session, c.next} {
		if s == nil {
			continue
		}
		for _, p := range s.list() {
			p.retune()
			p.interrupt()
		}
	}
}

// expire ends what has ended. It runs on the loop.
func (c *Consumer) expire() {
	if ends := c.settings.Load().ends; ends != 0 && time.Now().UnixMilli() >= ends {
		c.enforce()
		c.publish()
	}
}

// skipping reports whether anything is to be passed over anywhere.
func (c *Consumer) skipping() bool { return len(c.settings.Load().skips) > 0 }

// skips returns the skip that a record is to be passed over by; nil: none.
func (c *Consumer) skips(cluster starferry.ClusterName, tp starferry.TopicPartition, o starferry.Offset) *control.Skip {
	all := c.settings.Load().skips
	for i := range all {
		if s := &all[i]; s.Cluster == cluster && s.Partition == tp && s.Range.Contains(o) {
			return s
		}
	}
	return nil
}

// limit takes this instance's share of the group's rate.
func (c *Consumer) limit(own, every int) {
	t := c.settings.Load().throttle
	if t == nil || t.Rate <= 0 || every == 0 {
		c.limited.Store(false)
		c.limiter.SetLimit(rate.Inf)
		return
	}
	share := t.Rate * float64(own) / float64(every)
	c.limited.Store(true)
	setRate(c.limiter, share)
}

// setRate allows perSecond records, at most 50 ms of them at once.
func setRate(l *rate.Limiter, perSecond float64) {
	now := time.Now()
	l.SetLimitAt(now, rate.Limit(perSecond))
	l.SetBurstAt(now, max(1, int(perSecond/20)))
}

// admit waits until the rate allows n more records. It asks again and again
// instead of booking a place, so that a new rate counts at once.
func (c *Consumer) admit(ctx context.Context, n int) bool {
	return !c.limited.Load() || allow(ctx, c.limiter, n)
}

func allow(ctx context.Context, l *rate.Limiter, n int) bool {
	for range n {
		for !l.Allow() {
			wait := 50 * time.Millisecond
			if r := l.Limit(); r > 0 {
				wait = min(wait, max(time.Millisecond, time.Duration(float64(time.Second)/float64(r))))
			}
			t := time.NewTimer(wait)
			select {
			case <-ctx.Done():
				t.Stop()
				return false
			case <-t.C:
			}
		}
	}
	return true
}
