package consumer

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/records"
)

// Failure says what becomes of a record whose handler keeps failing. The zero
// value hands it out again until it is handled or skipped; its partition, or its
// key with Parallelism, waits.
type Failure struct {
	// Attempts is how often a record is handed out before it is given up; 0:
	// there is no end.
	Attempts int
	// Retries are topics that a record which was given up goes through, one
	// after the other: the group reads them too, each record no sooner than
	// After it was put there, and for Attempts again. They must be on every
	// cluster and move with the group: put them on the link.
	Retries []Retry
	// DeadLetter is the topic where a record goes that is given up at last. It
	// must be on every cluster. Empty: the last of Retries is read for ever, or
	// without any, Attempts must be 0.
	DeadLetter starferry.Topic
}

// Retry is one retry topic.
type Retry struct {
	Topic starferry.Topic
	After time.Duration
}

// check reports what is wrong with the policy.
func (f Failure) check(topics []starferry.Topic) (errs []error) {
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf("failure policy: "+format, a...)) }
	if f.Attempts < 0 {
		bad("%d attempts: want 0 for no end, or how often a record is handed out", f.Attempts)
	}
	if f.Attempts == 0 && (f.DeadLetter != "" || len(f.Retries) > 0) {
		bad("a dead-letter topic or retry topics need Attempts: say how often a record is handed out before it goes there")
	}
	if f.Attempts > 0 && f.DeadLetter == "" && len(f.Retries) == 0 {
		bad("%d attempts and no place for what fails then: name a DeadLetter topic or Retries, or leave Attempts 0", f.Attempts)
	}
	seen := slices.Clone(topics)
	for _, t := range append(f.topics(), f.DeadLetter) {
		if slices.Contains(seen, t) {
			bad("topic %q is named twice: a retry or dead-letter topic is one of its own", t)
		}
		seen = append(seen, t)
	}
	for _, r := range f.Retries {
		if r.Topic == "" || r.After < 0 {
			bad("retry topic %q after %s: want a name and a pause", r.Topic, r.After)
		}
	}
	return errs
}

func (f Failure) topics() []starferry.Topic {
	var out []starferry.Topic
	for _, r := range f.Retries {
		out = append(out, r.Topic)
	}
	return out
}

// ends reports whether a record is given up after so many attempts.
func (f Failure) ends(tries int) bool { return f.Attempts > 0 && tries >= f.Attempts }

// stage is 0 for the group's own topics and n for the n-th retry topic.
func (f Failure) stage(t starferry.Topic) int {
	return slices.IndexFunc(f.Retries, func(r Retry) bool { return r.Topic == t }) + 1
}

// after is where a record goes that is given up at a stage; "" is nowhere.
func (f Failure) after(stage int) starferry.Topic {
	if stage < len(f.Retries) {
		return f.Retries[stage].Topic
	}
	return f.DeadLetter
}

// Headers of a record in a retry or dead-letter topic: where it comes from and
// why it is there.
const (
	headerPrefix    = "starferry."
	headerCluster   = headerPrefix + "cluster"
	headerTopic     = headerPrefix + "topic"
	headerPartition = headerPrefix + "partition"
	headerOffset    = headerPrefix + "offset"
	headerTime      = headerPrefix + "timestamp" // Unix milliseconds
	headerGroup     = headerPrefix + "group"
	headerAttempts  = headerPrefix + "attempts"
	headerError     = headerPrefix + "error"
	headerSkip      = headerPrefix + "skip" // the skip that put it there
	headerBy        = headerPrefix + "by"   // who asked for that
)

// maxErrorText bounds what of a handler's error travels with a record, bytes.
const maxErrorText = 1024

// giveUp puts what keeps failing where the policy says. A batch is first handed
// out record by record, so that only what fails alone is given up.
func (p *part) giveUp(f *flight, tries int, why error) bool {
	if len(f.records) > 1 {
		p.s.c.log.Warn("handler failed; the batch is handed out record by record", "partition", p.tp, "offset", f.first(), "records", len(f.records), "error", why)
		p.forget(f)
		for i := range f.records {
			if !p.hand(job{f.records[i : i+1 : i+1], f.spans[i : i+1 : i+1]}) {
				return false
			}
		}
		return true
	}
	stage := p.s.c.cfg.Failure.stage(p.tp.Topic)
	to := p.s.c.cfg.Failure.after(stage)
	if to == "" { // the last retry topic is read for ever
		return p.backoff(p.s.c.cfg.RetryMax, f) && p.again(f)
	}
	return p.bury(f, to, tries, why)
}

