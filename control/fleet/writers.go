package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/homebook"
	"github.com/starferry/starferry/internal/wire"
)

// TopicHome is where the producers of a topic write.
type TopicHome struct {
	Topic   starferry.Topic
	Cluster starferry.ClusterName // empty: it has never been moved, and no producer says
	Epoch   starferry.Epoch
	Token   string // of the switch that brought it here, if one did
	Leases  []control.ProducerLease
}

// ProducersHome says where the producers of a topic write: what Kafka says, or,
// if it has never been moved, what they say themselves.
func (f *Fleet) ProducersHome(ctx context.Context, t starferry.Topic) (TopicHome, error) {
	out := TopicHome{Topic: t}
	store := f.c.Store.Producing()
	var err error
	if out.Leases, err = store.Leases(ctx, t); err != nil {
		return out, err
	}
	out.Leases = slices.DeleteFunc(out.Leases, func(l control.ProducerLease) bool { return l.Closed })
	var said starferry.ClusterName
	for _, l := range out.Leases {
		said = cmp.Or(said, l.Home)
	}
	names := f.names()
	h, err := homebook.Find(ctx, f.c.Clusters, t, cmp.Or(said, names[0]))
	if err != nil {
		return out, err
	}
	if out.Cluster, out.Epoch = h.Cluster, h.Epoch; h.Epoch == 0 {
		out.Cluster = said
	}
	p, _, err := store.Placement(ctx, t)
	if err == nil && p.Epoch == h.Epoch {
		out.Token = p.Token
	} else if err != nil && !errors.Is(err, desired.ErrNotFound) {
		return out, err
	}
	return out, nil
}

// Writing is who wrote a topic on one cluster while it was watched.
type Writing struct {
	Cluster starferry.ClusterName `json:"cluster"`
	// Records is by how much the log has grown, all partitions together.
	Records int64    `json:"records"`
	Writers []Writer `json:"writers"`
	Error   string   `json:"error,omitempty"` // why it could not be watched
}

// Writer is one producer id, or all that write without one.
type Writer struct {
	// Who is the instance, the link, or the transactional id; or says that it is
	// not known. Kind is library, link, transactional, or unknown.
	Who     string `json:"who"`
	Kind    string `json:"kind"`
	ID      int64  `json:"id"`      // −1: without a producer id
	Records int64  `json:"records"` // while it was watched
	Last    int64  `json:"last"`    // time of its newest record, Unix milliseconds; 0: unknown
}

// Foreign counts the records of those that are no link.
func (w Writing) Foreign() int64 {
	var n int64
	for _, x := range w.Writers {
		if x.Kind != "link" {
			n += x.Records
		}
	}
	return n
}

// Writing watches who writes a topic, on every cluster, for some time.
func (f *Fleet) Writing(ctx context.Context, t starferry.Topic, during time.Duration) ([]Writing, error) {
	names := f.names()
	first := make([]look, len(names))
	for i, n := range names {
		first[i] = f.glance(ctx, f.c.Clusters[n], t)
	}
	timer := time.NewTimer(during)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	leases, err := f.c.Store.Producing().Leases(ctx, t)
	if err != nil {
		return nil, err
	}
	out := make([]Writing, len(names))
	for i, n := range names {
		last := f.glance(ctx, f.c.Clusters[n], t)
		out[i] = compare(n, first[i], last, leases)
		if k := len(out[i].Writers); k > 0 && out[i].Writers[k-1].ID == unnamed {
			out[i] = f.recount(ctx, out[i], first[i], last, leases)
		}
	}
	return out, nil
}

// look is a topic's log and its producers at one moment.
type look struct {
	ends  map[starferry.TopicPartition]starferry.Offset
	at    map[seat]kmsg.DescribeProducersResponseTopicPartitionActiveProducer
	names map[int64]string // transactional ids
	err   error
}

// seat is a producer id's place in a partition.
type seat struct {
	id    int64
	epoch int32
	part  int32
}

func (f *Fleet) glance(ctx context.Context, w *wire.Cluster, t starferry.Topic) (l look) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	l.at, l.names = map[seat]kmsg.DescribeProducersResponseTopicPartitionActiveProducer{}, map[int64]string{}
	m, err := w.Metadata(ctx, t)
	if err != nil {
		l.err = err
		return l
	}
	if errors.Is(m.Topics[t].Err, kafka.UnknownTopicOrPartition) {
		return l // nobody writes what is not there
	}
	var tps []starferry.TopicPartition
	for _, p := range m.Topics[t].Partitions {
		tps = append(tps, starferry.TopicPartition{Topic: t, Partition: p.Partition})
	}
	for _, p := range m.Topics[t].Partitions {
		if l.err = l.producers(ctx, w, t, p); l.err != nil {
			return l
		}
	}
	if l.ends, l.err = w.Offsets(ctx, tps, wire.Latest); l.err != nil {
		return l
	}
	for _, b := range m.Brokers {
		r, err := w.DoOn(ctx, b.ID, kmsg.NewPtrListTransactionsRequest())
		if err != nil {
			continue // before Kafka 3.0, or not allowed: they have no names then
		}
		for _, x := range r.(*kmsg.ListTransactionsResponse).TransactionStates {
			l.names[x.ProducerID] = x.TransactionalID
		}
	}
	return l
}

