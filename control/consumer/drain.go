package consumer

import (
	"fmt"
	"time"
)

// lastChance is how long a consumer that has run out of time waits for handlers
// whose contexts it has ended, and for their commit.
const lastChance = 500 * time.Millisecond

// A handler is deaf if it goes on for deafAfter once its context has ended. It
// is named then, and again as long as it goes on.
const (
	deafAfter = 300 * time.Millisecond
	deafAgain = 10 * time.Second
)

// wait returns when no record is in flight. Handlers that take too long for the
// group to wait lose their contexts. Of a consumer that is closed it does not
// wait for those that ignore that.
func (s *session) wait() {
	patience := time.AfterFunc(s.c.cfg.RebalanceTimeout*3/4, s.giveUp)
	defer patience.Stop()
	done := make(chan struct{})
	go func() { defer close(done); s.workers.Wait() }()
	s.await(done)
	s.giveUp()
	s.c.spawn(s.fetchers.Wait)
}

func (s *session) await(done <-chan struct{}) {
	told, closed := s.handling.Done(), s.c.ctx.Done()
	deaf := time.NewTimer(time.Hour)
	deaf.Stop()
	defer deaf.Stop()
	var over <-chan time.Time
	for {
		select {
		case <-done:
			s.c.deaf.Store(nil)
			return
		case <-told:
			told = nil
			deaf.Reset(deafAfter)
		case <-deaf.C:
			s.nameDeaf()
			deaf.Reset(deafAgain)
		case <-closed:
			closed, over = nil, time.After(lastChance)
		case <-over:
			s.nameDeaf()
			return
		}
	}
}

// nameDeaf says which handlers have not stopped: their partitions cannot be
// given away, so a rebalance, a switch or Close waits for them.
func (s *session) nameDeaf() {
	var names []string
	for _, p := range s.list() {
		p.mu.Lock()
		for _, f := range p.flights {
			if !p.deaf(f) || len(f.records) == 0 {
				continue
			}
			o, busy := f.first(), time.Since(f.since)
			names = append(names, fmt.Sprintf("%s@%d for %s", p.tp, o, busy.Round(time.Millisecond)))
			s.c.log.Error("handler ignores the end of its context; its partition cannot be given away until it returns: make it mind ctx.Done()",
				"cluster", s.cluster, "partition", p.tp, "offset", o, "busy", busy)
			if f := s.c.cfg.Hooks.Deaf; f != nil {
				s.c.post(func() { f(s.cluster, p.tp, o, busy) })
			}
		}
		p.mu.Unlock()
	}
	if len(names) > 0 {
		s.c.deaf.Store(&names)
		s.c.post(s.c.publish)
	}
}

// deaf reports whether a handler has the job although its context has ended.
// The caller holds p.mu.
func (p *part) deaf(f *flight) bool { return f.release != nil && p.s.handling.Err() != nil }
