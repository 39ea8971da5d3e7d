// Package homebook keeps on the clusters themselves where the producers of a
// topic write, so that it is known, and can be decided, without NATS.
//
// # Rules
//
//   - A cluster's book is its topic "starferry.producers": an entry for each
//     decision that led away from this cluster or to it, never overwritten.
//   - The decision to leave a cluster is an entry there, committed in a
//     transaction under the topic's transactional id "starferry.producers.TOPIC".
//     Whoever has opened a session on it since has made that impossible.
//   - So a cluster whose newest entry says that the topic lives there, or that has
//     no entry, has not been left: whoever leaves says so there first.
package homebook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/internal/records"
	"github.com/starferry/starferry/internal/wire"
)

// Topic is the book's topic on every cluster.
const Topic starferry.Topic = "starferry.producers"

// txTimeout is after how long a broker ends a transaction that its agent left
// open, if nothing longer was asked for.
const txTimeout = 10 * time.Second

// Entry is one decision.
type Entry struct {
	Version int                   `json:"v"`
	Topic   starferry.Topic       `json:"topic"`
	Epoch   starferry.Epoch       `json:"epoch"`
	Home    starferry.ClusterName `json:"home"`
	// With are the processes whose records the copy had passed; see
	// control.TopicPlacement.
	With []string `json:"with,omitempty"`
	By   string   `json:"by,omitempty"`
	At   int64    `json:"at"` // Unix milliseconds
}

// TransactionalID is the id under which a topic's decisions are made.
func TransactionalID(t starferry.Topic) string { return string(Topic) + "." + string(t) }

// Ensure makes the book of a cluster if there is none.
func Ensure(ctx context.Context, w *wire.Cluster) error {
	m, err := w.Metadata(ctx, Topic)
	if err == nil && m.Topics[Topic].Err == nil && len(m.Topics[Topic].Partitions) > 0 {
		return nil
	}
	err = w.CreateTopic(ctx, wire.TopicSpec{Topic: Topic, Partitions: 1, Replication: -1, Configs: map[string]string{"cleanup.policy": "compact"}})
	if err != nil && !errors.Is(err, kafka.TopicAlreadyExists) {
		return fmt.Errorf("make the book of producers: %w", err)
	}
	return nil
}

// Read returns the entries of a topic in a cluster's book, by epoch. A cluster
// without a book has none.
func Read(ctx context.Context, w *wire.Cluster, t starferry.Topic) ([]Entry, error) {
	tp := starferry.TopicPartition{Topic: Topic}
	fail := func(err error) ([]Entry, error) {
		return nil, fmt.Errorf("read the book of producers on %s: %w", w.Name(), err)
	}
	m, err := w.Metadata(ctx, Topic)
	if err != nil {
		return fail(err)
	}
	if errors.Is(m.Topics[Topic].Err, kafka.UnknownTopicOrPartition) {
		return nil, nil
	}
	starts, err := w.Offsets(ctx, []starferry.TopicPartition{tp}, wire.Earliest)
	if err != nil {
		return fail(err)
	}
	ends, err := w.Offsets(ctx, []starferry.TopicPartition{tp}, wire.Latest)
	if err != nil {
		return fail(err)
	}
	var out []Entry
	for at := starts[tp]; at < ends[tp]; {
		rs, next, err := fetch(ctx, w, tp, at)
		if err != nil {
			return fail(err)
		}
		for _, r := range rs {
			var e Entry
			if err := json.Unmarshal(r.Value, &e); err != nil {
				return fail(fmt.Errorf("offset %d holds no entry of ours: %w", r.Offset, err))
			}
			if e.Version > control.ProtocolVersion {
				return fail(fmt.Errorf("offset %d is of protocol version %d and this program knows up to %d; upgrade it", r.Offset, e.Version, control.ProtocolVersion))
			}
			if e.Topic == t {
				out = append(out, e)
			}
		}
		at = next
	}
	slices.SortStableFunc(out, func(a, b Entry) int { return int(a.Epoch - b.Epoch) })
	return out, nil
}

// fetch reads committed records from an offset on. It waits where an open
// transaction is in the way.
func fetch(ctx context.Context, w *wire.Cluster, tp starferry.TopicPartition, at starferry.Offset) ([]records.Record, starferry.Offset, error) {
	for {
		broker, _, err := w.Leader(ctx, tp)
		if err != nil {
			return nil, at, err
		}
		req := kmsg.NewPtrFetchRequest()
		req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.IsolationLevel, req.SessionEpoch = 100, 1, 8<<20, 1, -1
		ft, fp := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
		fp.FetchOffset, fp.PartitionMaxBytes = int64(at), 8<<20
		ft.Topic, ft.Partitions = string(tp.Topic), append(ft.Partitions, fp)
		req.Topics = append(req.Topics, ft)
		resp, err := w.DoOn(ctx, broker, req)
		if err != nil {
			return nil, at, err
		}
		r, ok := resp.(*kmsg.FetchResponse)
		if !ok || len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 {
			return nil, at, wire.ErrFrame
		}
		p := r.Topics[0].Partitions[0]
		if err := w.Code(kmsg.Fetch, p.ErrorCode, wire.On{Topic: tp.Topic}); errors.Is(err, kafka.NotLeaderForPartition) {
			w.Forget(tp.Topic)
			continue
		} else if err != nil {
			return nil, at, err
		}
		var aborted []records.Aborted
		for _, a := range p.AbortedTransactions {
			aborted = append(aborted, records.Aborted{Producer: a.ProducerID, First: a.FirstOffset})
		}
		rs, next, err := records.Decode(p.RecordBatches, int64(at), aborted)
		if err != nil || next > int64(at) {
			return rs, starferry.Offset(next), err
		}
		if ctx.Err() != nil {
			return nil, at, fmt.Errorf("a transaction is open at offset %d: %w", at, context.Cause(ctx))
		}
	}
}

