package replication

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication/batch"
	"github.com/starferry/starferry/replication/offsetmap"
)

// LaneState says what a lane is doing.
type LaneState string

// The states of a lane.
const (
	Unowned    LaneState = "unowned"    // no shard has it
	Recovering LaneState = "recovering" // being fenced and read back
	Copying    LaneState = "copying"
	Stalled    LaneState = "stalled" // held up by a cluster; goes on by itself
	Stopped    LaneState = "stopped" // does not go on by itself; Reason says why
	Paused     LaneState = "paused"  // the link is paused
	Done       LaneState = "done"    // copied up to where the link is to end
)

// lane is one partition on its way, inside the shard that owns its bucket.
// Everything below mu is guarded by it. Callbacks carry the term they belong
// to; those of an earlier term are dropped, because what they tell is found out
// by reading the target log back.
type lane struct {
	tp     starferry.TopicPartition // on the source
	to     starferry.TopicPartition // on the target
	bucket *bucket
	c      *copier

	edits   edits // fixed
	attempt int64 // of the spec, when the lane was made
	closed  bool  // the bucket has let it go

	mu       sync.Mutex
	state    LaneState
	reason   string
	term     uint64 // grows with each activation and deactivation
	active   bool
	producer wire.Producer
	rules    rules
	pipe     pipeline
	omap     *offsetmap.Lane
	proven   bool             // the map agrees with the target log
	readBack int64            // bytes of the target log that the last recovery read
	began    starferry.Offset // source offset this term began at
	fetch    starferry.Offset // next source offset to fetch
	end      starferry.Offset // source's high watermark, last seen
	stable   starferry.Offset // source's last stable offset, last seen
	moved    time.Time        // last acknowledgement, or arrival when nothing was owed
	still    bool             // it stands still, as the watchdog sees it
	apart    bool             // its target partition held others up
	slow     bool             // its target keeps others from memory: no more is fetched
	odd      piece            // what was odd at the last look
	copied   int64
	flow     flow
	failures int   // in a row
	trouble  error // the last of them
	refused  refusal
	proof    *LaneProof // of the continuous one; nil: there is none

	read     history  // of the source; it outlives terms
	session  *session // nil: to be routed
	leader   int32    // epoch of the source's leader; -1: not known
	sender   *sender
	fetching bool // in the session
	queued   bool // queued at the sender

	wrote time.Time // when a batch was last taken
	// remembered is how old a record may be so that the target's leader certainly
	// still knows its producer.
	remembered time.Duration

	ledSource, ledTarget leading

	anchor anchor // the last that was written for this term, or a mark since

	waiters []waiter

	gap  error // source offsets that are gone; the lane is read back once all before is acknowledged
	lost int64 // offsets, over the lane's life
}

// refusal counts how often the target refused the batch at one source offset.
type refusal struct {
	at    starferry.Offset
	times int
}

// again counts a refusal and reports how many it makes of the same batch.
func (r *refusal) again(at starferry.Offset) int {
	if r.at != at {
		*r = refusal{at: at}
	}
	r.times++
	return r.times
}

// waiter waits until the copy has passed a source offset.
type waiter struct {
	at   starferry.Offset
	done chan struct{}
}

// Low and high water of what a lane holds unacknowledged, bytes.
const (
	laneHigh = 4 << 20
	laneLow  = 2 << 20
)

// roomLocked reports whether the lane may hold more, given how much it may hold
// when memory is plenty.
func (l *lane) roomLocked(most int64) bool {
	if !l.active || l.gap != nil || l.edits.past(l.fetch) {
		return false
	}
	return len(l.pipe.queue) == 0 || !l.slow && l.pipe.bytes < min(most, l.c.budget.share())
}

