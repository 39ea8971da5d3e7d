package replication

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/jet"
	"github.com/starferry/starferry/replication/offsetmap"
)

// snapshotsBucket is the object store that shards put their maps into, one
// object a lane. A snapshot is a front part of the map: whoever takes the lane
// over restores it and reads the target back from its end. It may be missing,
// old or damaged: the target log is the truth.
const snapshotsBucket = "starferry_maps"

// SnapshotConfig says how a shard keeps copies of its maps in JetStream. The
// zero value is what is wanted almost always.
type SnapshotConfig struct {
	// Every is how often lanes are looked at; 0: 5 minutes, negative: there are
	// no snapshots, and none is used.
	Every time.Duration
	// Growth is how many source offsets a lane has to go on before it is
	// snapshotted again; 0: 100,000. A lane that is handed over: a tenth.
	Growth int64
	// BytesPerSecond bounds what is written meanwhile; 0: 4 MiB.
	BytesPerSecond int64
	// MaxBytes is the size above which a lane is not snapshotted; 0: 64 MiB.
	MaxBytes int64
	// Keep is how long snapshots of a link stay after it has ended; 0: a day.
	Keep time.Duration
}

func (c SnapshotConfig) normal() SnapshotConfig {
	c.Every = cmp.Or(c.Every, 5*time.Minute)
	c.Growth = cmp.Or(c.Growth, 100_000)
	c.BytesPerSecond = cmp.Or(c.BytesPerSecond, 4<<20)
	c.MaxBytes = cmp.Or(c.MaxBytes, 64<<20)
	c.Keep = cmp.Or(c.Keep, 24*time.Hour)
	return c
}

// Patience with JetStream: a lane that is taken over goes on without a snapshot
// rather than wait, and a shard that closes does so.
const (
	restoreWithin  = 5 * time.Second
	handOverWithin = 3 * time.Second
	indexFresh     = time.Second
)

// snapshots keeps copies of a shard's maps in JetStream's object store.
type snapshots struct {
	cfg     SnapshotConfig
	shard   ShardID
	maps    *offsetmap.Store
	log     *slog.Logger
	valid   func() bool // of the shard's lease
	limiter *rate.Limiter
	off     atomic.Bool

	js jetstream.JetStream

	mu    sync.Mutex
	store jetstream.ObjectStore // nil: to be opened
	kept  map[offsetmap.LaneKey]starferry.Offset
	gone  map[starferry.LinkName]time.Time // links with snapshots that are no more, since when

	index   sync.Mutex // guards what follows, and is held while it is read
	objects map[string]*jetstream.ObjectInfo
	read    time.Time
}

func newSnapshots(cfg SnapshotConfig, s *Shard) (*snapshots, error) {
	cfg = cfg.normal()
	js, err := jetstream.New(s.cfg.NATS)
	if err != nil {
		return nil, fmt.Errorf("keep snapshots: %w", err)
	}
	out := &snapshots{
		cfg: cfg, js: js, shard: s.cfg.ID, maps: s.maps, log: s.log, valid: s.lease.Valid,
		limiter: rate.NewLimiter(rate.Limit(cfg.BytesPerSecond), int(max(cfg.BytesPerSecond, 1<<16))),
		kept:    map[offsetmap.LaneKey]starferry.Offset{}, gone: map[starferry.LinkName]time.Time{},
	}
	out.off.Store(cfg.Every < 0)
	return out, nil
}

// The metadata of an object.
const (
	metaSource      = "source" // where the map ends
	metaTarget      = "target"
	metaIncarnation = "incarnation"
	metaShard       = "shard" // who put it, at which epoch of the link's table
	metaEpoch       = "epoch"
)

// objectName is a lane's object. Link names have no slash, topic names neither.
func objectName(k offsetmap.LaneKey) string {
	return fmt.Sprintf("%s/%s/%d", k.Link, k.Topic, k.Partition)
}

func linkOf(object string) starferry.LinkName {
	name, _, _ := strings.Cut(object, "/")
	return starferry.LinkName(name)
}

