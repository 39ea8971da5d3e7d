package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication/batch"
	"github.com/starferry/starferry/replication/offsetmap"
)

// copier is one link inside one shard: its buckets, and the fetchers and
// senders that their lanes share.
type copier struct {
	spec     LinkSpec
	shard    ShardID
	src, tgt *wire.Cluster
	origin   *stateLog // of the source
	state    *stateLog // of the target
	maps     *offsetmap.Store
	lease    *lease
	budget   *budget
	snaps    *snapshots
	log      *slog.Logger
	unfenced time.Duration
	renew    time.Duration
	expiry   expiry // of the target; zero: not read yet
	limits   *limits

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	buckets  map[int]*running
	fetchers map[int32]*fetcher
	senders  map[route]*sender
	rules    map[starferry.Topic]rules  // by target topic
	loops    map[starferry.Topic]*loop  // by target topic
	lanes    []starferry.TopicPartition // of the whole link
	ids      map[place]string           // topic ids, at first sight
	trouble  error                      // why the lanes are not known
	missing  map[place]bool             // topics that were not there at the last look
	now      LinkSpec                   // as it is wanted now; see wanted
	paused   atomic.Bool                // as now says; lanes look while they are locked
	look     chan struct{}              // asks for a refresh
	dispute  func()                     // asks for a look at who owns what, and does not block
	every    time.Duration              // between refreshes
	store    *store
	listNext time.Time                  // when topics are listed again, at the earliest
	doubted  map[starferry.Topic]int    // topics that another link may be about to take up as its copies, and in how many looks; find's alone
	problems map[starferry.Topic]string // why topics that match are not copied
	denials  map[int]denial             // by bucket, or surveyed
	// allowedAt is the revision of the link whose topics may be read and written.
	allowedAt uint64
}

// route is a connection to a broker of the target.
type route struct {
	broker int32
	apart  bool
}

type running struct {
	*bucket
	cancel context.CancelFunc
	done   chan struct{}
}

// refreshEvery is how often a link looks for new partitions and lost topics.
const refreshEvery = 5 * time.Second

func newCopier(ctx context.Context, spec LinkSpec, s *Shard, src, tgt *wire.Cluster) *copier {
	c := &copier{
		spec: spec, shard: s.cfg.ID, src: src, tgt: tgt, origin: s.states[spec.Source], state: s.states[spec.Target],
		maps: s.maps, lease: s.lease, budget: s.budget, snaps: s.snaps,
		log: s.log, unfenced: s.cfg.UnfencedWait, renew: s.cfg.renew,
		buckets: map[int]*running{}, fetchers: map[int32]*fetcher{}, senders: map[route]*sender{},
		rules: map[starferry.Topic]rules{}, loops: map[starferry.Topic]*loop{}, ids: map[place]string{}, missing: map[place]bool{}, denials: map[int]denial{},
		limits: newLimits(spec.RateBytes, spec.RateRecords),
		now:    spec, look: make(chan struct{}, 1), every: cmp.Or(s.cfg.refresh, refreshEvery), store: s.store,
		dispute: s.poke,
	}
	c.paused.Store(spec.Paused)
	c.ctx, c.cancel = context.WithCancel(ctx)
	c.wg.Go(c.watch)
	c.wg.Go(func() { c.prove(s.proofs) })
	c.wg.Go(c.guard)
	return c
}

// close stops everything and waits.
func (c *copier) close() {
	c.mu.Lock() // nothing is started once this is done
	c.cancel()
	c.mu.Unlock()
	c.wg.Wait()
}

