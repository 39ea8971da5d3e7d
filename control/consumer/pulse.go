package consumer

import "sync/atomic"

// frozenFor is how long a process must not have run to have been frozen: less
// than the leases live, whose end is the first that others see of it.
const frozenFor = defaultLease / 2

// pulse tells how long the process has run without a stop. Its beat is the loop's;
// a beat that is late is a freeze as well, which costs a question too many.
type pulse struct {
	last  atomic.Int64 // sinceBoot
	awake atomic.Int64 // sinceBoot at the end of the last freeze
}

// beat notes that the process runs.
func (p *pulse) beat() {
	p.awakeSince()
	p.last.Store(sinceBoot())
}

// awakeSince is when the process has woken up, on the clock of sinceBoot. Whoever
// asks first after a freeze notes it, before anything can say that all is well.
func (p *pulse) awakeSince() int64 {
	now, last := sinceBoot(), p.last.Load()
	if last != 0 && now-last > int64(frozenFor) {
		p.awake.Store(now)
	}
	return p.awake.Load()
}