func metaOffset(o *jetstream.ObjectInfo, name string) int64 {
	n, err := strconv.ParseInt(o.Metadata[name], 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// open opens the object store, or makes it.
func (s *snapshots) open(ctx context.Context) (jetstream.ObjectStore, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.store != nil {
		return s.store, nil
	}
	var err error
	s.store, err = jet.ObjectStore(ctx, s.js, jetstream.ObjectStoreConfig{
		Bucket: snapshotsBucket, Description: "starferry: snapshots of offset maps, one object a lane",
	})
	if err != nil {
		s.store = nil
		return nil, fmt.Errorf("open object store %s: %w", snapshotsBucket, err)
	}
	return s.store, nil
}

// failed forgets the handle: the store may have been deleted and made again.
func (s *snapshots) failed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.store = nil
}

// list reads which objects there are. Many lanes that are taken over at once
// share one look.
func (s *snapshots) list(ctx context.Context) (map[string]*jetstream.ObjectInfo, error) {
	s.index.Lock()
	defer s.index.Unlock()
	if s.objects != nil && time.Since(s.read) < indexFresh {
		return s.objects, nil
	}
	store, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	infos, err := store.List(ctx)
	if err != nil && !errors.Is(err, jetstream.ErrNoObjectsFound) {
		s.failed()
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	s.objects, s.read = make(map[string]*jetstream.ObjectInfo, len(infos)), time.Now()
	for _, o := range infos {
		s.objects[o.Name] = o
	}
	return s.objects, nil
}

// restore brings a lane's map up to its snapshot, if there is one and it goes
// further than the map by the growth that makes one. Whatever is wrong with it is told in
// the log, and the map is what it was: the target log has the rest. It returns
// the lane's map, which may have been opened anew.
func (s *snapshots) restore(ctx context.Context, m *offsetmap.Lane) (*offsetmap.Lane, error) {
	if s.off.Load() {
		return m, nil
	}
	short, cancel := context.WithTimeout(ctx, restoreWithin)
	defer cancel()
	key := m.Key()
	data, err := s.further(short, m)
	if err != nil && ctx.Err() != nil { // whoever comes next asks again
		return nil, errors.Join(context.Cause(ctx), m.Close())
	}
	if err != nil {
		s.log.Warn("snapshot of the offset map not used; the target log is read back instead", "lane", key, "err", err)
	}
	if data == nil {
		return m, nil
	}
	if m.Begun() {
		if err := m.Close(); err != nil {
			return nil, err
		}
		if err := s.maps.Remove(key); err != nil {
			return nil, err
		}
		if m, err = s.maps.Lane(key); err != nil {
			return nil, err
		}
	}
	if err := m.Restore(bytes.NewReader(data)); err != nil {
		s.log.Warn("snapshot of the offset map not used; the target log is read back instead", "lane", key, "err", err)
		return m, nil
	}
	source, _ := m.Next()
	s.note(key, source)
	s.log.Info("offset map restored from its snapshot", "lane", key, "source", source, "bytes", len(data))
	return m, nil
}

// further fetches and verifies the snapshot that a lane can use, or nil.
func (s *snapshots) further(ctx context.Context, m *offsetmap.Lane) ([]byte, error) {
	objects, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	key := m.Key()
	o := objects[objectName(key)]
	if o == nil {
		return nil, nil
	}
	if o.Metadata[metaIncarnation] != key.Incarnation {
		return nil, fmt.Errorf("it is of another life of the topics: %s", o.Metadata[metaIncarnation])
	}
	source := starferry.Offset(metaOffset(o, metaSource))
	if next, _ := m.Next(); m.Begun() && int64(source-next) < s.cfg.Growth {
		s.note(key, min(source, next))
		return nil, nil
	}
	if int64(o.Size) > s.cfg.MaxBytes {
		return nil, fmt.Errorf("it has %d bytes, and at most %d are read", o.Size, s.cfg.MaxBytes)
	}
	store, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	r, err := store.Get(ctx, o.Name)
	if err != nil {
		s.failed()
		return nil, fmt.Errorf("fetch it: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(r, s.cfg.MaxBytes+1))
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("fetch it: %w", err)
	}
	if _, err := offsetmap.Verify(key, bytes.NewReader(data)); err != nil {
		s.drop(ctx, key)
		return nil, err
	}
	return data, nil
}

// note remembers how far the newest snapshot of a lane goes.
func (s *snapshots) note(key offsetmap.LaneKey, source starferry.Offset) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept[key] = source
}

// stale makes a lane's map be snapshotted again though it has not grown.
func (s *snapshots) stale(key offsetmap.LaneKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.kept, key)
}

// grown is how many source offsets a map is ahead of its newest snapshot.
func (s *snapshots) grown(m *offsetmap.Lane) int64 {
	if !m.Begun() {
		return 0
	}
	next, _ := m.Next()
	s.mu.Lock()
	defer s.mu.Unlock()
	kept, ok := s.kept[m.Key()]
	if !ok {
		kept, _ = m.Start()
	}
	return int64(next - kept)
}

// keep snapshots a lane that has grown by so much, for the bucket's owner at an
// epoch of the table. A snapshot that goes further stays: it is that of an owner
// who came after this one, or of a map that was lost since.
func (s *snapshots) keep(ctx context.Context, m *offsetmap.Lane, epoch, growth int64) (size int, err error) {
	if s.off.Load() || s.grown(m) < growth || !s.valid() {
		return 0, nil
	}
	key := m.Key()
	if err := m.Flush(); err != nil {
		return 0, err
	}
	out := bounded{limit: int(s.cfg.MaxBytes)}
	info, err := s.maps.Snapshot(key, &out)
	if err != nil {
		return 0, err
	}
	store, err := s.open(ctx)
	if err != nil {
		return 0, err
	}
	name := objectName(key)
	old, err := store.GetInfo(ctx, name)
	if further := starferry.Offset(0); err == nil && old.Metadata[metaIncarnation] == key.Incarnation {
		if further = starferry.Offset(metaOffset(old, metaSource)); further > info.Source {
			s.note(key, further)
			return 0, nil
		}
	}
	if err == nil || errors.Is(err, jetstream.ErrObjectNotFound) {
		err = jet.PutObject(ctx, s.js, snapshotsBucket, jetstream.ObjectMeta{Name: name, Metadata: map[string]string{
			metaSource: strconv.FormatInt(int64(info.Source), 10), metaTarget: strconv.FormatInt(int64(info.Target), 10),
			metaIncarnation: key.Incarnation, metaEpoch: strconv.FormatInt(epoch, 10), metaShard: string(s.shard),
		}}, out.data, old)
	}
	if err != nil {
		s.failed()
		return 0, fmt.Errorf("put snapshot %s: %w", name, err)
	}
	s.note(key, info.Source)
	return len(out.data), nil
}

// bounded is a buffer that refuses to grow beyond its limit.
type bounded struct {
	data  []byte
	limit int
}

func (b *bounded) Write(p []byte) (int, error) {
	if len(b.data)+len(p) > b.limit {
		return 0, fmt.Errorf("the snapshot has more than %d bytes; the lane goes without", b.limit)
	}
	b.data = append(b.data, p...)
	return len(p), nil
}

// drop removes a lane's snapshot, because its history is no longer the target's.
func (s *snapshots) drop(ctx context.Context, key offsetmap.LaneKey) {
	if s.off.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, restoreWithin)
	defer cancel()
	store, err := s.open(ctx)
	if err == nil {
		err = store.Delete(ctx, objectName(key))
	}
	if err != nil && !errors.Is(err, jetstream.ErrObjectNotFound) {
		s.log.Warn("snapshot not deleted", "lane", key, "err", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.kept, key)
}

// handOver snapshots the lanes of a bucket that is given up, those that have
// grown most first, for as long as the next owner may be kept waiting.
func (s *snapshots) handOver(lanes []*lane, epoch int64) {
	if s.off.Load() {
		return
	}
	var maps []*offsetmap.Lane
	for _, l := range lanes {
		if m := l.sound(); m != nil {
			maps = append(maps, m)
		}
	}
	slices.SortFunc(maps, func(a, b *offsetmap.Lane) int { return cmp.Compare(s.grown(b), s.grown(a)) })
	ctx, cancel := context.WithTimeout(context.Background(), handOverWithin)
	defer cancel()
	for _, m := range maps {
		if _, err := s.keep(ctx, m, epoch, max(1, s.cfg.Growth/10)); err != nil {
			s.log.Warn("offset map not snapshotted", "lane", m.Key(), "err", err)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// sound is the lane's map once it has been compared with the target log; nil
// before.
func (l *lane) sound() *offsetmap.Lane {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.proven {
		return nil
	}
	return l.omap
}

// damaged lets go of a map that turned out to be damaged while it was open. The
// lane is shut, and its map opened again: that verifies all of it, and makes
// another from the snapshot or the target log if it is so.
func (l *lane) damaged(m *offsetmap.Lane, why error) {
	l.mu.Lock()
	if l.omap != m || l.state == Recovering { // being read back: whoever asks next finds out
		l.mu.Unlock()
		return
	}
	l.c.log.Error("offset map damaged; making it anew", "link", l.c.spec.Name, "lane", l.tp, "err", why)
	l.haltLocked(Recovering, why.Error())
	l.omap, l.proven = nil, false
	l.mu.Unlock()
	if err := m.Close(); err != nil {
		l.c.log.Warn("offset map not closed", "lane", l.tp, "err", err)
	}
	l.bucket.refence(l, why)
}

// sweep deletes snapshots of links that have ended a while ago.
func (s *snapshots) sweep(ctx context.Context, links []LinkSpec) error {
	if s.off.Load() {
		return nil
	}
	objects, err := s.list(ctx)
	if err != nil {
		return err
	}
	there := map[starferry.LinkName]bool{}
	for _, l := range links {
		there[l.Name] = true
	}
	now := time.Now()
	for name := range objects {
		link := linkOf(name)
		since, known := s.gone[link]
		switch {
		case there[link]:
			delete(s.gone, link)
		case !known:
			s.gone[link] = now
			since = now
			fallthrough
		default:
			if now.Sub(since) < s.cfg.Keep {
				continue
			}
			store, err := s.open(ctx)
			if err == nil {
				err = store.Delete(ctx, name)
			}
			if err != nil && !errors.Is(err, jetstream.ErrObjectNotFound) {
				return fmt.Errorf("delete snapshot %s of an ended link: %w", name, err)
			}
		}
	}
	return nil
}