// producers asks a partition's leader who writes (KIP-664).
func (l *look) producers(ctx context.Context, w *wire.Cluster, t starferry.Topic, p wire.PartitionMeta) error {
	req := kmsg.NewPtrDescribeProducersRequest()
	rt := kmsg.NewDescribeProducersRequestTopic()
	rt.Topic, rt.Partitions = string(t), []int32{int32(p.Partition)}
	req.Topics = append(req.Topics, rt)
	r, err := w.DoOn(ctx, p.Leader, req)
	if err != nil {
		return fmt.Errorf("ask who writes %s/%d on %s: %w", t, p.Partition, w.Name(), err)
	}
	for _, at := range r.(*kmsg.DescribeProducersResponse).Topics {
		for _, rp := range at.Partitions {
			if err := w.Code(kmsg.DescribeProducers, rp.ErrorCode, wire.On{Topic: t}); err != nil {
				return fmt.Errorf("ask who writes %s/%d on %s: %w", t, p.Partition, w.Name(), err)
			}
			for _, a := range rp.ActiveProducers {
				l.at[seat{a.ProducerID, a.ProducerEpoch, rp.Partition}] = a
			}
		}
	}
	return nil
}

// compare tells what has happened between two looks. Sequences count the records
// of a producer id (KIP-98); for what the log has grown by beyond them it is read.
func compare(c starferry.ClusterName, a, b look, leases []control.ProducerLease) Writing {
	out := Writing{Cluster: c, Writers: []Writer{}}
	if err := errors.Join(a.err, b.err); err != nil {
		out.Error = err.Error()
		return out
	}
	for tp, end := range b.ends {
		out.Records += int64(end - a.ends[tp])
	}
	rest := out.Records
	by := map[int64]*Writer{}
	for s, now := range b.at {
		n := int64(now.LastSequence - a.at[s].LastSequence)
		if _, known := a.at[s]; !known {
			n = int64(now.LastSequence) + 1
		}
		if n < 0 {
			n += 1 << 31
		}
		if n == 0 {
			continue
		}
		w := by[s.id]
		if w == nil {
			w = &Writer{ID: s.id}
			w.Who, w.Kind = name(c, s.id, b.names, leases)
			by[s.id] = w
		}
		w.Records += n
		w.Last = max(w.Last, now.LastTimestamp)
		rest -= n
	}
	for _, id := range slices.Sorted(maps.Keys(by)) {
		out.Writers = append(out.Writers, *by[id])
	}
	if rest > 0 {
		out.Writers = append(out.Writers, Writer{Who: "without a producer id", Kind: "unknown", ID: unnamed, Records: rest})
	}
	return out
}

// unnamed is the producer id of records that have none.
const unnamed = -1

// recount looks into the log itself, where sequences do not explain its growth.
// Markers are nobody's records.
func (f *Fleet) recount(ctx context.Context, w Writing, a, b look, leases []control.ProducerLease) Writing {
	ctx, cancel := context.WithTimeout(ctx, 2*readTimeout)
	defer cancel()
	by, err := f.tally(ctx, f.c.Clusters[w.Cluster], a.ends, b.ends)
	if err != nil {
		w.Error = err.Error()
		return w
	}
	w.Writers = w.Writers[:0]
	rest := w.Records
	for _, id := range slices.Sorted(maps.Keys(by)) {
		rest -= by[id]
		x := Writer{Who: "without a producer id", Kind: "unknown", ID: id, Records: by[id]}
		if id >= 0 {
			x.Who, x.Kind = name(w.Cluster, id, b.names, leases)
		}
		if id != marker {
			w.Writers = append(w.Writers, x)
		}
	}
	if rest > 0 && len(by) == 0 {
		w.Writers = append(w.Writers, Writer{Who: "nobody knows", Kind: "unknown", ID: unnamed, Records: rest})
	}
	return w
}

func name(c starferry.ClusterName, id int64, names map[int64]string, leases []control.ProducerLease) (who, kind string) {
	for _, l := range leases {
		if slices.Contains(l.Writers[c], id) {
			return string(l.Instance), "library"
		}
	}
	txid := names[id]
	switch {
	case strings.HasPrefix(txid, "starferry."):
		return txid, "link"
	case txid != "":
		return txid, "transactional"
	}
	return fmt.Sprintf("producer id %d", id), "unknown"
}
