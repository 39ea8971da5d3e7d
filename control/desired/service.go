package desired

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/internal/jet"
)

// OpenService is Open for a process that needs its own groups and topics alone:
// it reads and writes keys by their names, so that NATS can permit just these
// (see ServiceAccess). It makes buckets only where they are missing and it may;
// the agent makes them otherwise.
func OpenService(ctx context.Context, nc *nats.Conn, o Options) (*Store, error) {
	s, err := newStore(nc, o)
	if err != nil {
		return nil, err
	}
	s.ttl = s.o.LeaseTTL
	if _, err := s.desired.get(ctx, homesKey); err != nil && !errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("open desired state at %s: %w", where(nc), explain("bucket "+DesiredBucket, err))
	}
	return s, nil
}

func wordsSubject(g starferry.Group) string { return "starferry.words." + EncodeKey(string(g)) }

// wordsWithin is how long agents may take to tell the last words of a group.
const wordsWithin = time.Second

// wordsReply is what an agent answers on wordsSubject.
type wordsReply struct {
	Words []control.Lease `json:"words"`
	Error string          `json:"error,omitempty"`
}

// AnswerLastWords answers services that ask for the last words of their group:
// they do not know the names of those that are gone, and have no right to list
// keys. One of the processes that share a queue answers.
func (s *Store) AnswerLastWords(queue string) (*nats.Subscription, error) {
	sub, err := s.nc.QueueSubscribe(wordsSubject("")+"*", queue, func(m *nats.Msg) {
		var r wordsReply
		name, err := DecodeKey(m.Subject[len(wordsSubject("")):])
		if err == nil {
			var words []control.Lease
			words, err = s.listLastWords(context.Background(), starferry.Group(name))
			r.Words = trimmed(words)
		}
		if err != nil {
			r.Error = err.Error()
		}
		body, err := json.Marshal(r)
		if err == nil {
			err = m.Respond(body)
		}
		if err != nil {
			s.log.Warn("last words are not told", "group", name, "error", err)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("answer for last words: %w", err)
	}
	return sub, nil
}

// trimmed keeps of last words where each process stood.
func trimmed(words []control.Lease) []control.Lease {
	out := make([]control.Lease, 0, len(words))
	for _, l := range words {
		out = append(out, control.Lease{Version: l.Version, Group: l.Group, Instance: l.Instance, Boot: l.Boot, Partitions: l.Partitions})
	}
	return out
}

// askLastWords asks the agents.
func (s *Store) askLastWords(ctx context.Context, g starferry.Group) ([]control.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, wordsWithin)
	defer cancel()
	m, err := jet.Request(ctx, s.nc, wordsSubject(g), nil)
	if err != nil {
		return nil, s.refused(err)
	}
	var r wordsReply
	if err := json.Unmarshal(m.Data, &r); err != nil {
		return nil, fmt.Errorf("read answer of the agent: %w", err)
	}
	if r.Error != "" {
		return nil, errors.New(r.Error)
	}
	return r.Words, nil
}

// Ensure makes what is missing of the desired state, and mends buckets of an
// older version, which took roll-ups and did not say again what they stored. An agent does so now and then:
// buckets in memory vanish with a lone server, and services may have no right to
// make them.
func (s *Store) Ensure(ctx context.Context) error {
	p := s.Producing()
	for _, b := range []*bucket{s.desired, s.live, s.last, p.wanted, p.live} {
		b.forget()
		if _, err := b.open(ctx); err != nil {
			return err
		}
		stream, err := s.js.Stream(ctx, "KV_"+b.cfg.Bucket)
		if err != nil {
			return explain("bucket "+b.cfg.Bucket, err)
		}
		cfg := stream.CachedInfo().Config
		rollup := cfg.AllowRollup && !b.shared()
		if cfg.AllowRollup == rollup && (cfg.RePublish == nil) == (b.cfg.RePublish == nil) {
			continue
		}
		cfg.AllowRollup, cfg.RePublish = rollup, b.cfg.RePublish
		if _, err := s.js.UpdateStream(ctx, cfg); err != nil {
			return explain("bucket "+b.cfg.Bucket, err)
		}
	}
	return s.ensureAudit(ctx)
}

// Keep calls Ensure every few seconds and when the connection to NATS is
// back, until ctx ends.
func (s *Store) Keep(ctx context.Context) {
	back := s.nc.StatusChanged(nats.CONNECTED)
	defer s.nc.RemoveStatusListener(back)
	tick := time.NewTicker(s.o.LeaseTTL)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-back:
		case <-tick.C:
		}
		if err := s.ensureWithin(ctx); err != nil && ctx.Err() == nil {
			s.log.Debug("desired state is not there", "error", err)
		}
	}
}

func (s *Store) ensureWithin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.o.LeaseTTL)
	defer cancel()
	return s.Ensure(ctx)
}
