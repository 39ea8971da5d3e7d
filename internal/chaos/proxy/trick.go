package proxy

import (
	"slices"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Deed is what is done to a request or its answer.
type Deed string

// The deeds. Those with an error code are for requests to produce, to commit and
// read offsets, and to be a member.
const (
	CutRequest Deed = "cut request" // half of the request arrives, then the connection is reset
	CutAnswer  Deed = "cut answer"  // half of the answer arrives, then the connection is reset
	LoseAnswer Deed = "lose answer" // it is carried out, and nobody is told
	Refuse     Deed = "refuse"      // it is answered with an error and not carried out
	Lie        Deed = "lie"         // it is carried out and answered with an error
)

// Trick is a deed waiting for its request.
type Trick struct {
	Key   kmsg.Key
	Deed  Deed
	Code  int16 // of the error
	Times int   // how often it is done; 0: once
	// Match says which requests of the key it waits for; nil: all.
	Match func(kmsg.Request) bool
}

// Played is a trick that was put up.
type Played struct {
	Trick
	done atomic.Int64
}

// Done is how often the trick was done.
func (t *Played) Done() int { return int(t.done.Load()) }

// Play puts a trick up. It stays until it is done or Forget is called.
func (p *Proxy) Play(t Trick) *Played {
	t.Times = max(t.Times, 1)
	played := &Played{Trick: t}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tricks = append(p.tricks, played)
	return played
}

// Forget takes down all tricks that were not done.
func (p *Proxy) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tricks = nil
}

// Remove takes down one trick.
func (p *Proxy) Remove(t *Played) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tricks = slices.DeleteFunc(p.tricks, func(o *Played) bool { return o == t })
}

// trick takes the first trick for a request, nil for none.
func (p *Proxy) trick(h header, frame []byte) *Played {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, t := range p.tricks {
		if !t.waitsFor(h, frame) {
			continue
		}
		if int(t.done.Add(1)) == t.Times {
			p.tricks = append(p.tricks[:i:i], p.tricks[i+1:]...)
		}
		return t
	}
	return nil
}

func (t Trick) waitsFor(h header, frame []byte) bool {
	if t.Key.Int16() != h.key || t.Match == nil {
		return t.Key.Int16() == h.key
	}
	req := kmsg.RequestForKey(h.key)
	req.SetVersion(h.version)
	return req.ReadFrom(frame[h.body:]) == nil && t.Match(req)
}
