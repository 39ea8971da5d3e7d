package consumer

import (
	"context"
	"slices"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/records"
)

// job is what a handler gets at once: one record, or a batch of one partition.
// Each record stands for its own offset and for those before it that hold no
// record.
type job struct {
	records []records.Record
	spans   []starferry.Range
}

func (j *job) first() starferry.Offset {
	if len(j.records) == 0 {
		return starferry.NoOffset
	}
	return starferry.Offset(j.records[0].Offset)
}

// flight is a job that a handler has, or waits to have again.
type flight struct {
	job
	leash
	since time.Time
}

// leash is a handler's context and the end of it. Making one for each record
// would cost more than all else of handing it out.
type leash struct {
	ctx     context.Context
	release context.CancelFunc // nil: no handler has the job
}

// maxAhead bounds how many records of a partition are given to its workers and
// not handled: between them lie the ranges that a commit's metadata has to hold.
const maxAhead = 100

// work hands out what is queued until the session halts.
func (p *part) work() {
	defer func() {
		if p.crew != nil {
			p.crew.end()
		}
	}()
	beyond, ok := p.redistribute()
	if !ok || !p.share(beyond, p.give) {
		return
	}
	for {
		k, ok := p.take()
		if !ok {
			return
		}
		if !p.share(k, p.give) {
			return
		}
	}
}

// give has a job handled: before the next one, or by a crew, where several may
// work at once. Once there is a crew it stays, of one worker if need be.
func (p *part) give(j job) bool {
	n := p.tuning.Load().parallelism
	if p.crew == nil && n <= 1 {
		return p.hand(j)
	}
	if p.crew == nil {
		p.mu.Lock()
		p.crew = newCrew(p, p.tuning.Load().parallelism)
		p.mu.Unlock()
	}
	return p.crew.give(j)
}

// share gives a chunk out in jobs, which are stretches of it: nothing is copied.
// False when the session halts.
func (p *part) share(k chunk, give func(job) bool) bool {
	spans := make([]starferry.Range, len(k.records))
	at := k.from
	for i := range k.records {
		o := starferry.Offset(k.records[i].Offset)
		spans[i] = starferry.Range{From: at, To: o + 1}
		at = o + 1
	}
	sieve := p.sieve(k.from)
	for i := 0; i < len(k.records); {
		v, end := p.stretch(k, i, sieve)
		j := k.job(spans, i, end)
		switch {
		case v.skip != nil:
			n, ok := p.bypass(v.skip, j)
			if !ok {
				return false
			}
			end = i + n // the rest is judged again
		case v.handled:
			p.dequeue(end - i)
			for _, r := range j.spans {
				p.pass(r)
			}
		default:
			if !give(j) {
				return false
			}
		}
		i = end
	}
	p.pass(starferry.Range{From: at, To: k.next})
	return true
}

// stretch is what becomes of a chunk's i-th record, and where those end that go
// the same way, at most as many as are handed out at once. Without sieve all are
// to be handed out.
func (p *part) stretch(k chunk, i int, sieve bool) (v verdict, end int) {
	most := p.s.c.cfg.BatchMax
	if sieve {
		if v = p.judge(k.records[i]); v != (verdict{}) {
			most = keepAtOnce
		}
	}
	for end = i + 1; end < len(k.records) && end-i < most; end++ {
		if sieve && p.judge(k.records[end]) != v {
			break
		}
	}
	return v, end
}

// job is the stretch [from, to) of a chunk's records.
func (k chunk) job(spans []starferry.Range, from, to int) job {
	return job{k.records[from:to:to], spans[from:to:to]}
}

// hand has a job handled, however often that takes; false when the session
// halts first.
func (p *part) hand(j job) bool {
	f := &flight{job: j}
	pause := p.s.c.cfg.RetryMin
	for tries := 1; ; tries++ {
		if !p.due(f) || !p.free() || !p.drop(f) {
			return false
		}
		if len(f.records) == 0 {
			p.land(f)
			return true
		}
		if !p.admit(len(f.records)) || !p.s.member.alive(p.ctx) {
			return false
		}
		ctx, outcome := p.begin(f)
		switch outcome {
		case halted:
			return false
		case held: // since it was looked at
			tries--
			continue
		}
		err := p.call(ctx, f, tries)
		skipped := ctx.Err() != nil && p.s.handling.Err() == nil
		p.pauseFlight(f)
		if err == nil { // as nearly always: nothing is allocated for it
			p.land(f)
			return true
		}
		err, ok := p.partly(f, tries, err)
		wait, untried := pace(err, pause)
		switch {
		case !ok:
			return false
		case err == nil:
			p.land(f)
			return true
		case skipped:
			continue // at once, without what is skipped
		case untried:
			tries--
			p.s.c.log.Debug("handler has not tried; the record is handed out again", "partition", p.tp, "offset", f.first(), "records", len(f.records), "in", wait, "error", err)
		case p.hopeless(err) && len(f.records) == 1 && p.s.handling.Err() == nil:
			return p.bury(f, p.s.c.cfg.Failure.DeadLetter, tries, err)
		case (p.hopeless(err) || p.s.c.cfg.Failure.ends(tries)) && p.s.handling.Err() == nil:
			return p.giveUp(f, tries, err)
		case p.s.handling.Err() == nil:
			p.s.c.log.Warn("handler failed; the record is handed out again", "partition", p.tp, "offset", f.first(), "records", len(f.records), "in", wait, "error", err)
		}
		if !p.backoff(wait, f) {
			return false
		}
		pause = min(2*pause, p.s.c.cfg.RetryMax)
	}
}

