package replication

import (
	"context"
	"sync"
	"time"
)

// limits keep a link to its rates, which may change at any time. What was read
// is a debt that time pays off; nothing is saved up, so there are no bursts
// after a silence.
type limits struct {
	mu      sync.Mutex
	bytes   owing
	records owing
	at      time.Time     // of the debts
	size    float64       // of a record, bytes, about
	changed chan struct{} // closed by the next change
	held    int           // who waits
}

// owing is a limit and what is owed to it.
type owing struct {
	limit float64 // a second; 0: none
	debt  float64
}

// rateSlack is how much may be owed while more is read: it keeps a link below
// its limit from waiting for each record.
const rateSlack = 50 * time.Millisecond

// rateShare is the time whose worth one answer may have at most.
const rateShare = 100 * time.Millisecond

func newLimits(bytes, records int64) *limits {
	l := &limits{at: time.Now(), size: 200, changed: make(chan struct{})}
	l.set(bytes, records)
	return l
}

// set changes the limits, per second; 0: none.
func (l *limits) set(bytes, records int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bytes.limit == float64(bytes) && l.records.limit == float64(records) {
		return
	}
	l.pay()
	l.bytes.set(float64(bytes))
	l.records.set(float64(records))
	close(l.changed)
	l.changed = make(chan struct{})
}

// set forgives what is owed beyond a second's worth, so that a limit that was
// low for a while does not act on.
func (r *owing) set(limit float64) {
	r.limit = limit
	r.debt = min(r.debt, limit)
}

// spend notes what was read.
func (l *limits) spend(bytes, records int) {
	if bytes == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pay()
	l.bytes.owe(bytes)
	l.records.owe(records)
	if records > 0 {
		l.size += (float64(bytes)/float64(records) - l.size) / 8
	}
}

func (r *owing) owe(n int) {
	if r.limit > 0 {
		r.debt += float64(n)
	}
}

// pay takes the time since the last look off the debts.
func (l *limits) pay() {
	now := time.Now()
	past := now.Sub(l.at).Seconds()
	l.at = now
	l.bytes.debt = max(0, l.bytes.debt-past*l.bytes.limit)
	l.records.debt = max(0, l.records.debt-past*l.records.limit)
}

// left is how long it takes until little enough is owed.
func (r *owing) left() time.Duration {
	if r.limit == 0 || r.debt == 0 {
		return 0
	}
	return time.Duration(r.debt/r.limit*float64(time.Second)) - rateSlack
}

// wait returns once more may be read, or with the context's error.
func (l *limits) wait(ctx context.Context) error {
	for {
		l.mu.Lock()
		l.pay()
		left, changed := max(l.bytes.left(), l.records.left()), l.changed
		if left > 0 {
			l.held++
		}
		l.mu.Unlock()
		if left <= 0 {
			return ctx.Err()
		}
		timer := time.NewTimer(left)
		select {
		case <-timer.C:
		case <-changed:
		case <-ctx.Done():
		}
		timer.Stop()
		l.mu.Lock()
		l.held--
		l.mu.Unlock()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// most bounds an answer, in bytes, so that it is not worth too much time.
func (l *limits) most(bytes int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.bytes.limit; r > 0 {
		bytes = min(bytes, int(r*rateShare.Seconds()))
	}
	if r := l.records.limit; r > 0 {
		bytes = min(bytes, int(r*rateShare.Seconds()*l.size))
	}
	return max(bytes, 1)
}

// holding reports whether a limit makes somebody wait.
func (l *limits) holding() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held > 0
}
