package replication

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

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

	mu       sync.Mutex
	store    *store
	clusters map[starferry.ClusterName]*wire.Cluster
}

// NewClient prepares a client; it connects when it is first asked something.
// The NATS connection stays the caller's.
func NewClient(nc *nats.Conn, clusters map[starferry.ClusterName]starferry.Cluster, log *slog.Logger) *Client {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Client{nc: nc, log: log, conf: clusters, leaseTTL: DefaultLeaseTTL, clusters: map[starferry.ClusterName]*wire.Cluster{}}
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
}

// State sums the lanes up, worst first: stopped, unowned, recovering, stalled,
// copying; with the reason of the first lane in that state.
func (s LinkStatus) State() (LaneState, string) {
	if s.Spec.Paused {
		return Stopped, "the link is paused"
	}
	for _, st := range []LaneState{Stopped, Unowned, Recovering, Stalled} {
		for _, l := range s.Lanes {
			if l.State == st {
				return st, l.Partition.String() + ": " + cmp.Or(l.Reason, string(st))
			}
		}
	}
	return Copying, ""
}

// Ensured is what Ensure did.
type Ensured struct {
	LinkStatus
	Created bool              // the request made the link
	Added   []starferry.Topic // the topics it added, all of them if it made the link
}

// Ensure makes a link, or adds topics to it: it creates the target topics,
// writes the spec and returns when every lane is owned and past its recovery.
// It does not wait for the copy. A repeated request with the same token says
// the same again. Lanes that have stopped are tried once more.
func (c *Client) Ensure(ctx context.Context, want LinkSpec) (Ensured, error) {
	if want.Name == "" {
		want.Name = starferry.LinkName(fmt.Sprintf("%s-to-%s", want.Source, want.Target))
	}
	if err := want.Check(); err != nil {
		return Ensured{}, fmt.Errorf("ensure %w", err)
	}
	src, err := c.cluster(want.Source)
	if err != nil {
		return Ensured{}, fmt.Errorf("ensure link %s: %w", want.Name, err)
	}
	tgt, err := c.cluster(want.Target)
	if err != nil {
		return Ensured{}, fmt.Errorf("ensure link %s: %w", want.Name, err)
	}
	if err := makeTopics(ctx, src, tgt, want); err != nil {
		return Ensured{}, fmt.Errorf("ensure link %s: %w", want.Name, err)
	}
	spec, err := c.put(ctx, want)
	if err != nil {
		return Ensured{}, fmt.Errorf("ensure link %s: %w", want.Name, err)
	}
	out := Ensured{Created: spec.AddedBy[""] == want.Token && (want.Token != "" || spec.made)}
	for _, t := range spec.Topics {
		if by, ok := spec.AddedBy[t]; ok && by == want.Token && (want.Token != "" || spec.fresh[t]) {
			out.Added = append(out.Added, t)
		}
	}
	out.LinkStatus, err = c.ready(ctx, spec)
	return out, err
}

// put writes the spec by compare-and-set.
func (c *Client) put(ctx context.Context, want LinkSpec) (LinkSpec, error) {
	st, err := c.open(ctx)
	if err != nil {
		return want, err
	}
	for {
		have, err := st.Link(ctx, want.Name)
		made := errors.Is(err, errNoLink)
		if err != nil && !made {
			return want, err
		}
		next, err := c.widen(ctx, have, want, made)
		if err != nil || next.Revision != 0 && !next.changed {
			return next, err
		}
		next.Revision, err = st.PutLink(ctx, next)
		if !errors.Is(err, errChanged) {
			return next, err
		}
	}
}