// call runs the handler, for the given time.
func (p *part) call(ctx context.Context, f *flight, tries int) error {
	if one := p.s.c.one; one != nil && len(f.records) == 1 {
		r := p.export(f.records[0])
		r.Tries = tries - 1
		return one(ctx, r)
	}
	rs := p.exports(f)
	for i := range rs {
		rs[i].Tries = tries - 1
	}
	return p.s.c.handle(ctx, rs)
}

// drop leaves out what is to be skipped; false when the session halts first.
func (p *part) drop(f *flight) bool {
	for p.s.c.skipping() {
		i := slices.IndexFunc(f.records, func(r records.Record) bool {
			return p.skip(r) != nil
		})
		if i < 0 {
			return true
		}
		sk := p.skip(f.records[i])
		if sk == nil {
			continue // taken back in between
		}
		n, ok := p.bypass(sk, job{f.records[i : i+1], f.spans[i : i+1]})
		if !ok {
			return false
		}
		if n == 0 {
			continue
		}
		left := job{slices.Clone(f.records[:i]), slices.Clone(f.spans[:i])}
		left.records, left.spans = append(left.records, f.records[i+1:]...), append(left.spans, f.spans[i+1:]...)
		p.mu.Lock()
		f.job = left
		p.mu.Unlock()
	}
	return true
}

// What becomes of a job that is about to begin.
type beginning int

const (
	begun beginning = iota
	halted
	held
)

// begin marks a job as in flight, under the lock that holds the halted flag, and
// under which tunings change: after a halt or a hold has been seen no record
// begins.
func (p *part) begin(f *flight) (context.Context, beginning) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.halted || p.ctx.Err() != nil {
		return nil, halted
	}
	if p.tuning.Load().held != "" {
		return nil, held
	}
	now := time.Now()
	if f.since.IsZero() {
		f.since = now
		p.flights = append(p.flights, f)
	}
	if n := len(p.leashes); n > 0 {
		f.leash, p.leashes = p.leashes[n-1], p.leashes[:n-1]
	} else {
		f.ctx, f.release = context.WithCancel(p.s.handling)
	}
	p.last = now.UnixMicro()
	p.handed = max(p.handed, f.spans[len(f.spans)-1].To)
	if p.first == 0 {
		p.first, p.from = p.last, f.first()
		p.s.c.firstHanded(p)
	}
	return f.ctx, begun
}

// pauseFlight: the handler has returned. What it did not handle stays in flight;
// a context that has not ended serves the next.
func (p *part) pauseFlight(f *flight) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unleash(f)
}

// unleash takes a job's context back. The caller holds p.mu.
func (p *part) unleash(f *flight) {
	if f.release != nil && f.ctx.Err() == nil {
		p.leashes = append(p.leashes, f.leash)
	} else if f.release != nil {
		f.release()
	}
	f.leash = leash{}
}

// land closes a job that is handled, or of which nothing is left.
func (p *part) land(f *flight) {
	p.mu.Lock()
	for _, r := range f.spans {
		p.done.add(r)
	}
	p.count += int64(len(f.spans))
	p.flights = slices.DeleteFunc(p.flights, func(o *flight) bool { return o == f })
	wake := p.dequeued(len(f.spans))
	p.mu.Unlock()
	p.s.wakeUp(wake)
	if p.s.c.cfg.CommitEach {
		p.save(f)
	}
}

// backoff waits before a job is handed out again; its records count as blocked
// meanwhile, and a skip ends the wait.
func (p *part) backoff(d time.Duration, f *flight) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		poll := time.NewTimer(20 * time.Millisecond)
		select {
		case <-p.ctx.Done():
			poll.Stop()
			return false
		case <-t.C:
			poll.Stop()
			return true
		case <-poll.C:
			for _, r := range f.records {
				if p.skip(r) != nil {
					return true
				}
			}
		}
	}
}

// exports are a job's records as handlers see them.
func (p *part) exports(f *flight) []Record {
	out := make([]Record, len(f.records))
	for i, r := range f.records {
		out[i] = p.export(r)
	}
	return out
}

func (p *part) export(r records.Record) Record {
	tp := p.tp
	if p.s.spilled(tp.Topic) {
		if was, own, ok := unspill(r); ok {
			tp, r = was, own
		}
	}
	out := Record{
		Cluster: p.s.cluster, Topic: tp.Topic, Partition: tp.Partition, Offset: starferry.Offset(r.Offset),
		Key: r.Key, Value: r.Value, Timestamp: time.UnixMilli(r.Timestamp),
	}
	for _, h := range r.Headers {
		out.Headers = append(out.Headers, Header(h))
	}
	if p.s.c.cfg.Failure.stage(p.tp.Topic) > 0 {
		out = restore(out)
	}
	return out
}