// account says for entries which memory they hold: the frame they came in, or
// their own. A small part of a large frame is copied, so as not to keep it all.
func (l *lane) account(es []*entry, frame *load) {
	size := 0
	for _, e := range es {
		if e.passed {
			size += len(e.batch)
		}
	}
	apart := frame != nil && int64(size)*copyShare < frame.size
	for _, e := range es {
		switch {
		case e.batch == nil || frame == nil:
		case e.passed && !apart:
			e.load = frame.hold()
		case e.passed:
			e.batch = slices.Clone(e.batch)
			e.load = l.own(len(e.batch))
		default:
			e.load = l.own(len(e.batch))
		}
	}
}

// copyShare: less than such a part of a frame is copied.
const copyShare = 16

// own is the account of memory that is not part of a frame.
func (l *lane) own(size int) *load {
	l.c.budget.take(int64(size))
	return newLoad(l.c.budget, int64(size), nil)
}

// start makes a recovered lane copy from the map's end on.
func (l *lane) start(p wire.Producer, r rules) {
	remembered := l.c.remembered()
	l.mu.Lock()
	switch {
	case l.state == Stopped || l.closed: // while it was read back
		l.mu.Unlock()
		return
	case l.c.paused.Load():
		l.restLocked(Paused, pausedReason(l.c.spec.Name))
		l.mu.Unlock()
		return
	}
	l.term++
	l.active = true
	l.producer, l.rules = p, r
	l.remembered, l.wrote = remembered, time.Time{}
	l.pipe.reset()
	source, _ := l.omap.Next()
	l.began, l.fetch = source, source
	l.state, l.reason, l.failures, l.gap = Copying, "", 0, nil
	l.session, l.sender = nil, nil
	l.moved, l.slow, l.apart = time.Now(), false, false
	l.fetching, l.queued = false, false
	l.wake()
	l.turnedLocked()
	active := l.active
	l.mu.Unlock()
	if active {
		l.c.route(l, 0)
	}
}

// halt ends a lane's term; nothing more is fetched or sent.
func (l *lane) halt(s LaneState, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.haltLocked(s, reason)
}

func (l *lane) haltLocked(s LaneState, reason string) {
	l.term++
	l.active = false
	for _, e := range l.pipe.queue {
		e.drop()
	}
	l.pipe.reset()
	if l.state != Stopped || s == Stopped {
		l.state, l.reason = s, reason
	}
}

// stop halts a lane that cannot go on by itself.
func (l *lane) stop(err error) {
	l.c.log.Error("lane stopped", "link", l.c.spec.Name, "lane", l.tp, "err", err)
	l.halt(Stopped, err.Error())
}

// note says, without halting, why a lane is not getting on.
func (l *lane) note(s LaneState, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state != Stopped {
		l.state, l.reason = s, reason
	}
}

// receive takes what was fetched for the term at the offset, in a frame. It
// returns what the lane wants next, and whether it wants it right away.
func (l *lane) receive(term uint64, from starferry.Offset, es []*entry, frame *load, p *kmsg.FetchResponseTopicPartition) (next asked, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if term != l.term || !l.active || from != l.fetch {
		return next, false
	}
	l.end, l.stable = starferry.Offset(p.HighWatermark), starferry.Offset(p.LastStableOffset)
	if len(l.pipe.queue) == 0 {
		l.moved = time.Now()
	}
	if len(l.pipe.queue) == 0 && l.sender != nil {
		// Nothing is owed to the target, so no acknowledgement would tell that
		// what held the lane up is over.
		l.failures = 0
		if l.state == Stalled {
			l.state, l.reason = Copying, ""
		}
	}
	l.account(es, frame)
	for _, e := range es {
		l.pipe.add(e)
		l.readTo(e)
	}
	l.applyLocked()
	l.kickLocked()
	l.fetching = l.roomLocked(laneHigh)
	return l.askLocked(), l.fetching
}

// askLocked is what the lane asks its source for.
func (l *lane) askLocked() asked {
	a := asked{l: l, term: l.term, from: l.fetch, leader: l.leader, last: -1}
	if l.read.at == l.fetch && l.fetch > 0 {
		a.last = l.read.epoch
	}
	return a
}

// readTo makes an entry the last that was read.
func (l *lane) readTo(e *entry) {
	l.fetch = e.next()
	l.read = history{l.fetch, e.epoch}
}

