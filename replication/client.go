package replication

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"golang.org/x/sync/errgroup"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

// ErrNoLink is wrapped by errors about a link that is not there.
var ErrNoLink = errNoLink

// askTimeout bounds one question to one shard.
const askTimeout = 3 * time.Second

// Client makes links and asks the shards about them.
type Client struct {
	nc       *nats.Conn
	log      *slog.Logger
	conf     map[starferry.ClusterName]starferry.Cluster
	leaseTTL time.Duration
	page     int // segments of a map that travel at once

	mu       sync.Mutex
	store    *store
	met      uint64 // reconnections when it was opened
	clusters map[starferry.ClusterName]*wire.Cluster
	known    []LinkSpec // as of knownAt
	knownAt  change
}

// NewClient prepares a client; it connects when it is first asked something.
// The NATS connection stays the caller's.
func NewClient(nc *nats.Conn, clusters map[starferry.ClusterName]starferry.Cluster, log *slog.Logger) *Client {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Client{nc: nc, log: log, conf: clusters, leaseTTL: DefaultLeaseTTL, page: pageSegments, clusters: map[starferry.ClusterName]*wire.Cluster{}}
}

// Close closes the connections to the clusters.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs error
	for _, w := range c.clusters {
		errs = errors.Join(errs, w.Close())
	}
	clear(c.clusters)
	return errs
}

// LinkStatus says how a link stands.
type LinkStatus struct {
	Spec  LinkSpec     `json:"spec"`
	Lanes []LaneStatus `json:"lanes"` // in order
	// Problems say why topics that match a pattern are not copied.
	Problems map[starferry.Topic]string `json:"problems,omitempty"`

	denied string // an ACL that a shard lacks

	seen uint64 // the oldest revision of the spec that an owner works by
}

// Rate is how many bytes a second all lanes copy, of late.
func (s LinkStatus) Rate() (sum int64) {
	for _, l := range s.Lanes {
		sum += l.Rate
	}
	return sum
}

// State sums the lanes up, worst first: stopped, unowned, recovering, stalled,
// copying, paused, done; with the reason of the first lane in that state.
func (s LinkStatus) State() (LaneState, string) {
	for _, st := range []LaneState{Stopped, Unowned, Recovering, Stalled, Copying, Paused, Done} {
		for _, l := range s.Lanes {
			switch {
			case l.State != st:
			case st == Copying:
				return st, s.problem()
			case st == Paused:
				return st, l.Reason
			default:
				return st, l.Partition.String() + ": " + cmp.Or(l.Reason, string(st))
			}
		}
	}
	if len(s.Lanes) == 0 && len(s.Spec.Patterns) > 0 {
		return Copying, fmt.Sprintf("no topic of %s matches %s: nothing is copied until one does", s.Spec.Source, strings.Join(s.Spec.Patterns, ", "))
	}
	return Copying, ""
}

// problem is the first reason why a topic that matches is not copied.
func (s LinkStatus) problem() string {
	for _, t := range slices.Sorted(maps.Keys(s.Problems)) {
		return fmt.Sprintf("topic %s matches and is not copied: %s", t, s.Problems[t])
	}
	return ""
}

// Links lists the specs of all links.
func (c *Client) Links(ctx context.Context) ([]LinkSpec, error) {
	st, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	specs, err := st.Links(ctx)
	slices.SortFunc(specs, func(a, b LinkSpec) int { return cmp.Compare(a.Name, b.Name) })
	return specs, err
}

// Status asks the shards about all lanes of a link.
func (c *Client) Status(ctx context.Context, name starferry.LinkName) (LinkStatus, error) {
	st, err := c.open(ctx)
	if err != nil {
		return LinkStatus{}, err
	}
	spec, err := st.Link(ctx, name)
	if err != nil {
		return LinkStatus{}, err
	}
	table, err := st.Table(ctx, name)
	if err != nil {
		return LinkStatus{}, err
	}
	known, notes, out := c.askStatus(ctx, name, table)
	out.Spec = spec
	lanes, ends, err := c.lanes(ctx, spec)
	if err != nil {
		return LinkStatus{}, err
	}
	for _, tp := range lanes {
		n := spec.BucketOf(tp)
		l, ok := known[tp]
		if !ok {
			l = LaneStatus{Partition: tp, Bucket: n, State: Unowned, SourceEnd: -1, SourceNext: -1, TargetNext: -1, Lag: -1, Until: -1}
			l.Owner = ownerOf(table, n)
			l.Reason = cmp.Or(notes[n], fmt.Sprintf("bucket %d has no owner", n))
		}
		if end, ok := ends[tp]; ok {
			l.SourceEnd = end
			l.measure()
		}
		out.Lanes = append(out.Lanes, l)
	}
	return out, nil
}