// Session is the right to decide about a topic on a cluster, until somebody else
// opens one.
type Session struct {
	w     *wire.Cluster
	t     starferry.Topic
	id    wire.Producer
	begun bool // a transaction is open, and nothing written in it
}

// Open takes the right to decide, from everybody who has it. What was decided
// before can be read from then on.
func Open(ctx context.Context, w *wire.Cluster, t starferry.Topic) (*Session, error) {
	return OpenFor(ctx, w, t, txTimeout)
}

// OpenFor is Open for a decision that may be begun so long before it is written.
func OpenFor(ctx context.Context, w *wire.Cluster, t starferry.Topic, d time.Duration) (*Session, error) {
	id, err := w.InitProducer(ctx, TransactionalID(t), max(d, txTimeout), wire.Producer{ID: -1, Epoch: -1})
	if err != nil {
		return nil, fmt.Errorf("take the right to decide about %s on %s: %w", t, w.Name(), err)
	}
	return &Session{w: w, t: t, id: id}, nil
}

// Begin opens the transaction of the decision, and finds out who has to be asked
// for it, so that Write need not. Nobody waits for a transaction in which nothing
// is written.
func (s *Session) Begin(ctx context.Context) error {
	if s.begun {
		return nil
	}
	tp := starferry.TopicPartition{Topic: Topic}
	if _, _, err := s.w.Leader(ctx, tp); err != nil {
		return fmt.Errorf("begin the decision about %s on %s: %w", s.t, s.w.Name(), err)
	}
	if err := s.w.AddPartitionsToTxn(ctx, TransactionalID(s.t), s.id, []starferry.TopicPartition{tp}); err != nil {
		return fmt.Errorf("begin the decision about %s on %s: %w", s.t, s.w.Name(), err)
	}
	s.begun = true
	return nil
}

// Abort ends what was begun and not written, so that whoever decides next need
// not wait for that.
func (s *Session) Abort(ctx context.Context) error {
	if !s.begun {
		return nil
	}
	s.begun = false
	if err := s.w.EndTxn(ctx, TransactionalID(s.t), s.id, false); err != nil {
		return fmt.Errorf("give up the decision about %s on %s: %w", s.t, s.w.Name(), err)
	}
	return nil
}

// Write writes an entry. After an error it may stand or not: open a session, then
// read.
func (s *Session) Write(ctx context.Context, e Entry) error {
	tp, txid := starferry.TopicPartition{Topic: Topic}, TransactionalID(s.t)
	e.Version, e.Topic = control.ProtocolVersion, s.t
	value, err := json.Marshal(e)
	if err != nil {
		return err
	}
	fail := func(err error) error {
		return fmt.Errorf("write to the book of producers on %s that %s lives on %s: %w", s.w.Name(), s.t, e.Home, err)
	}
	if err := s.Begin(ctx); err != nil {
		return fail(err)
	}
	s.begun = false // whatever becomes of it
	set := records.EncodeTxn([]records.Record{{Timestamp: e.At, Key: fmt.Appendf(nil, "%s/%d", s.t, e.Epoch), Value: value}}, s.id.ID, s.id.Epoch, 0)
	if _, err := s.w.ProduceTxn(ctx, txid, tp, set); err != nil {
		return fail(err)
	}
	if err := s.w.EndTxn(ctx, txid, s.id, true); err != nil {
		return fail(err)
	}
	return nil
}

// Home is where a topic lives.
type Home struct {
	Cluster starferry.ClusterName
	Epoch   starferry.Epoch // 0: it has never been moved
}

// findWithin is how long one cluster may take to answer before it counts as away.
const findWithin = 3 * time.Second

// Find reads the books of all clusters. For a topic that has never moved it
// is the configured home, if that has been asked. A cluster that is away does not
// matter if one that answers says that the topic lives there.
func Find(ctx context.Context, wires map[starferry.ClusterName]*wire.Cluster, t starferry.Topic, configured starferry.ClusterName) (Home, error) {
	var (
		mu     sync.Mutex
		wg     sync.WaitGroup
		newest = map[starferry.ClusterName]*Entry{}
		away   = map[starferry.ClusterName]error{}
	)
	for name, w := range wires {
		wg.Go(func() {
			short, cancel := context.WithTimeout(ctx, findWithin)
			defer cancel()
			es, err := Read(short, w, t)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				away[name] = err
			} else if len(es) > 0 {
				newest[name] = &es[len(es)-1]
			}
		})
	}
	wg.Wait()
	var best *Entry
	for _, e := range newest {
		if best == nil || e.Epoch > best.Epoch {
			best = e
		}
	}
	_, out := away[configured]
	switch {
	case best != nil && (away[best.Home] == nil || len(away) == 0):
		return Home{best.Home, best.Epoch}, nil
	case best == nil && !out:
		return Home{Cluster: configured}, nil
	}
	var why []string
	for _, c := range slices.Sorted(maps.Keys(away)) {
		why = append(why, fmt.Sprintf("%s: %v", c, away[c]))
	}
	return Home{}, fmt.Errorf("find where %s lives: %s", t, strings.Join(why, "; "))
}
