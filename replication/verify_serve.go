package replication

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication/batch"
)

// verifyStep asks the owner of a lane for the next step of its proof. All that
// a proof needs to go on travels with it, so that another shard can take the
// proof over with the lane; only the keys that a compacted lane waits for do
// not, and such a proof begins again.
type verifyStep struct {
	Link    starferry.LinkName       `json:"link"`
	Lane    starferry.TopicPartition `json:"lane"`
	Session string                   `json:"session"`
	From    starferry.Offset         `json:"from"`
	To      starferry.Offset         `json:"to"` // -1: as far as the copy is
	Place   *proofPlace              `json:"place,omitempty"`
	Budget  int64                    `json:"budget"` // bytes

	Contents bool      `json:"contents,omitempty"`
	Digest   bool      `json:"digest,omitempty"`
	States   [2][]byte `json:"states,omitzero"`
}

// proofPlace is where a proof stands; nil: it has not begun.
type proofPlace struct {
	At        starferry.Offset `json:"at"`
	Target    starferry.Offset `json:"target"`
	Uncertain bool             `json:"uncertain,omitempty"`
	Waiting   bool             `json:"waiting,omitempty"` // keys wait for their newest record
}

type verifyReply struct {
	Found  LaneProof        `json:"found"` // in this step
	To     starferry.Offset `json:"to"`
	Place  proofPlace       `json:"place"`
	Done   bool             `json:"done,omitempty"`
	Lost   bool             `json:"lost,omitempty"` // begin again: what the proof knew of keys is gone
	States [2][]byte        `json:"states,omitzero"`
	Error  string           `json:"error,omitempty"`
	Final  bool             `json:"final,omitempty"` // the error does not pass
}

const (
	maxSessions  = 8
	sessionIdle  = time.Minute
	stepsAtOnce  = 2
	maxStepBytes = 32 << 20
	// stepPatience is how long a step may take in all.
	stepPatience = 20 * time.Second
)

// proofs are the proofs that a shard keeps between steps. They read over
// connections of their own: pages are large and must hold up nobody.
type proofs struct {
	s     *Shard
	slots chan struct{}

	mu       sync.Mutex
	sessions map[string]*proofSession
	clusters map[starferry.ClusterName]*wire.Cluster
}

type proofSession struct {
	mu   sync.Mutex
	l    *lane
	p    *proof
	used time.Time
}

func newProofs(s *Shard) *proofs {
	return &proofs{s: s, slots: make(chan struct{}, stepsAtOnce), sessions: map[string]*proofSession{}, clusters: map[starferry.ClusterName]*wire.Cluster{}}
}

// cluster opens a cluster for proofs alone.
func (v *proofs) cluster(name starferry.ClusterName) (*wire.Cluster, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if c := v.clusters[name]; c != nil {
		return c, nil
	}
	conf, ok := v.s.cfg.Clusters[name]
	if !ok {
		return nil, fmt.Errorf("shard %s knows no cluster %q: add it to its configuration", v.s.cfg.ID, name)
	}
	c, err := wire.Open(conf, wire.WithClientID("starferry-"+string(v.s.cfg.ID)+"-verify"), wire.WithLogger(v.s.cfg.Logger))
	if err != nil {
		return nil, err
	}
	v.clusters[name] = c
	return c, nil
}

func (v *proofs) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.sessions)
	for name, c := range v.clusters {
		if err := c.Close(); err != nil {
			v.s.log.Debug("cluster not closed cleanly", "cluster", name, "err", err)
		}
	}
	clear(v.clusters)
}

// session finds a proof's session, or makes room for it.
func (v *proofs) session(id string) (*proofSession, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if s := v.sessions[id]; s != nil {
		s.used = time.Now()
		return s, nil
	}
	for other, s := range v.sessions {
		if time.Since(s.used) > sessionIdle {
			delete(v.sessions, other)
		}
	}
	if len(v.sessions) >= maxSessions {
		return nil, fmt.Errorf("shard %s compares %d lanes already; it goes on when one is done", v.s.cfg.ID, len(v.sessions))
	}
	s := &proofSession{used: time.Now()}
	v.sessions[id] = s
	return s, nil
}