// bury puts a record aside, however often that takes; false when the session
// halts first.
func (p *part) bury(f *flight, to starferry.Topic, tries int, why error) bool {
	pause := p.s.c.cfg.RetryMin
	for {
		err := p.park(f, to, tries, why)
		if err == nil {
			p.s.c.log.Warn("handler failed; the record was given up", "partition", p.tp, "offset", f.first(), "attempts", tries, "to", to, "error", why)
			p.land(f)
			return true
		}
		if p.ctx.Err() != nil {
			return false
		}
		p.s.c.log.Error("record cannot be put aside; its partition waits", "partition", p.tp, "offset", f.first(), "to", to, "in", pause, "error", err)
		if !p.backoff(pause, f) {
			return false
		}
		if p.skip(f.records[0]) != nil {
			return p.again(f)
		}
		pause = min(2*pause, p.s.c.cfg.RetryMax)
	}
}

// forget takes a flight off the list without anything being handled.
func (p *part) forget(f *flight) {
	p.mu.Lock()
	p.flights = slices.DeleteFunc(p.flights, func(o *flight) bool { return o == f })
	p.mu.Unlock()
}

// again begins a job's attempts anew.
func (p *part) again(f *flight) bool {
	p.forget(f)
	return p.hand(f.job)
}

// parkWithin bounds one attempt to put a record aside.
const parkWithin = 10 * time.Second

// park writes a record to a retry or dead-letter topic.
func (p *part) park(f *flight, to starferry.Topic, tries int, why error) error {
	r := p.export(f.records[0])
	return p.put(to, r.Partition, []records.Record{{Timestamp: time.Now().UnixMilli(), Key: r.Key, Value: r.Value, Headers: p.s.c.origin(r, tries, why)}})
}

// origin are the headers of a record that is put aside: its own, and ours.
func (c *Consumer) origin(r Record, tries int, why error) []records.Header {
	var out []records.Header
	for _, h := range r.Headers {
		out = append(out, records.Header(h))
	}
	text := why.Error()
	if len(text) > maxErrorText {
		text = strings.ToValidUTF8(text[:maxErrorText], "") + "…"
	}
	for _, h := range [][2]string{
		{headerCluster, string(r.Cluster)}, {headerTopic, string(r.Topic)}, {headerPartition, strconv.Itoa(int(r.Partition))},
		{headerOffset, strconv.FormatInt(int64(r.Offset), 10)}, {headerTime, strconv.FormatInt(r.Timestamp.UnixMilli(), 10)},
		{headerGroup, string(c.cfg.Group)}, {headerAttempts, strconv.Itoa(r.Attempts + tries)}, {headerError, text},
	} {
		out = append(out, records.Header{Key: h[0], Value: []byte(h[1])})
	}
	return out
}

// restore gives a record out of a retry topic its own coordinates back. What was
// put there by others stays as it is.
func restore(r Record) Record {
	own, out := map[string]string{}, r
	out.Headers = nil
	for _, h := range r.Headers {
		if strings.HasPrefix(h.Key, headerPrefix) {
			own[h.Key] = string(h.Value)
			continue
		}
		out.Headers = append(out.Headers, h)
	}
	partition, err1 := strconv.ParseInt(own[headerPartition], 10, 32)
	offset, err2 := strconv.ParseInt(own[headerOffset], 10, 64)
	at, err3 := strconv.ParseInt(own[headerTime], 10, 64)
	if own[headerTopic] == "" || errors.Join(err1, err2, err3) != nil {
		return r
	}
	out.Cluster, out.Topic = starferry.ClusterName(own[headerCluster]), starferry.Topic(own[headerTopic])
	out.Partition, out.Offset, out.Timestamp = starferry.Partition(partition), starferry.Offset(offset), time.UnixMilli(at)
	out.Attempts, _ = strconv.Atoi(own[headerAttempts]) //nolint:errcheck // 0 if it cannot be told
	return out
}

// due waits until the records of a retry topic may be handed out; false when
// the session halts first.
func (p *part) due(f *flight) bool {
	stage := p.s.c.cfg.Failure.stage(p.tp.Topic)
	if stage == 0 {
		return true
	}
	last := f.records[len(f.records)-1].Timestamp
	wait := time.Until(time.UnixMilli(last).Add(p.s.c.cfg.Failure.Retries[stage-1].After))
	return wait <= 0 || p.backoff(wait, f)
}
