package consumer

import (
	"hash/fnv"
	"sync"
)

// crew has jobs of one record each handled by several workers at once. Each job
// belongs to a strand, by its key: jobs of a strand follow each other, so that
// the number of workers may change at any time.
type crew struct {
	p    *part
	room chan struct{}
	wg   sync.WaitGroup

	mu      sync.Mutex
	size    int // workers there may be
	busy    int // workers there are
	strands [strands]strand
	waiting []*strand // with jobs, and no worker
	keyless int
	ended   bool
}

// strands bounds how many strands there are; keys that share one wait for each
// other.
const strands = 4 * maxAhead

type strand struct {
	jobs   []job
	active bool // it waits, or has a worker
}

func newCrew(p *part, size int) *crew {
	return &crew{p: p, room: make(chan struct{}, maxAhead), size: size}
}

// give takes a job, as soon as there is room; false when the session halts.
func (c *crew) give(j job) bool {
	select {
	case c.room <- struct{}{}:
	case <-c.p.ctx.Done():
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.strand(j.records[0].Key)
	s.jobs = append(s.jobs, j)
	if !s.active {
		s.active = true
		c.waiting = append(c.waiting, s)
		c.hire()
	}
	return true
}

// strand is where records of a key go, those without one in turn.
func (c *crew) strand(key []byte) *strand {
	if key == nil {
		c.keyless++
		return &c.strands[c.keyless%strands]
	}
	h := fnv.New32a()
	h.Write(key)
	return &c.strands[h.Sum32()%strands]
}

// resize changes how many work at once. Whoever has a record finishes it.
func (c *crew) resize(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.size = n
	c.hire()
}

// hire lets as many work as may. The caller holds c.mu.
func (c *crew) hire() {
	for !c.ended && c.busy < c.size && len(c.waiting) > 0 {
		s := c.waiting[0]
		c.waiting = c.waiting[1:]
		c.busy++
		c.wg.Go(func() { c.work(s) })
	}
}

// work handles one job after the other, of one strand after the other.
func (c *crew) work(s *strand) {
	for s != nil {
		c.mu.Lock()
		j := s.jobs[0]
		s.jobs = s.jobs[1:]
		c.mu.Unlock()
		if !c.p.hand(j) {
			return // the session has halted: nobody works on
		}
		<-c.room
		s = c.next(s)
	}
}

// next gives a strand back and returns another; nil: there is no work, or there
// are too many workers.
func (c *crew) next(s *strand) *strand {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(s.jobs) > 0 {
		c.waiting = append(c.waiting, s)
	} else {
		s.active, s.jobs = false, nil
	}
	if c.busy > c.size || len(c.waiting) == 0 {
		c.busy--
		return nil
	}
	s = c.waiting[0]
	c.waiting = c.waiting[1:]
	return s
}

// end waits for those who work, and lets nobody else begin.
func (c *crew) end() {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.wg.Wait()
}
