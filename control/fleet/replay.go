package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/internal/records"
)

// ReplayOrder puts records back that a group was spared: those that skips kept,
// or that were given up.
type ReplayOrder struct {
	Group starferry.Group
	Skip  string          // only what this skip has kept, with what switches carried over of it; empty: all
	From  starferry.Topic // where they are; empty: where skips of the group put them
	// To is where they go: empty for the group's first retry topic, which the
	// group alone reads; or the topic they came from, where every group sees them
	// again.
	To starferry.Topic
	// Again puts back what was put back before.
	Again   bool
	By, Why string
	Token   string
}

// ReplayReport says what a replay did.
type ReplayReport struct {
	Group    starferry.Group
	Cluster  starferry.ClusterName
	From, To starferry.Topic
	Records  int // put back
	Repeated int // left out: kept twice, since an instance died meanwhile
	Before   int // left out: put back before
}

// Headers of what is kept, as package consumer writes them.
const (
	keptTopic     = "starferry.topic"
	keptPartition = "starferry.partition"
	keptOffset    = "starferry.offset"
	keptTime      = "starferry.timestamp"
	keptGroup     = "starferry.group"
	keptSkip      = "starferry.skip"
	keptPrefix    = "starferry."
	replayedBy    = "starferry.replayed"
)

// replayed is what the audit trail keeps of a replay for programs: how far each
// partition of the topic was gone through.
type replayed struct {
	Cluster starferry.ClusterName                         `json:"cluster"`
	From    starferry.Topic                               `json:"from"`
	Skip    string                                        `json:"skip,omitempty"`
	Ends    map[starferry.TopicPartition]starferry.Offset `json:"ends"`
	Report  ReplayReport                                  `json:"report"`
}