// widen says what the spec has to be so that it covers what is wanted.
func (c *Client) widen(ctx context.Context, have, want LinkSpec, made bool) (LinkSpec, error) {
	if made {
		next := want.normal()
		next.AddedBy = map[starferry.Topic]string{"": want.Token}
		next.made, next.changed, next.fresh = true, true, map[starferry.Topic]bool{}
		for _, t := range next.Topics {
			next.AddedBy[t], next.fresh[t] = want.Token, true
		}
		return next, nil
	}
	if have.Source != want.Source || have.Target != want.Target {
		return have, fmt.Errorf("it leads from %s to %s already; choose another name", have.Source, have.Target)
	}
	if !maps.Equal(have.Rename, want.Rename) {
		return have, fmt.Errorf("it copies under other names (rename %s), and what it has copied lies under those; ask for it with the same rename, or choose another name for the link", have.Rename)
	}
	next := have
	next.AddedBy = maps.Clone(have.AddedBy)
	if next.AddedBy == nil {
		next.AddedBy = map[starferry.Topic]string{}
	}
	next.fresh = map[starferry.Topic]bool{}
	next.Topics = slices.Clone(have.Topics)
	for _, t := range want.Topics {
		if !slices.Contains(next.Topics, t) {
			next.Topics = append(next.Topics, t)
			next.AddedBy[t], next.fresh[t] = want.Token, true
			next.changed = true
		}
	}
	if want.RateBytes != have.RateBytes {
		next.RateBytes, next.changed = want.RateBytes, true
	}
	if have.Paused != want.Paused {
		next.Paused, next.changed = want.Paused, true
	}
	if status, err := c.Status(ctx, have.Name); err == nil {
		if slices.ContainsFunc(status.Lanes, func(l LaneStatus) bool { return l.State == Stopped }) {
			next.Attempt++
			next.changed = true
		}
	}
	if err := next.Rename.collide(next.Topics); err != nil {
		return have, err
	}
	return next.normal(), nil
}

// ready waits until every lane copies, or one of them has stopped.
func (c *Client) ready(ctx context.Context, spec LinkSpec) (LinkStatus, error) {
	var last LinkStatus
	for first := true; ; first = false {
		status, err := c.Status(ctx, spec.Name)
		if err == nil {
			last = status
			if spec.Paused {
				return status, nil
			}
			state, reason := status.State()
			if status.Spec.Revision >= spec.Revision && len(status.Lanes) > 0 {
				switch {
				case state == Copying, state == Stalled:
					return status, nil
				case state == Stopped && !first:
					return status, fmt.Errorf("link %s: lane %s", spec.Name, reason)
				}
			}
			err = fmt.Errorf("%s: %s", state, reason)
		}
		if wait(ctx, 50*time.Millisecond) != nil {
			return last, fmt.Errorf("link %s was written, and is not ready: %w (%w); are shards running?", spec.Name, err, ctx.Err())
		}
	}
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

// Stop ends a link; its target topics stay, and so does what the target's
// state topic knows: a link of the same name goes on where this one ended.
// Stopping an unknown link is no error.
func (c *Client) Stop(ctx context.Context, name starferry.LinkName) error {
	st, err := c.open(ctx)
	if err != nil {
		return err
	}
	return st.DropLink(ctx, name)
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
	known, notes := c.askStatus(ctx, name, table)
	lanes, ends, err := c.lanes(ctx, spec)
	if err != nil {
		return LinkStatus{}, err
	}
	out := LinkStatus{Spec: spec}
	for _, tp := range lanes {
		n := spec.BucketOf(tp)
		l, ok := known[tp]
		if !ok {
			l = LaneStatus{Partition: tp, Bucket: n, State: Unowned, SourceEnd: -1, SourceNext: -1, TargetNext: -1, Lag: -1}
			l.Owner = ownerOf(table, n)
			l.Reason = cmp.Or(notes[n], fmt.Sprintf("bucket %d has no owner", n))
		}
		if end, ok := ends[tp]; ok {
			l.SourceEnd = end
			if l.SourceNext >= 0 {
				l.Lag = max(0, int64(end-l.SourceNext))
			}
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
// nothing is known of it.
func (c *Client) askStatus(ctx context.Context, link starferry.LinkName, t Table) (map[starferry.TopicPartition]LaneStatus, map[int]string) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	known, notes := map[starferry.TopicPartition]LaneStatus{}, map[int]string{}
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
	return known, notes
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
	spec, err := st.Link(ctx, link)
	if err != nil {
		return out, err
	}
	deadline := time.Now().Add(within)
	left := cut
	for {
		table, err := st.Table(ctx, link)
		if err != nil {
			return out, err
		}
		t := c.translate(ctx, spec, table, d, left, time.Until(deadline))
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
		case !slices.Contains(spec.Topics, from.Topic):
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
	if c.store != nil {
		return c.store, nil
	}
	st, err := openStore(ctx, c.nc, c.leaseTTL)
	if err != nil {
		return nil, err
	}
	c.store = st
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