func ownerOf(t Table, bucket int) ShardID {
	if bucket < len(t.Owners) {
		return t.Owners[bucket].Shard
	}
	return ""
}

// askStatus asks every owner, page by page. Notes tell for each bucket why
// nothing is known of it; sum is what owners say of the whole link.
func (c *Client) askStatus(ctx context.Context, link starferry.LinkName, t Table) (known map[starferry.TopicPartition]LaneStatus, notes map[int]string, sum LinkStatus) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	known, notes, sum = map[starferry.TopicPartition]LaneStatus{}, map[int]string{}, LinkStatus{seen: math.MaxUint64}
	for s, buckets := range t.byShard() {
		wg.Go(func() {
			q := statusRequest{Link: link}
			for {
				var r statusReply
				err := c.ask(ctx, s, "status", q, &r, 0)
				if err == nil && r.Error != "" {
					err = errors.New(r.Error)
				}
				mu.Lock()
				sum.seen = min(sum.seen, r.Revision)
				if r.Denied != "" {
					sum.denied = fmt.Sprintf("shard %s: %s", s, r.Denied)
				}
				if len(r.Problems) > 0 {
					sum.Problems = r.Problems
				}
				for _, n := range buckets {
					switch {
					case err != nil:
						notes[n] = err.Error()
					case r.Notes[n] != "":
						notes[n] = r.Notes[n]
					case notes[n] == "":
						notes[n] = fmt.Sprintf("shard %s is taking bucket %d up", s, n)
					}
				}
				for _, l := range r.Lanes {
					if ownerOf(t, l.Bucket) == s {
						known[l.Partition] = l
					}
				}
				mu.Unlock()
				if err != nil || !r.More || len(r.Lanes) == 0 {
					return
				}
				q.After = r.Lanes[len(r.Lanes)-1].Partition
			}
		})
	}
	wg.Wait()
	return known, notes, sum
}

func (t Table) byShard() map[ShardID][]int {
	out := map[ShardID][]int{}
	for b, o := range t.Owners {
		if o.Shard != "" {
			out[o.Shard] = append(out[o.Shard], b)
		}
	}
	return out
}

// lanes lists a link's lanes and where their source ends.
func (c *Client) lanes(ctx context.Context, spec LinkSpec) ([]starferry.TopicPartition, map[starferry.TopicPartition]starferry.Offset, error) {
	src, err := c.cluster(spec.Source)
	if err != nil {
		return nil, nil, err
	}
	m, err := src.Metadata(ctx, spec.Topics...)
	if err != nil {
		return nil, nil, fmt.Errorf("look up topics of link %s on %s: %w", spec.Name, spec.Source, err)
	}
	var lanes []starferry.TopicPartition
	for _, t := range spec.Topics {
		for _, p := range m.Topics[t].Partitions {
			lanes = append(lanes, starferry.TopicPartition{Topic: t, Partition: p.Partition})
		}
	}
	slices.SortFunc(lanes, starferry.TopicPartition.Compare)
	ends, err := src.Offsets(ctx, lanes, wire.Latest)
	if err != nil {
		c.log.Warn("ends of the source not read", "link", spec.Name, "err", err)
	}
	return lanes, ends, nil
}

// Translate answers for a cut in one direction, as things stand now.
func (c *Client) Translate(ctx context.Context, link starferry.LinkName, d starferry.Direction, cut starferry.Cut) (starferry.Translation, error) {
	return c.TranslateWithin(ctx, link, d, cut, 0)
}

// TranslateWithin lets the shards wait, at most for within, until the copy has
// passed the cut; they are woken by the copy itself. Partitions that could not
// be asked are asked again as long as there is time.
func (c *Client) TranslateWithin(ctx context.Context, link starferry.LinkName, d starferry.Direction, cut starferry.Cut, within time.Duration) (starferry.Translation, error) {
	out := newTranslation()
	st, err := c.open(ctx)
	if err != nil {
		return out, err
	}
	deadline := time.Now().Add(within)
	left := cut
	for {
		spec, table, specs, err := c.lookUp(ctx, st, link)
		if err != nil {
			return out, err
		}
		both, rest := opposites(specs, spec, d, left)
		t := c.translate(ctx, spec, table, d, rest, time.Until(deadline))
		if len(both) > 0 {
			crossed, err := c.cross(ctx, st, both, time.Until(deadline))
			if err != nil {
				return out, err
			}
			maps.Copy(t.Cut, crossed.Cut)
			maps.Copy(t.Answers, crossed.Answers)
			maps.Copy(t.Missing, crossed.Missing)
			maps.Copy(t.Behind, crossed.Behind)
		}
		maps.Copy(out.Cut, t.Cut)
		maps.Copy(out.Answers, t.Answers)
		out.Missing, out.Behind = t.Missing, t.Behind
		if t.Final() || time.Until(deadline) <= 0 {
			return out, nil
		}
		left = starferry.Cut{}
		for _, tp := range slices.Concat(slices.Collect(maps.Keys(t.Missing)), slices.Collect(maps.Keys(t.Behind))) {
			left[tp] = cut[tp]
		}
		if wait(ctx, 20*time.Millisecond) != nil {
			return out, context.Cause(ctx)
		}
	}
}