// Replay puts records back. If it is broken off, what was put back by then is
// put back again by the next one.
func (f *Fleet) Replay(ctx context.Context, o ReplayOrder) (ReplayReport, error) {
	fail := func(err error) (ReplayReport, error) {
		return ReplayReport{}, fmt.Errorf("replay what %s was spared: %w", o.Group, err)
	}
	r := replay{f: f, o: o, seen: map[string]bool{}}
	if err := r.prepare(ctx); err != nil {
		return fail(err)
	}
	if r.done != nil {
		return *r.done, nil
	}
	event := desired.Event{Group: o.Group, What: "replay", Who: o.By, Why: o.Why, Token: o.Token, When: f.c.Now().UnixMilli(),
		Detail: fmt.Sprintf("from %s to %s on %s %s", r.report.From, r.report.To, r.report.Cluster, o.Skip)}
	if err := f.c.Store.Audit(ctx, event); err != nil {
		return fail(err)
	}
	err := r.run(ctx)
	event.What, event.When = "replayed", f.c.Now().UnixMilli()
	event.Detail = fmt.Sprintf("%d records from %s to %s", r.report.Records, r.report.From, r.report.To)
	event.Data, _ = json.Marshal(replayed{r.report.Cluster, r.report.From, o.Skip, r.ends, r.report}) // plain data: it cannot fail
	if err != nil {
		event.What, event.Detail, event.Data = "replay failed", fmt.Sprintf("after %d records: %v", r.report.Records, err), nil
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	if err = errors.Join(err, f.c.Store.Audit(late, event)); err != nil {
		return fail(err)
	}
	return r.report, nil
}

// replay is one replay under way.
type replay struct {
	f      *Fleet
	o      ReplayOrder
	report ReplayReport
	done   *ReplayReport                                 // of the same token
	begin  map[starferry.TopicPartition]starferry.Offset // gone through before
	ends   map[starferry.TopicPartition]starferry.Offset
	seen   map[string]bool // by original place
	to     int             // partitions of report.To; 0: each goes back where it came from
}

func (r *replay) prepare(ctx context.Context) error {
	h, err := r.f.Home(ctx, r.o.Group)
	if err != nil {
		return err
	}
	leases, err := r.f.c.Store.Leases(ctx, r.o.Group)
	if err != nil {
		return err
	}
	r.report = ReplayReport{Group: r.o.Group, Cluster: h.Cluster, From: r.o.From, To: r.o.To}
	if r.report.From == "" {
		r.report.From = keepTopic(r.o.Group, leases)
	}
	for _, l := range leases {
		if r.report.To == "" {
			r.report.To = l.Retry
		}
	}
	if r.report.To == "" {
		return errors.New("its instances read no retry topic, so nothing can be put back to this group alone; name the topic the records came from as to: every group that reads it sees them again; or rewind the group, once the skip is taken back")
	}
	w, err := r.f.cluster(h.Cluster)
	if err != nil {
		return err
	}
	meta, err := w.Metadata(ctx, r.report.From, r.report.To)
	if err != nil {
		return err
	}
	for _, t := range []starferry.Topic{r.report.From, r.report.To} {
		if len(meta.Topics[t].Partitions) == 0 {
			return fmt.Errorf("there is no topic %s on %s: %w", t, h.Cluster, errors.Join(meta.Topics[t].Err))
		}
	}
	for _, l := range leases {
		if l.Retry == r.report.To {
			r.to = len(meta.Topics[l.Retry].Partitions)
		}
	}
	r.ends = map[starferry.TopicPartition]starferry.Offset{}
	for _, p := range meta.Topics[r.report.From].Partitions {
		r.ends[starferry.TopicPartition{Topic: r.report.From, Partition: p.Partition}] = 0
	}
	return r.before(ctx)
}

// before finds out how far earlier replays of the same have come.
func (r *replay) before(ctx context.Context) error {
	events, err := r.f.c.Store.AuditLog(ctx, desired.AuditFilter{Group: r.o.Group})
	if err != nil {
		return err
	}
	r.begin = map[starferry.TopicPartition]starferry.Offset{}
	for _, e := range events {
		var was replayed
		if e.What != "replayed" {
			continue
		}
		if err := json.Unmarshal(e.Data, &was); err != nil {
			return fmt.Errorf("audit event %d: %w", e.Sequence, err)
		}
		if r.o.Token != "" && e.Token == r.o.Token {
			r.done = &was.Report
		}
		if r.o.Again || was.Cluster != r.report.Cluster || was.From != r.report.From || was.Skip != "" && was.Skip != r.o.Skip {
			continue
		}
		for tp, end := range was.Ends {
			r.begin[tp] = max(r.begin[tp], end)
		}
	}
	return nil
}

// run goes through all that was kept.
func (r *replay) run(ctx context.Context) error {
	tps := make([]starferry.TopicPartition, 0, len(r.ends))
	for tp := range r.ends {
		tps = append(tps, tp)
	}
	slices.SortFunc(tps, starferry.TopicPartition.Compare)
	for _, tp := range tps {
		err := r.f.scan(ctx, r.report.Cluster, tp, 0, 0, func(rs []records.Record) (bool, error) {
			for _, k := range rs {
				if err := r.put(ctx, tp, k); err != nil {
					return false, err
				}
				r.ends[tp] = starferry.Offset(k.Offset) + 1
			}
			return true, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// put puts one record back, if it is meant.
func (r *replay) put(ctx context.Context, at starferry.TopicPartition, k records.Record) error {
	own := map[string]string{}
	for _, h := range k.Headers {
		own[h.Key] = string(h.Value)
	}
	if own[keptGroup] != string(r.o.Group) || r.o.Skip != "" && !sameSkip(own[keptSkip], r.o.Skip) {
		return nil
	}
	origin, ms, err := originOf(own)
	if err != nil {
		return fmt.Errorf("%s@%d: %w", at, k.Offset, err)
	}
	if starferry.Offset(k.Offset) < r.begin[at] {
		r.report.Before++
		return nil
	}
	if place := origin + "@" + own[keptOffset] + " " + own["starferry.cluster"]; r.seen[place] {
		r.report.Repeated++
		return nil
	} else {
		r.seen[place] = true
	}
	tp, out, err := r.back(own, k, ms)
	if err != nil {
		return fmt.Errorf("%s@%d: %w", at, k.Offset, err)
	}
	w, err := r.f.cluster(r.report.Cluster)
	if err != nil {
		return err
	}
	if _, err := w.Produce(ctx, tp, records.Encode([]records.Record{out})); err != nil {
		return err
	}
	r.report.Records++
	return nil
}

// back is a record as it is put back, and where.
func (r *replay) back(own map[string]string, k records.Record, ms int64) (starferry.TopicPartition, records.Record, error) {
	partition, err := strconv.ParseInt(own[keptPartition], 10, 32)
	if err != nil {
		return starferry.TopicPartition{}, k, err
	}
	tp := starferry.TopicPartition{Topic: r.report.To, Partition: starferry.Partition(partition)}
	k.Timestamp = time.Now().UnixMilli()
	if r.to > 0 { // instances give it its own coordinates back by its headers
		tp.Partition = starferry.Partition(int(partition) % r.to)
		return tp, k, nil
	}
	if own[keptTopic] != string(r.report.To) {
		return tp, k, fmt.Errorf("it came from %s, not from %s; name that, or a retry topic of the group", own[keptTopic], r.report.To)
	}
	k.Headers = slices.DeleteFunc(slices.Clone(k.Headers), func(h records.Header) bool { return strings.HasPrefix(h.Key, keptPrefix) })
	k.Headers = append(k.Headers, records.Header{Key: replayedBy, Value: []byte(own[keptOffset])})
	k.Timestamp = ms
	return tp, k, nil
}

func originOf(own map[string]string) (string, int64, error) {
	ms, err := strconv.ParseInt(own[keptTime], 10, 64)
	if err != nil || own[keptTopic] == "" {
		return "", 0, errors.New("its headers do not say where it came from; was it put there by starferry?")
	}
	return own[keptTopic] + "/" + own[keptPartition], ms, nil
}

// sameSkip reports whether a skip is another, or what a switch carried over of it.
func sameSkip(id, of string) bool {
	root, _, _ := strings.Cut(id, "@")
	return id == of || root == of
}
