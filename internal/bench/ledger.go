package bench

import (
	"slices"
	"sync"
	"time"

	"github.com/starferry/starferry"
)

// ledger is told of every record that a handler was given, by all instances of a
// group, and says what was lost, handled twice or out of order, and how long
// each partition stood still.
type ledger struct {
	lanes []*ledgerLane

	mu     sync.Mutex
	open   int // partitions whose gap is still open
	closed chan struct{}
}

// ledgerLane is one partition as its handlers saw it.
type ledgerLane struct {
	mu      sync.Mutex
	next    int64          // no larger number was handled
	missing map[int64]bool // smaller ones that were not
	handled int64
	twice   int64
	late    int64 // handled behind a larger number
	lastAt  time.Time

	waits starferry.ClusterName // the cluster whose next record closes the gap; empty: none is open
	began time.Time             // the last record before the gap
	gap   time.Duration
}

func newLedger(partitions int) *ledger {
	l := &ledger{closed: make(chan struct{})}
	for range partitions {
		l.lanes = append(l.lanes, &ledgerLane{missing: map[int64]bool{}})
	}
	return l
}

// handled is called by handlers with the record's number in its partition.
func (l *ledger) handled(c starferry.ClusterName, p starferry.Partition, n int64, at time.Time) {
	if l.lanes[p].handle(c, n, at) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.open--; l.open == 0 {
			close(l.closed)
		}
	}
}

// handle reports whether it closed the partition's gap.
func (k *ledgerLane) handle(c starferry.ClusterName, n int64, at time.Time) (closes bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case n >= k.next:
		for m := k.next; m < n; m++ {
			k.missing[m] = true
		}
		k.next = n + 1
		k.handled++
	case k.missing[n]:
		delete(k.missing, n)
		k.handled++
		k.late++
	default:
		k.twice++
	}
	if k.waits == c {
		k.gap, k.waits, closes = at.Sub(k.began), "", true
	} else if k.waits != "" {
		k.began = at // still the old one
	}
	k.lastAt = at
	return closes
}

// watch opens a gap in every partition: it ends with the next record from the
// named cluster. The channel is closed when all have ended.
func (l *ledger) watch(c starferry.ClusterName) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open, l.closed = len(l.lanes), make(chan struct{})
	for _, k := range l.lanes {
		k.mu.Lock()
		k.waits, k.began = c, k.lastAt
		k.mu.Unlock()
	}
	return l.closed
}

// gap is how long the group's partitions stood still: the longest of them.
func (l *ledger) gap() (worst time.Duration) {
	for _, k := range l.lanes {
		k.mu.Lock()
		worst = max(worst, k.gap)
		k.mu.Unlock()
	}
	return worst
}

// sums is what a ledger counts, against what was written.
type sums struct{ handled, lost, twice, late int64 }

func (l *ledger) sums(written []int64) (s sums) {
	for p, k := range l.lanes {
		k.mu.Lock()
		s.handled += k.handled
		s.twice += k.twice
		s.late += k.late
		s.lost += int64(len(k.missing)) + max(0, written[p]-k.next)
		k.mu.Unlock()
	}
	return s
}

// total is how many different records were handled.
func (l *ledger) total() (n int64) {
	for _, k := range l.lanes {
		k.mu.Lock()
		n += k.handled
		k.mu.Unlock()
	}
	return n
}

// ms is a time in milliseconds.
func ms(d time.Duration) float64 { return d.Seconds() * 1e3 }

// percentile is a percentile of values, which it sorts.
func percentile(values []float64, percent int) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[min(len(values)-1, len(values)*percent/100)]
}