// lookUp reads what a translation needs to know of links, all at once: a group
// stands still meanwhile.
func (c *Client) lookUp(ctx context.Context, st *store, link starferry.LinkName) (spec LinkSpec, table Table, specs []LinkSpec, err error) {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) { spec, err = st.Link(ctx, link); return err })
	g.Go(func() (err error) { table, err = st.Table(ctx, link); return err })
	g.Go(func() (err error) { specs, err = c.specs(ctx, st); return err })
	return spec, table, specs, g.Wait()
}

func (c *Client) translate(ctx context.Context, spec LinkSpec, table Table, d starferry.Direction, cut starferry.Cut, within time.Duration) starferry.Translation {
	out := newTranslation()
	shares := map[ShardID][]starferry.TopicPartition{}
	for _, tp := range cut.Partitions() {
		from, ok := spec.laneOf(d, tp)
		n := spec.BucketOf(from)
		s := ownerOf(table, n)
		switch {
		case !ok:
			out.Missing[tp] = fmt.Sprintf("link %s copies no topic to %s", spec.Name, tp.Topic)
		case !spec.has(from.Topic):
			out.Missing[tp] = fmt.Sprintf("topic %s is not on link %s", from.Topic, spec.Name)
		case s == "":
			out.Missing[tp] = fmt.Sprintf("bucket %d has no owner", n)
		default:
			shares[s] = append(shares[s], tp)
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for s, tps := range shares {
		for part := range slices.Chunk(tps, partLanes) {
			wg.Go(func() {
				q := translateRequest{Link: spec.Name, Direction: d, Cut: starferry.Cut{}, WaitMS: max(0, within.Milliseconds())}
				for _, tp := range part {
					q.Cut[tp] = cut[tp]
				}
				var r translateReply
				err := c.ask(ctx, s, "translate", q, &r, within)
				if err == nil && r.Error != "" {
					err = errors.New(r.Error)
				}
				mu.Lock()
				defer mu.Unlock()
				for _, tp := range part {
					if err != nil {
						out.Missing[tp] = err.Error()
					}
				}
				maps.Copy(out.Cut, r.Cut)
				maps.Copy(out.Answers, r.Answers)
				maps.Copy(out.Missing, r.Missing)
				maps.Copy(out.Behind, r.Behind)
			})
		}
	}
	wg.Wait()
	return out
}

// ask puts one question to one shard.
func (c *Client) ask(ctx context.Context, s ShardID, what string, q, r any, more time.Duration) error {
	b, err := json.Marshal(q)
	if err != nil {
		return fmt.Errorf("ask shard %s: %w", s, err)
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout+max(0, more))
	defer cancel()
	m, err := c.nc.RequestWithContext(ctx, subject(s, what), b)
	if errors.Is(err, nats.ErrNoResponders) {
		return fmt.Errorf("shard %s does not answer", s)
	}
	if err != nil {
		return fmt.Errorf("ask shard %s: %w", s, err)
	}
	if err := json.Unmarshal(m.Data, r); err != nil {
		return fmt.Errorf("read answer of shard %s: %w", s, err)
	}
	return nil
}

func (c *Client) open(ctx context.Context) (*store, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// A server that was away may have come back without its buckets.
	met := c.nc.Stats().Reconnects
	if c.store != nil && c.met == met {
		return c.store, nil
	}
	st, err := openStore(ctx, c.nc, c.leaseTTL)
	if err != nil {
		return nil, err
	}
	c.store, c.met = st, met
	return st, nil
}

func (c *Client) cluster(name starferry.ClusterName) (*wire.Cluster, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.clusters[name]; w != nil {
		return w, nil
	}
	conf, ok := c.conf[name]
	if !ok {
		return nil, fmt.Errorf("no cluster %q is configured", name)
	}
	w, err := wire.Open(conf, wire.WithLogger(c.log))
	if err != nil {
		return nil, err
	}
	c.clusters[name] = w
	return w, nil
}