// own makes the buckets that run those that are wanted, with their epochs.
func (c *copier) own(want map[int]int64) {
	c.mu.Lock()
	var gone []*running
	for n, r := range c.buckets {
		if epoch, ok := want[n]; !ok || epoch != r.epoch {
			r.cancel()
			gone = append(gone, r)
			delete(c.buckets, n)
		}
	}
	c.mu.Unlock()
	for _, r := range gone {
		<-r.done
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for n, epoch := range want {
		if c.buckets[n] != nil {
			continue
		}
		ctx, cancel := context.WithCancel(c.ctx)
		r := &running{newBucket(c, n, epoch), cancel, make(chan struct{})}
		c.buckets[n] = r
		c.wg.Go(func() {
			defer close(r.done)
			r.run(ctx)
		})
	}
}

// watch follows the source's topics.
func (c *copier) watch() {
	tick := time.NewTicker(c.every)
	defer tick.Stop()
	for {
		c.refresh(c.ctx)
		c.find(c.ctx)
		select {
		case <-c.ctx.Done():
			return
		case <-tick.C:
		case <-c.look:
		}
	}
}

func (c *copier) refresh(ctx context.Context) {
	short, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	revision := c.wanted().Revision
	lanes, err := c.survey(short)
	if ctx.Err() != nil {
		return
	}
	c.deny(surveyed, revision, err)
	c.mu.Lock()
	c.trouble = err
	var changed []*running
	if err == nil && (c.lanes == nil || !slices.Equal(lanes, c.lanes)) {
		c.lanes = lanes
		changed = slices.Collect(maps.Values(c.buckets))
	}
	c.mu.Unlock()
	if err != nil {
		c.log.Warn("link cannot be surveyed", "link", c.spec.Name, "err", err)
	}
	for _, r := range changed {
		if !r.has(lanes) {
			r.look()
		}
	}
}

// has reports whether the bucket knows its lanes, all and no others.
func (b *bucket) has(lanes []starferry.TopicPartition) bool {
	spec := b.c.wanted()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, tp := range lanes {
		if spec.BucketOf(tp) == b.n && b.lanes[tp] == nil {
			return false
		}
	}
	for tp := range b.lanes {
		if !spec.has(tp.Topic) {
			return false
		}
	}
	return true
}

// survey lists the link's lanes, stops those whose topic is gone or another one
// now, and lets the target follow the source's partitions.
func (c *copier) survey(ctx context.Context) ([]starferry.TopicPartition, error) {
	spec := c.wanted()
	if err := c.allowed(ctx, spec); err != nil {
		return nil, err
	}
	src, err := c.src.Metadata(ctx, spec.Topics...)
	if err != nil {
		return nil, err
	}
	tgt, err := c.tgt.Metadata(ctx, spec.targets()...)
	if err != nil {
		return nil, err
	}
	if err := c.readRules(ctx, spec); err != nil {
		return nil, err
	}
	lanes := []starferry.TopicPartition{}
	for _, t := range spec.Topics {
		to := c.spec.TargetOf(t)
		if !c.sameTopic(place{c.spec.Source, t}, t, src) || !c.sameTopic(place{c.spec.Target, to}, t, tgt) {
			continue
		}
		n := len(src.Topics[t].Partitions)
		if err := follow(ctx, c.tgt, to, len(tgt.Topics[to].Partitions), n); err != nil {
			return nil, err
		}
		for p := range n {
			lanes = append(lanes, starferry.TopicPartition{Topic: t, Partition: starferry.Partition(p)})
		}
	}
	slices.SortFunc(lanes, starferry.TopicPartition.Compare)
	return lanes, nil
}

// place is a topic of one cluster.
type place struct {
	cluster starferry.ClusterName
	topic   starferry.Topic
}

// sameTopic reports whether a topic is there, and stops the lanes of the source
// topic when it is gone or has changed its id under them.
func (c *copier) sameTopic(at place, source starferry.Topic, m *wire.Metadata) bool {
	meta, id := m.Topics[at.topic], topicID(m, at.topic)
	if len(meta.Partitions) == 0 {
		c.mu.Lock()
		again := c.missing[at]
		c.missing[at] = errors.Is(meta.Err, kafka.UnknownTopicOrPartition)
		c.mu.Unlock()
		// Once may be a broker that has just started and knows nothing yet.
		if again && errors.Is(meta.Err, kafka.UnknownTopicOrPartition) {
			c.stopTopic(source, fmt.Errorf("topic %s of %s is gone: %w; was it deleted? Take it out of the link, or create it and ask for the link again", at.topic, at.cluster, meta.Err))
		}
		return false
	}
	c.mu.Lock()
	delete(c.missing, at)
	was, seen := c.ids[at]
	if !seen {
		c.ids[at] = id
	}
	c.mu.Unlock()
	if seen && was != id {
		c.stopTopic(source, fmt.Errorf("topic %s of %s was deleted and created again under the link; ask for the link again to copy anew into an empty topic of %s", at.topic, at.cluster, c.spec.Target))
		return false
	}
	return true
}

func (c *copier) stopTopic(t starferry.Topic, why error) {
	for _, l := range c.all() {
		if l.tp.Topic == t && l.status().State != Stopped {
			l.stop(why)
		}
	}
}

// all lists the lanes this shard runs.
func (c *copier) all() []*lane {
	c.mu.Lock()
	rs := slices.Collect(maps.Values(c.buckets))
	c.mu.Unlock()
	var out []*lane
	for _, r := range rs {
		r.mu.Lock()
		out = slices.AppendSeq(out, maps.Values(r.lanes))
		r.mu.Unlock()
	}
	return out
}

// lane finds a lane that this shard runs, or says why it does not.
func (c *copier) lane(tp starferry.TopicPartition) (*lane, string) {
	n := c.spec.BucketOf(tp)
	c.mu.Lock()
	r := c.buckets[n]
	c.mu.Unlock()
	if r == nil {
		return nil, fmt.Sprintf("bucket %d is not owned by shard %s", n, c.shard)
	}
	if l := r.lane(tp); l != nil {
		return l, ""
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.note != "" {
		return nil, fmt.Sprintf("bucket %d: %s", n, r.note)
	}
	return nil, fmt.Sprintf("no lane %s on link %s (yet)", tp, c.spec.Name)
}

// lanesOf lists a bucket's lanes, once they are known.
func (c *copier) lanesOf(ctx context.Context, bucket int) ([]starferry.TopicPartition, error) {
	for {
		c.mu.Lock()
		known, trouble := c.lanes, c.trouble
		c.mu.Unlock()
		if known != nil {
			var out []starferry.TopicPartition
			for _, tp := range known {
				if c.spec.BucketOf(tp) == bucket {
					out = append(out, tp)
				}
			}
			return out, nil
		}
		if trouble != nil {
			return nil, trouble
		}
		if err := wait(ctx, 5*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// metadata reads both clusters' metadata of the lanes' topics.
func (c *copier) metadata(ctx context.Context, lanes []*lane) (src, tgt *wire.Metadata, err error) {
	from, to := map[starferry.Topic]bool{}, map[starferry.Topic]bool{}
	for _, l := range lanes {
		from[l.tp.Topic], to[l.to.Topic] = true, true
	}
	if src, err = c.src.Metadata(ctx, slices.Sorted(maps.Keys(from))...); err != nil {
		return nil, nil, fmt.Errorf("look up topics on %s: %w", c.spec.Source, err)
	}
	if tgt, err = c.tgt.Metadata(ctx, slices.Sorted(maps.Keys(to))...); err != nil {
		return nil, nil, fmt.Errorf("look up topics on %s: %w", c.spec.Target, err)
	}
	return src, tgt, nil
}

// readRules reads what the target's topics accept.
func (c *copier) readRules(ctx context.Context, spec LinkSpec) error {
	confs, err := c.tgt.TopicConfigs(ctx, spec.targets()...)
	if err != nil && len(confs) == 0 {
		return fmt.Errorf("read topic settings on %s: %w", c.spec.Target, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for t, conf := range confs {
		r := rules{limits: batch.Limits{Decompressed: maxDecompressed, Batch: defaultMaxMessage}}
		if n, err := strconv.Atoi(conf["max.message.bytes"].Value); err == nil && n > 0 {
			r.limits.Batch = n
		}
		r.brokerTime = conf["message.timestamp.type"].Value == "LogAppendTime"
		r.compacted = strings.Contains(conf["cleanup.policy"].Value, "compact")
		c.rules[t] = r
	}
	return nil
}

// defaultMaxMessage is Kafka's default of max.message.bytes.
const defaultMaxMessage = 1048588

func (c *copier) rulesOf(t starferry.Topic) rules {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.rules[t]
	if !ok {
		r = rules{limits: batch.Limits{Decompressed: maxDecompressed, Batch: defaultMaxMessage}}
	}
	if r.loop = c.loops[t]; r.loop == nil {
		from, _ := c.spec.SourceOf(t)
		r.loop = newLoop(c, from, t)
		c.loops[t] = r.loop
	}
	return r
}

func (c *copier) tooLarge(l *lane, at starferry.Offset, size int, err error) {
	l.stop(fmt.Errorf("copy %s: the batch at source offset %d has %d bytes, and %s accepts %d (max.message.bytes of topic %s): %w; raise it there, then ask for the link again",
		l.tp, at, size, c.spec.Target, c.rulesOf(l.to.Topic).limits.Batch, l.to.Topic, err))
}

// route finds the brokers of a lane, after a pause that grows with the failures
// before. It does not block.
func (c *copier) route(l *lane, failures int) {
	l.mu.Lock()
	term := l.term
	l.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return
	}
	c.wg.Go(func() {
		if failures > 0 {
			pause := min(5*time.Millisecond<<min(failures, 8), time.Second)
			if wait(c.ctx, pause) != nil {
				return
			}
		}
		for n := failures; c.ctx.Err() == nil && l.current(term); n++ {
			err := c.connect(l, term)
			if err == nil {
				return
			}
			l.mu.Lock()
			if l.term == term {
				l.failures++
				l.stallLocked(err)
			}
			l.mu.Unlock()
			if wait(c.ctx, min(20*time.Millisecond<<min(n, 6), time.Second)) != nil {
				return
			}
		}
	})
}

// connect gives a lane the fetcher and the sender it lacks.
func (c *copier) connect(l *lane, term uint64) error {
	l.mu.Lock()
	needFetch, needSend := l.session == nil, l.sender == nil
	l.mu.Unlock()
	var errs error
	if needFetch {
		broker, epoch, err := c.src.Leader(c.ctx, l.tp)
		if err == nil {
			err = c.sourceStands(l, term, broker, epoch)
		}
		if err == nil {
			f := c.fetcherOf(broker)
			l.mu.Lock()
			if l.term == term && l.active && l.session == nil {
				l.leader, l.fetching = epoch, true
				f.offer(l)
			}
			l.mu.Unlock()
		} else {
			errs = fmt.Errorf("find leader of %s on %s: %w", l.tp, c.spec.Source, err)
		}
	}
	if needSend {
		broker, epoch, err := c.tgt.Leader(c.ctx, l.to)
		if err == nil {
			err = c.targetStands(l, term, broker, epoch)
		}
		if err == nil {
			l.mu.Lock()
			apart := l.apart
			l.mu.Unlock()
			s := c.senderOf(broker, apart)
			l.mu.Lock()
			if l.term == term && l.active && l.sender == nil {
				l.sender, l.queued = s, false
				l.kickLocked()
			}
			l.mu.Unlock()
		} else {
			errs = errors.Join(errs, fmt.Errorf("find leader of %s on %s: %w", l.to, c.spec.Target, err))
		}
	}
	return errs
}

func (c *copier) fetcherOf(broker int32) *fetcher {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.fetchers[broker]
	if f == nil {
		f = newFetcher(c, broker)
		c.fetchers[broker] = f
	}
	return f
}

// spawn starts what runs as long as the link does; false when that is over.
func (c *copier) spawn(run func(context.Context)) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return false
	}
	c.wg.Go(func() { run(c.ctx) })
	return true
}

func (c *copier) senderOf(broker int32, apart bool) *sender {
	c.mu.Lock()
	defer c.mu.Unlock()
	to := route{broker, apart}
	s := c.senders[to]
	if s == nil {
		s = newSender(c, broker)
		c.senders[to] = s
		c.wg.Go(func() { s.run(c.ctx) })
	}
	return s
}
