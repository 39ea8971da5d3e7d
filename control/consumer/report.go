package consumer

import (
	"context"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/switchover"
)

// library is what leases say of this code.
const library = "starferry-go/1"

// defaultLease is the time to live of leases when no store says otherwise.
const defaultLease = 6 * time.Second

// adoptWithin is how long an instance waits for its settings before it starts
// without them, at what Kafka says.
const adoptWithin = 3 * time.Second

// lastWord is how often a lease is written while records are handed out. It is
// the last word of an instance that dies: survivors tell by it what may repeat.
const lastWord = 100 * time.Millisecond

// moment is how long a word that nobody waits for may be put off, so that of
// several the last one is said. A switch is many orders and answers in a few
// milliseconds, and every word costs all who hear it.
const moment = 20 * time.Millisecond

// keepRepeats is how many reported ranges a lease carries at most.
const keepRepeats = 64

// reporter is the instance's side of NATS: it adopts what is desired and puts
// leases. Nothing waits for it but the very start.
type reporter struct {
	c *Consumer

	mu    sync.Mutex
	lease *control.Lease // newest, not yet put
	said  control.Lease  // what was last offered in a hurry, without what nobody waits for
	later bool           // lease is put within a moment
	gone  bool
	poked chan struct{}
	ended chan struct{}  // the lease is given back
	store *desired.Store // nil while NATS has not answered
}

func newReporter(c *Consumer) *reporter {
	return &reporter{c: c, poked: make(chan struct{}, 1), ended: make(chan struct{})}
}

func (r *reporter) interval() time.Duration { return defaultLease / 3 }

func (r *reporter) run(ctx context.Context) {
	defer close(r.ended)
	if r.c.cfg.NATS == nil {
		r.c.post(r.c.begin)
		return
	}
	late := time.AfterFunc(adoptWithin, func() {
		r.c.post(func() {
			if !r.c.started {
				r.c.log.Warn("NATS did not tell the desired state in time; starts at what Kafka says", "waited", adoptWithin)
				r.c.begin()
			}
		})
	})
	defer late.Stop()
	store := r.open(ctx)
	if store == nil {
		return
	}
	var followers sync.WaitGroup
	defer followers.Wait()
	fctx, cancel := context.WithCancel(ctx)
	defer cancel()
	followers.Go(func() {
		if err := store.WatchGroup(fctx, r.c.cfg.Group, r.adopt); err != nil && fctx.Err() == nil {
			r.c.log.Error("watch desired state", "error", err)
		}
	})
	r.mu.Lock()
	r.store = store
	r.mu.Unlock()
	r.c.post(r.c.foresee) // what began before NATS answered
	r.put(ctx, store)
}

