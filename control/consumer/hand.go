package consumer

import (
	"context"
	"hash/fnv"
	"slices"
	"sync"
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

func (j *job) add(r records.Record, span starferry.Range) {
	j.records, j.spans = append(j.records, r), append(j.spans, span)
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
	give, end := p.oneByOne()
	if p.s.c.cfg.Parallelism > 1 {
		give, end = p.byKey(p.s.c.cfg.Parallelism)
	}
	defer end()
	for {
		k, ok := p.take()
		if !ok {
			return
		}
		if !p.share(k, give) {
			return
		}
	}
}

// share gives a chunk out in jobs, which are stretches of it: nothing is copied.
// False when the session halts.
func (p *part) share(k chunk, give func(job) bool) bool {
	spans := make([]starferry.Range, len(k.records))
	sieve, at, begun := p.sieve(k.from), k.from, 0
	for i := range k.records {
		o := starferry.Offset(k.records[i].Offset)
		spans[i] = starferry.Range{From: at, To: o + 1}
		at = o + 1
		if sieve && p.passed(o) {
			if i > begun && !give(k.job(spans, begun, i)) {
				return false
			}
			p.dequeue(1)
			p.pass(spans[i])
			begun = i + 1
			continue
		}
		if i+1-begun >= p.s.c.cfg.BatchMax {
			if !give(k.job(spans, begun, i+1)) {
				return false
			}
			begun = i + 1
		}
	}
	if begun < len(k.records) && !give(k.job(spans, begun, len(k.records))) {
		return false
	}
	p.pass(starferry.Range{From: at, To: k.next})
	return true
}

// job is the stretch [from, to) of a chunk's records.
func (k chunk) job(spans []starferry.Range, from, to int) job {
	return job{k.records[from:to:to], spans[from:to:to]}
}

// oneByOne has each job handled before the next.
func (p *part) oneByOne() (give func(job) bool, end func()) {
	return p.hand, func() {}
}

// byKey has jobs of one record handled by n workers at once; records of one key
// go to the same worker, in order.
func (p *part) byKey(n int) (give func(job) bool, end func()) {
	room := make(chan struct{}, maxAhead)
	workers := make([]chan job, n)
	var wg sync.WaitGroup
	for i := range workers {
		workers[i] = make(chan job, maxAhead) // room bounds them all
		wg.Go(func() {
			for j := range workers[i] {
				if p.hand(j) {
					<-room
				}
			}
		})
	}
	keyless := 0
	give = func(j job) bool {
		select {
		case room <- struct{}{}:
		case <-p.s.ctx.Done():
			return false
		}
		at := keyless % n
		if key := j.records[0].Key; key == nil {
			keyless++
		} else {
			h := fnv.New32a()
			h.Write(key)
			at = int(h.Sum32() % uint32(n))
		}
		workers[at] <- j
		return true
	}
	return give, func() {
		for _, w := range workers {
			close(w)
		}
		wg.Wait()
	}
}

// hand has a job handled, however often that takes; false when the session
// halts first.
func (p *part) hand(j job) bool {
	f := &flight{job: j}
	pause := p.s.c.cfg.RetryMin
	for tries := 1; ; tries++ {
		if !p.due(f) {
			return false
		}
		p.drop(f)
		if len(f.records) == 0 {
			p.land(f)
			return true
		}
		if !p.s.c.admit(p.s.ctx, len(f.records)) || !p.s.member.alive(p.s.ctx) {
			return false
		}
		ctx, ok := p.begin(f)
		if !ok {
			return false
		}
		err := p.call(ctx, f)
		skipped := ctx.Err() != nil && p.s.handling.Err() == nil
		p.pauseFlight(f)
		switch {
		case err == nil:
			p.land(f)
			return true
		case skipped:
			continue // at once, without what is skipped
		case p.s.c.cfg.Failure.ends(tries) && p.s.handling.Err() == nil:
			return p.giveUp(f, tries, err)
		case p.s.handling.Err() == nil:
			p.s.c.log.Warn("handler failed; the record is handed out again", "partition", p.tp, "offset", f.first(), "records", len(f.records), "in", pause, "error", err)
		}
		if !p.backoff(pause, f) {
			return false
		}
		pause = min(2*pause, p.s.c.cfg.RetryMax)
	}
}

// call runs the handler.
func (p *part) call(ctx context.Context, f *flight) error {
	if one := p.s.c.one; one != nil && len(f.records) == 1 {
		return one(ctx, p.export(f.records[0]))
	}
	return p.s.c.handle(ctx, p.exports(f))
}

// drop leaves out what is to be skipped.
func (p *part) drop(f *flight) {
	if !p.s.c.skipping() {
		return
	}
	p.mu.Lock()
	var left job
	var gone []starferry.Range
	for i, r := range f.records {
		if p.s.c.skips(p.s.cluster, p.tp, starferry.Offset(r.Offset)) {
			gone = append(gone, f.spans[i])
			continue
		}
		left.add(r, f.spans[i])
	}
	if len(gone) > 0 {
		f.job = left
	}
	for _, r := range gone {
		p.done.add(r)
	}
	p.mu.Unlock()
	if len(gone) > 0 {
		p.dequeue(len(gone))
	}
}

// begin marks a job as in flight, under the lock that holds the halted flag:
// after a halt has been seen no record begins.
func (p *part) begin(f *flight) (context.Context, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.halted || p.s.ctx.Err() != nil {
		return nil, false
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
	return f.ctx, true
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
		case <-p.s.ctx.Done():
			poll.Stop()
			return false
		case <-t.C:
			poll.Stop()
			return true
		case <-poll.C:
			for _, r := range f.records {
				if p.s.c.skips(p.s.cluster, p.tp, starferry.Offset(r.Offset)) {
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
	out := Record{
		Cluster: p.s.cluster, Topic: p.tp.Topic, Partition: p.tp.Partition, Offset: starferry.Offset(r.Offset),
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
