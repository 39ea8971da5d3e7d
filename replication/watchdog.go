package replication

import (
	"fmt"
	"time"
)

// A copy that stands still while there is something to copy says so after
// stillAfter, and after crampedAfter gives memory back that others wait for.
const (
	stillAfter   = 3 * time.Second
	crampedAfter = time.Second
	lookEvery    = time.Second // every look touches every lane, busy or not
)

// guard looks after the lanes until the link ends.
func (c *copier) guard() {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case now := <-tick.C:
			tight := c.budget.tight()
			for _, l := range c.all() {
				l.check(now, tight)
			}
		}
	}
}

// check tells whether the lane stands still, and why.
func (l *lane) check(now time.Time, tight bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.active {
		return
	}
	still := now.Sub(l.moved)
	if tight && len(l.pipe.queue) > 0 && still > crampedAfter {
		l.shrinkLocked()
	}
	why := ""
	if silent := l.silence(now, tight); silent > stillAfter+fetchWait {
		why = fmt.Sprintf("broker %d of %s has not answered a fetch for %v", l.session.f.broker, l.c.spec.Source, silent.Round(time.Second))
	} else if still > stillAfter {
		why = l.heldBy(still)
	}
	switch {
	case why != "" && (l.state == Copying || l.state == Stalled):
		if l.state == Copying {
			l.c.log.Warn("lane stands still", "link", l.c.spec.Name, "lane", l.tp, "why", why)
		}
		l.state, l.reason = Stalled, why
		l.still = true
	case why == "" && l.still:
		l.still = false
		if l.state == Stalled && l.failures < stallAfter {
			l.state, l.reason = Copying, ""
		}
	}
}

// silence is for how long the source's broker owes an answer.
func (l *lane) silence(now time.Time, tight bool) time.Duration {
	if l.session == nil || !l.fetching {
		return 0
	}
	sent := l.session.sent.Load()
	if sent == 0 || tight { // the answer may be there, and no room for it
		return 0
	}
	return now.Sub(time.Unix(0, sent))
}

// heldBy says what keeps a lane that has something to copy; "" if it has nothing.
func (l *lane) heldBy(still time.Duration) string {
	since := still.Round(time.Second)
	owed := len(l.pipe.queue) > 0
	switch {
	case !owed && l.fetch >= l.end:
		return ""
	case owed && l.pipe.out > 0:
		return fmt.Sprintf("%s has not acknowledged what it was sent %v ago (%d bytes wait)", l.c.spec.Target, since, l.pipe.bytes)
	case owed && l.sender == nil && l.trouble != nil:
		return fmt.Sprintf("nothing reaches %s for %v: %v", l.c.spec.Target, since, l.trouble)
	case owed && l.sender == nil:
		return fmt.Sprintf("the leader of %s on %s is not known for %v", l.to, l.c.spec.Target, since)
	case owed:
		return fmt.Sprintf("what was fetched %v ago waits to be sent to broker %d of %s", since, l.sender.broker, l.c.spec.Target)
	case l.session == nil && l.trouble != nil:
		return fmt.Sprintf("nothing comes from %s for %v: %v", l.c.spec.Source, since, l.trouble)
	case l.session == nil:
		return fmt.Sprintf("the leader of %s on %s is not known for %v", l.tp, l.c.spec.Source, since)
	case l.stable >= 0 && l.fetch >= l.stable:
		return fmt.Sprintf("a transaction that is open on %s hides what follows offset %d", l.c.spec.Source, l.stable)
	case l.c.limits.holding():
		return "the link's rate limit"
	case l.c.budget.tight():
		return fmt.Sprintf("the shard's memory for batches under way (%d bytes) is taken", l.c.budget.limit)
	}
	return fmt.Sprintf("broker %d of %s has sent nothing for %v, although its log goes on to %d", l.session.f.broker, l.c.spec.Source, since, l.end)
}

// shrinkLocked makes a lane whose target is slow give back the memory that
// others wait for: what was not sent yet is fetched again later, and what was is
// kept apart from the frames it came in.
func (l *lane) shrinkLocked() {
	l.slow = true
	if l.pipe.shed() {
		l.readTo(l.pipe.queue[len(l.pipe.queue)-1])
		l.fetching = false
	}
	for _, e := range l.pipe.queue {
		if e.batch == nil || e.load == nil || e.load.size == int64(len(e.batch)) {
			continue
		}
		apart := append([]byte(nil), e.batch...)
		own := l.own(len(apart))
		e.drop()
		e.batch, e.load = apart, own
	}
}