// open reaches the store, however long that takes.
func (r *reporter) open(ctx context.Context) *desired.Store {
	for said := false; ; {
		octx, cancel := context.WithTimeout(ctx, adoptWithin)
		store, err := desired.OpenService(octx, r.c.cfg.NATS, desired.Options{Logger: r.c.cfg.Logger})
		cancel()
		if err == nil {
			return store
		}
		if ctx.Err() != nil {
			return nil
		}
		if !said {
			said = true
			r.c.log.Warn("NATS does not answer: switches, skips and throttles wait for it, records are handled meanwhile; start the agent or check its address", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// adopt hands what is desired to the loop.
func (r *reporter) adopt(u desired.Update) {
	if u.Err != nil {
		r.c.log.Error("read desired state; keeps what it has", "error", u.Err)
	}
	r.c.post(func() {
		if u.Settings != nil {
			r.c.adopt(*u.Settings, u.SettingsRevision)
		} else if u.Err == nil {
			r.c.adopt(control.Settings{}, u.SettingsRevision)
		}
		if u.Placement != nil {
			if why := r.c.machine.Refuses(*u.Placement); why != "" {
				r.c.log.Warn("refuses an order", "reason", why, "phase", u.Placement.Phase, "by", u.Placement.By, "revision", u.PlacementRevision)
			}
			r.c.step(switchover.Seen{Placement: *u.Placement, Revision: u.PlacementRevision})
			r.c.fetchAhead(*u.Placement)
		}
		r.c.begin()
	})
}

// put writes leases: the newest as soon as there is one.
func (r *reporter) put(ctx context.Context, store *desired.Store) {
	r.c.post(r.c.publish)
	w := store.LeaseWriter()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.poked:
		}
		r.mu.Lock()
		lease, gone := r.lease, r.gone
		r.lease, r.later = nil, false
		r.mu.Unlock()
		pctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		switch {
		case gone:
			if err := store.DeleteLease(pctx, r.c.cfg.Group, r.c.cfg.Instance); err != nil {
				r.c.log.Debug("delete lease", "error", err)
			}
			cancel()
			return
		case lease != nil:
			if err := w.Put(pctx, *lease); err != nil && ctx.Err() == nil {
				r.c.log.Debug("put lease", "error", err)
			}
		}
		cancel()
	}
}

func (r *reporter) offer(l control.Lease) {
	r.mu.Lock()
	r.lease = &l
	r.mu.Unlock()
	r.poke()
}

// mention is offer for what can wait a moment, unless it says something new that
// is waited for. While the order that the instance obeys is still to be answered,
// having heard of it is not.
func (r *reporter) mention(l control.Lease, owes bool) {
	word := l
	word.At, word.Partitions, word.Pauses = 0, nil, nil
	r.mu.Lock()
	if owes {
		word.Revision, word.Epoch = r.said.Revision, r.said.Epoch
	}
	news := !reflect.DeepEqual(word, r.said)
	put := !news && !r.later
	r.lease, r.said, r.later = &l, word, r.later || put
	r.mu.Unlock()
	switch {
	case news:
		r.poke()
	case put:
		time.AfterFunc(moment, r.poke)
	}
}

func (r *reporter) poke() {
	select {
	case r.poked <- struct{}{}:
	default:
	}
}

// retire gives the lease back and waits for that a short while.
func (r *reporter) retire(ctx context.Context) {
	if r.c.cfg.NATS == nil || !r.c.cfg.NATS.IsConnected() {
		return
	}
	r.mu.Lock()
	r.gone, r.lease = true, nil
	r.mu.Unlock()
	r.poke()
	select {
	case <-r.ended:
	case <-ctx.Done():
	case <-time.After(time.Second):
	}
}

// publish puts the lease of this moment. It runs on the loop.
func (c *Consumer) publish() {
	if c.cfg.NATS == nil || !c.started || c.done || c.oust != "" { // the lease is another's
		return
	}
	c.reporter.offer(c.compose())
}

// mention puts the lease of this moment: at once if it says what is waited for,
// else in a moment. It runs on the loop.
func (c *Consumer) mention() {
	if c.cfg.NATS == nil || !c.started || c.done || c.oust != "" {
		return
	}
	c.reporter.mention(c.compose(), c.machine.Owes())
}

// compose says how the instance stands. It runs on the loop.
func (c *Consumer) compose() control.Lease {
	l := c.machine.Lease()
	l.Library, l.Host, l.PID, l.At = library, c.host, os.Getpid(), time.Now().UnixMilli()
	l.Topics, l.Labels = c.topics(), c.cfg.Labels
	if l.DeadLetter = c.cfg.Failure.DeadLetter; len(c.cfg.Failure.Retries) > 0 {
		l.Retry = c.cfg.Failure.Retries[0].Topic
	}
	l.SettingsRevision = c.settings.Load().revision
	switch {
	case c.oust != "":
		l.Refusal = c.oust
	case l.Refusal == "":
		l.Refusal = c.refused
	}
	for _, m := range l.Memberships {
		if why := c.members[m.Cluster].barred.Load(); why != nil && l.Refusal == "" {
			l.Refusal = *why
		}
	}
	for i := range l.Memberships {
		m := &l.Memberships[i]
		m.Good = m.Good && c.members[m.Cluster].isAlive()
	}
	if c.session != nil {
		c.told = 0
		for _, p := range c.session.list() {
			st := p.state()
			c.told += st.Handled
			l.Partitions = append(l.Partitions, st)
			if l.Refusal == "" {
				l.Refusal = p.refused()
			}
		}
		slices.SortFunc(l.Partitions, func(a, b control.PartitionState) int { return a.Partition.Compare(b.Partition) })
	}
	l.Repeats = c.repeats
	for _, p := range c.pauses {
		if p.Epoch == l.HomeEpoch && p.Epoch > 0 {
			l.Pauses = append(l.Pauses, p)
		}
	}
	slices.SortFunc(l.Pauses, func(a, b control.Pause) int { return a.Partition.Compare(b.Partition) })
	return l
}

// firstHanded notes the first record of a partition in a session, for the
// measured pause of the last switch.
func (c *Consumer) firstHanded(p *part) {
	first, from, epoch := p.first, p.from, p.s.epoch
	if epoch == 0 {
		return
	}
	c.post(func() {
		was := c.pauses[p.tp]
		if was.Epoch == epoch && was.First != 0 {
			return // a rebalance since, not a switch
		}
		was.Epoch, was.Partition, was.First, was.From = epoch, p.tp, first, from
		c.pauses[p.tp] = was
		c.mention()
	})
}

// foresee asks what others had been handed beyond their commits, for the
// partitions that the session has begun with: instances that died, and those that
// lost their membership before they could commit. It runs on the loop and does
// not wait.
func (c *Consumer) foresee() {
	c.reporter.mu.Lock()
	store := c.reporter.store
	c.reporter.mu.Unlock()
	if c.session == nil || store == nil {
		return
	}
	began := c.begun
	c.spawn(func() {
		ctx, cancel := context.WithTimeout(c.ctx, adoptWithin)
		defer cancel()
		words, err := store.LastWords(ctx, c.cfg.Group)
		if err != nil {
			c.log.Debug("read what others said last", "error", err)
			return
		}
		c.post(func() { c.repeatsOf(began, words) })
	})
}

// repeatsOf reports what may be handed out again.
func (c *Consumer) repeatsOf(e switchover.Fetch, words []control.Lease) {
	before := len(c.repeats)
	for _, l := range words {
		if l.Boot == c.boot {
			continue
		}
		for _, st := range l.Partitions {
			place, ok := e.Cut[st.Partition]
			if !ok || st.Cluster != e.Cluster || st.Position <= place.Next {
				continue
			}
			rep := control.Repeat{
				Cluster: e.Cluster, Partition: st.Partition,
				Range:  starferry.Range{From: place.Next, To: st.Position},
				Reason: "instance " + string(l.Instance) + " had been handed at least so many and did not commit them",
			}
			if slices.Contains(c.repeats, rep) {
				continue // reported before
			}
			c.log.Warn("records may be handed out again", "partition", rep.Partition, "from", rep.Range.From, "to", rep.Range.To, "of", l.Instance)
			c.repeats = append(c.repeats, rep)
		}
	}
	if len(c.repeats) == before {
		return
	}
	if n := len(c.repeats) - keepRepeats; n > 0 {
		c.repeats = slices.Clone(c.repeats[n:])
	}
	c.publish()
}