func (v *proofs) end(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.sessions, id)
}

func (s *Shard) answerVerify(ctx context.Context, data []byte) any {
	var q verifyStep
	if err := json.Unmarshal(data, &q); err != nil {
		return verifyReply{Error: "read request: " + err.Error()}
	}
	if q.Session == "" || q.From < 0 || q.To < -1 || q.Budget < 0 {
		return verifyReply{Error: fmt.Sprintf("verify %s: want a session, source offsets and a number of bytes, have %q, %d to %d and %d", q.Lane, q.Session, q.From, q.To, q.Budget)}
	}
	c, why := s.link(q.Link)
	if c == nil {
		return verifyReply{Error: why}
	}
	l, why := c.lane(q.Lane)
	if l == nil {
		return verifyReply{Error: why}
	}
	ctx, cancel := context.WithTimeout(ctx, stepPatience)
	defer cancel()
	out, err := s.proofs.step(ctx, l, q)
	if err != nil {
		out.Error = err.Error()
		var field *batch.FieldError
		out.Final = errors.Is(err, errManyKeys) || errors.As(err, &field)
	}
	if err != nil || out.Done {
		s.proofs.end(q.Session)
	}
	return out
}

// step does the next step of a session's proof.
func (v *proofs) step(ctx context.Context, l *lane, q verifyStep) (out verifyReply, err error) {
	select {
	case v.slots <- struct{}{}:
		defer func() { <-v.slots }()
	case <-ctx.Done():
		return out, fmt.Errorf("verify %s: the shard compares other lanes: %w", q.Lane, context.Cause(ctx))
	}
	s, err := v.session(q.Session)
	if err != nil {
		return out, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.p == nil || s.l != l || q.Place == nil || s.p.place() != *q.Place {
		if s.p, err = v.prove(l, q); err != nil {
			return out, err
		}
		if s.l = l; q.Place != nil && q.Place.Waiting {
			out.Lost = true
			return out, nil
		}
	}
	p := s.p
	to := q.To
	if to < 0 {
		to = math.MaxInt64
	}
	p.extend(to)
	p.found = LaneProof{}
	out.Done, err = p.step(ctx, min(q.Budget, maxStepBytes))
	out.Found, out.Place, out.To = p.found, p.place(), p.to
	if err == nil && p.digests != nil {
		var sums [2]string
		if out.States, sums, err = p.digests.save(); err == nil {
			out.Found.SourceHash, out.Found.TargetHash = sums[0], sums[1]
		}
	}
	return out, err
}

// prove makes a lane's proof, at the place that the request names.
func (v *proofs) prove(l *lane, q verifyStep) (*proof, error) {
	m, err := l.mapped()
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	src, err := v.cluster(l.c.spec.Source)
	if err != nil {
		return nil, err
	}
	tgt, err := v.cluster(l.c.spec.Target)
	if err != nil {
		return nil, err
	}
	p := &proof{src: newLogReader(src, l.tp, true), tgt: newLogReader(tgt, l.to, false), m: m, contents: q.Contents}
	p.src.loop = l.c.rulesOf(l.to.Topic).loop
	p.own, _ = l.c.state.PIDs(l.c.spec.Name, l.bucket.n)
	if l.c.rulesOf(l.to.Topic).compacted {
		p.keys = newKeyWatch()
	}
	if q.Digest {
		if p.digests, err = newDigests(q.States[0], q.States[1]); err != nil {
			return nil, err
		}
	}
	from := q.From
	if q.Place != nil {
		from = q.Place.At
	}
	if err := p.begin(from); err != nil {
		return nil, err
	}
	if q.Place != nil {
		p.tat, p.uncertain = q.Place.Target, q.Place.Uncertain
	}
	return p, nil
}

func (p *proof) place() proofPlace { return proofPlace{p.at, p.tat, p.uncertain, p.keys.waiting()} }

// mapped returns the lane's map, if it can be relied on.
func (l *lane) mapped() (provenMap, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.omap == nil || !l.omap.Begun() || l.state == Recovering {
		return nil, fmt.Errorf("lane %s is %s: %s", l.tp, l.state, l.reason)
	}
	return l.omap, nil
}