// history is an offset, and the epoch of the leader that wrote what is before it.
type history struct {
	at    starferry.Offset
	epoch int32
}

// take stamps and returns the next batch to send, if there is one.
func (l *lane) take() (p parcel) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queued = false
	if !l.active {
		return p
	}
	now := time.Now()
	if err := l.readyLocked(now); err != nil {
		l.haltLocked(Recovering, err.Error())
		l.bucket.refence(l, err)
		return p
	}
	if !l.rules.compacted && l.pipe.waitingToSend() {
		if e := l.pipe.merge(l.rules.limits.Batch); e != nil {
			e.load = l.own(len(e.batch))
		}
	}
	e, again := l.pipe.take()
	if e == nil {
		return p
	}
	if !again { // a repetition is the same to the byte
		e.newest = newestOf(e, l.rules, now)
		batch.Stamp(e.batch, l.producer.ID, l.producer.Epoch, e.seq)
	}
	l.kickLocked()
	return parcel{l, e, l.term, e.batch, e.load.hold()}
}

// setApart gives the lane's partition a connection beside that of the others,
// until the lane begins anew.
func (l *lane) setApart(term uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if term == l.term {
		l.apart = true
	}
}

// acked notes that the target has a batch at base.
func (l *lane) acked(term uint64, e *entry, base starferry.Offset) {
	l.mu.Lock()
	settled := l.ackedLocked(term, e, base)
	l.mu.Unlock()
	if settled {
		l.c.route(l, 1) // what failed before goes out again
	}
}

// ackedLocked reports whether it was the last answer that a repetition waits for.
func (l *lane) ackedLocked(term uint64, e *entry, base starferry.Offset) bool {
	if term != l.term {
		return false
	}
	halted := l.pipe.halt
	l.pipe.ack(e, base)
	l.moved, l.slow = time.Now(), false
	settled := halted && !l.pipe.halt
	l.failures = 0
	if l.state == Stalled {
		l.state, l.reason = Copying, ""
	}
	l.applyLocked()
	l.kickLocked()
	if !l.fetching && l.session != nil && l.roomLocked(laneLow) {
		l.fetching = true
		l.session.f.offer(l)
	}
	return settled && l.active
}

// repeat notes that a batch must be sent again, after the leader has been
// looked up anew.
func (l *lane) repeat(term uint64, e *entry, err error) {
	l.mu.Lock()
	if term != l.term {
		l.mu.Unlock()
		return
	}
	l.pipe.fail(e, !unsent(err))
	l.sender = nil
	settled := !l.pipe.halt
	l.failures++
	n := l.failures
	l.stallLocked(err)
	l.mu.Unlock()
	if settled {
		l.c.route(l, n)
	}
}

// stallAfter is how many failures in a row make a lane count as stalled.
const stallAfter = 5

func (l *lane) stallLocked(err error) {
	l.trouble = err
	if l.failures >= stallAfter && l.state != Stopped {
		l.state, l.reason = Stalled, err.Error()
	}
}

// echo reports whether an out-of-order answer only follows from an earlier
// failure.
func (l *lane) echo(term uint64, e *entry) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return term != l.term || l.pipe.echo(e)
}

// current reports whether a term is the lane's.
func (l *lane) current(term uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return term == l.term
}

// kickLocked queues the lane at its sender if it has something to send.
func (l *lane) kickLocked() {
	if l.active && l.sender != nil && !l.queued && l.pipe.waitingToSend() {
		l.queued = true
		l.sender.offer(l)
	}
}

// applyLocked moves what is acknowledged, in order, into the map.
func (l *lane) applyLocked() {
	done := l.pipe.done()
	if len(done) == 0 {
		return
	}
	size := int64(0)
	for _, e := range done {
		size += int64(len(e.batch))
		e.drop()
	}
	l.bucket.bytes.Add(size)
	l.flow.add(size, time.Now())
	for _, e := range done {
		if err := appendEntry(l.omap, e); err != nil {
			l.haltLocked(Recovering, err.Error())
			l.bucket.refence(l, fmt.Errorf("map of %s: %w", l.tp, err))
			return
		}
		l.copied += int64(e.records)
	}
	l.wake()
	l.turnedLocked()
}

// appendEntry maps an acknowledged entry.
func appendEntry(m *offsetmap.Lane, e *entry) error {
	target := e.target
	for _, p := range e.pieces {
		if p.hole != "" {
			if err := m.Hole(p.source, p.end(), p.hole); err != nil {
				return err
			}
			continue
		}
		if err := m.Append(offsetmap.Run{Source: p.source, Target: target, Count: p.count}); err != nil {
			return err
		}
		target += starferry.Offset(p.count)
	}
	return nil
}

// wake lets go those who wait for what has now been copied.
func (l *lane) wake() {
	if len(l.waiters) == 0 {
		return
	}
	next, _ := l.omap.Next()
	rest := l.waiters[:0]
	for _, w := range l.waiters {
		if w.at <= next {
			close(w.done)
			continue
		}
		rest = append(rest, w)
	}
	l.waiters = rest
}

// passed returns a channel that is closed when the copy has passed at. Forget
// ends the waiting.
func (l *lane) passed(at starferry.Offset) (done <-chan struct{}, forget func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := waiter{at, make(chan struct{})}
	l.waiters = append(l.waiters, w)
	if l.omap != nil && l.state != Recovering {
		l.wake()
	}
	return w.done, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.waiters = slices.DeleteFunc(l.waiters, func(o waiter) bool { return o.done == w.done })
	}
}

// LaneStatus says how one lane stands.
type LaneStatus struct {
	Partition  starferry.TopicPartition `json:"partition"`
	Bucket     int                      `json:"bucket"`
	Owner      ShardID                  `json:"owner,omitempty"`
	State      LaneState                `json:"state"`
	Reason     string                   `json:"reason,omitempty"`
	SourceEnd  starferry.Offset         `json:"source_end"`  // high watermark last seen; -1: not seen yet
	SourceNext starferry.Offset         `json:"source_next"` // next to copy; -1: not known yet
	TargetNext starferry.Offset         `json:"target_next"` // behind the last copied record
	// Lag is how many source offsets are not copied yet; -1: not known.
	Lag    int64 `json:"lag"`
	Copied int64 `json:"copied"` // records, since this shard took the lane
	// Rate is how many bytes a second were copied over the last ten seconds or so.
	Rate int64 `json:"bytes_per_s"`
	// Lost counts the source offsets that were gone before they were copied, and
	// were left out because the link is to continue on loss.
	Lost int64 `json:"lost,omitempty"`
	// Until is the source offset before which the copy ends; -1: it does not.
	Until starferry.Offset `json:"until"`
	// ReadBack is how many bytes of the target log the last recovery read.
	ReadBack int64 `json:"read_back"`
	// Proof is what the link's continuous proof has found out since this shard
	// took the lane; nil if the link has none.
	Proof *LaneProof `json:"proof,omitempty"`
}

// measure says how far the copy is behind, once both ends are known.
func (s *LaneStatus) measure() {
	if s.SourceNext < 0 || s.SourceEnd < 0 {
		return
	}
	end := s.SourceEnd
	if s.Until >= 0 {
		end = min(end, s.Until)
	}
	s.Lag = max(0, int64(end-s.SourceNext))
}

func (l *lane) status() LaneStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := LaneStatus{
		Partition: l.tp, Bucket: l.bucket.n, Owner: l.c.shard, State: l.state, Reason: l.reason,
		SourceEnd: l.end, SourceNext: -1, TargetNext: -1, Lag: -1, Copied: l.copied, Rate: int64(l.flow.as(time.Now())), Lost: l.lost, Until: -1,
		ReadBack: l.readBack, Proof: l.proof,
	}
	if l.edits.ends {
		s.Until = l.edits.until
	}
	if l.omap != nil && l.omap.Begun() {
		s.SourceNext, s.TargetNext = l.omap.Next()
		s.measure()
	}
	return s
}
