package crossing

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/chaos/checker"
	"github.com/starferry/starferry/internal/chaos/ground"
)

// cargo is a topic and how it is produced to.
type cargo struct {
	topic      starferry.Topic
	partitions int
	configs    map[string]string
	burst      int // records at once, which become one batch for each partition
	every      time.Duration
	codec      kgo.CompressionCodec
	keys       int  // how many there are
	compacted  bool // cleaners are at work all the time
	sparse     bool // a cleaner was at work before the copy began
	txn        bool
}

// cargoes are the kinds of topics that are copied. The in-process Kafka cleans
// all but the last batch of a log, at once and on both sides: too much for
// anybody to find out what was copied. There the cleaner works only before the
// copy begins, and leaves the stretches of sparse; real ones work all the time,
// and leave the last two minutes alone: a shard that has lost its store, with
// nothing in NATS either, finds out by them where the copy ended.
func cargoes(real bool) []cargo {
	none := kgo.NoCompression()
	all := []cargo{
		{topic: "tiny", partitions: 2, burst: 1, every: 5 * time.Millisecond, codec: none, keys: 1000},
		{topic: "plain", partitions: 3, burst: 30, every: 150 * time.Millisecond, codec: none, keys: 1000},
		{topic: "large", partitions: 1, burst: 200, every: 900 * time.Millisecond, codec: none, keys: 1000},
		{topic: "gzip", partitions: 1, burst: 20, every: 400 * time.Millisecond, codec: kgo.GzipCompression(), keys: 1000},
		{topic: "snappy", partitions: 1, burst: 20, every: 400 * time.Millisecond, codec: kgo.SnappyCompression(), keys: 1000},
		{topic: "lz4", partitions: 1, burst: 20, every: 400 * time.Millisecond, codec: kgo.Lz4Compression(), keys: 1000},
		{topic: "zstd", partitions: 1, burst: 20, every: 400 * time.Millisecond, codec: kgo.ZstdCompression(), keys: 1000},
		{topic: "txn", partitions: 2, burst: 8, every: 60 * time.Millisecond, codec: none, keys: 1000, txn: true},
		{topic: "sparse", partitions: 2, burst: 20, every: 300 * time.Millisecond, codec: none, keys: 60, sparse: true,
			configs: map[string]string{"cleanup.policy": "compact", "segment.ms": "500", "min.cleanable.dirty.ratio": "0.001"}},
		{topic: "sparse-lz4", partitions: 1, burst: 20, every: 300 * time.Millisecond, codec: kgo.Lz4Compression(), keys: 60, sparse: true,
			configs: map[string]string{"cleanup.policy": "compact", "segment.ms": "500", "min.cleanable.dirty.ratio": "0.001"}},
	}
	if real {
		all = append(all, cargo{topic: "compacted", partitions: 2, burst: 6, every: 60 * time.Millisecond, codec: none, keys: 40, compacted: true,
			configs: map[string]string{"cleanup.policy": "compact", "segment.ms": "3000", "min.cleanable.dirty.ratio": "0.01", "min.compaction.lag.ms": "120000"}})
	}
	return all
}

// lanesOf lists the partitions of cargoes.
func lanesOf(all []cargo) []starferry.TopicPartition {
	var out []starferry.TopicPartition
	for _, c := range all {
		for p := range c.partitions {
			out = append(out, starferry.TopicPartition{Topic: c.topic, Partition: starferry.Partition(p)})
		}
	}
	return out
}

// load produces all cargoes until it is closed.
type load struct {
	address string
	next    atomic.Int64 // number of the last record
	acked   atomic.Int64
	tide    sync.RWMutex // held for writing, nothing is produced
	cancel  context.CancelFunc
	work    sync.WaitGroup

	mu   sync.Mutex
	sent map[starferry.TopicPartition][]checker.Entry // to compacted topics
	errs []error
}

func newLoad(address string) *load {
	return &load{address: address, cancel: func() {}, sent: map[starferry.TopicPartition][]checker.Entry{}}
}

// start produces all cargoes.
func (l *load) start(all []cargo) {
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	for _, c := range all {
		l.work.Go(func() { l.produce(ctx, c) })
	}
}

// cleaning bounds the time until a cleaner has been at work.
const cleaning = 60 * time.Second

// prelude fills a sparse topic until its cleaner has been at work, and ends that.
func (l *load) prelude(ctx context.Context, c cargo) error {
	random := rand.New(rand.NewPCG(2, uint64(len(c.topic))))
	client, err := l.client(c)
	if err != nil {
		return err
	}
	defer client.Close()
	r, err := openReader(l.address, lanesOf([]cargo{c}), false)
	if err != nil {
		return err
	}
	defer r.client.Close()
	first := true
	err = ground.Until(ctx, cleaning, time.Second, func() (bool, error) {
		for range 5 {
			if err := l.burst(client, c, random, first); err != nil {
				return false, err
			}
			first = false
		}
		clear(r.next)
		clear(r.logs)
		if err := r.read(ctx); err != nil {
			return false, err
		}
		for _, tp := range r.lanes {
			if len(r.logs[tp]) > int(r.next[tp])-50 {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("no cleaner was at work on %s: %w", c.topic, err)
	}
	return keepAll(ctx, client, c.topic)
}

// keepAll ends the work of cleaners on a topic.
func keepAll(ctx context.Context, client *kgo.Client, topic starferry.Topic) error {
	policy, roll := "delete", "604800000"
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, string(topic)
	for name, value := range map[string]*string{"cleanup.policy": &policy, "segment.ms": &roll} {
		c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		c.Name, c.Value = name, value
		r.Configs = append(r.Configs, c)
	}
	req.Resources = append(req.Resources, r)
	resp, err := req.RequestWith(ctx, client)
	if err == nil {
		err = kerr.ErrorForCode(resp.Resources[0].ErrorCode)
	}
	if err != nil {
		return fmt.Errorf("end the cleaning of %s: %w", topic, err)
	}
	return nil
}

// pause ends every transaction and waits for every acknowledgement; resume goes on.
func (l *load) pause()  { l.tide.Lock() }
func (l *load) resume() { l.tide.Unlock() }

func (l *load) close() {
	l.cancel()
	l.work.Wait()
}

// produce is the life of one cargo's producer.
func (l *load) produce(ctx context.Context, c cargo) {
	random := rand.New(rand.NewPCG(1, uint64(len(c.topic))))
	var client *kgo.Client
	defer func() {
		if client != nil {
			client.Close()
		}
	}()
	tick := time.NewTicker(c.every)
	defer tick.Stop()
	for first := !c.sparse; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		l.tide.RLock()
		err := error(nil)
		if client == nil {
			client, err = l.client(c)
		}
		if err == nil {
			if err = l.burst(client, c, random, first); err != nil {
				client.Close() // a producer that failed begins anew
				client = nil
			}
			first = first && err != nil
		}
		l.tide.RUnlock()
		if err != nil {
			l.mu.Lock()
			l.errs = append(l.errs, fmt.Errorf("produce to %s: %w", c.topic, err))
			l.mu.Unlock()
		}
	}
}

func (l *load) client(c cargo) (*kgo.Client, error) {
	opts := []kgo.Opt{kgo.SeedBrokers(l.address), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerLinger(min(c.every, 5*time.Millisecond)), kgo.ProducerBatchCompression(c.codec), kgo.ClientID("chaos-load")}
	if c.txn {
		opts = append(opts, kgo.TransactionalID("chaos-load-"+string(c.topic)), kgo.TransactionTimeout(10*time.Second))
	}
	return kgo.NewClient(opts...)
}

// burstWithin is long enough for a broker to start again.
const burstWithin = 60 * time.Second

// burst produces some records and waits for them. The first record of a lane has
// a key of its own, which no cleaner takes: that of the in-process Kafka moves
// the start of a log that begins with nothing, as no other does.
func (l *load) burst(client *kgo.Client, c cargo, random *rand.Rand, first bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), burstWithin)
	defer cancel()
	if c.txn {
		if err := client.BeginTransaction(); err != nil {
			return err
		}
	}
	var failed atomic.Pointer[error]
	for p := range c.partitions {
		for i := range c.burst {
			r := l.record(c, p, random)
			if first && i == 0 {
				r.Key = []byte("first")
			}
			client.Produce(ctx, r, func(r *kgo.Record, err error) {
				if err != nil {
					failed.Store(&err)
					return
				}
				l.noted(c, r)
			})
		}
	}
	err := client.Flush(ctx)
	if e := failed.Load(); e != nil {
		err = *e
	}
	if c.txn {
		how := kgo.TryCommit
		if err != nil || random.IntN(3) == 0 {
			how = kgo.TryAbort
		}
		if end := client.EndTransaction(ctx, how); err == nil {
			err = end
		}
	}
	return err
}

// noted counts an acknowledged record.
func (l *load) noted(c cargo, r *kgo.Record) {
	l.acked.Add(1)
	if !c.compacted {
		return
	}
	e, err := entryOf(r)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.errs = append(l.errs, err)
		return
	}
	tp := starferry.TopicPartition{Topic: c.topic, Partition: starferry.Partition(r.Partition)}
	l.sent[tp] = append(l.sent[tp], e)
}

// sentTo lists what a compacted lane was sent.
func (l *load) sentTo(tp starferry.TopicPartition) []checker.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent[tp][:len(l.sent[tp]):len(l.sent[tp])]
}

// trouble is what went wrong with the load itself since the last time.
func (l *load) trouble() []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	errs := l.errs
	l.errs = nil
	return errs
}

// record makes a record: its value is its number and some padding.
func (l *load) record(c cargo, partition int, random *rand.Rand) *kgo.Record {
	id := l.next.Add(1)
	r := &kgo.Record{
		Topic: string(c.topic), Partition: int32(partition), Key: []byte("key-" + strconv.Itoa(random.IntN(c.keys))),
		Value: []byte(strconv.FormatInt(id, 10) + " " + strings.Repeat("starferry ", random.IntN(30))),
	}
	if id%3 == 0 {
		r.Headers = []kgo.RecordHeader{{Key: "number", Value: strconv.AppendInt(nil, id, 10)}, {Key: "nothing"}}
	}
	return r
}

// entryOf is what the checker has to know of a record.
func entryOf(r *kgo.Record) (checker.Entry, error) {
	text, _, _ := strings.Cut(string(r.Value), " ")
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return checker.Entry{}, fmt.Errorf("%s/%d@%d: the value %.40q has no record number", r.Topic, r.Partition, r.Offset, r.Value)
	}
	return checker.Entry{Offset: starferry.Offset(r.Offset), ID: checker.ID(id), Key: digest(r.Key), Sum: sum(r)}, nil
}

// sum covers all that a consumer can see of a record but its offset.
func sum(r *kgo.Record) uint64 {
	parts := [][]byte{r.Key, r.Value}
	for _, h := range r.Headers {
		parts = append(parts, []byte(h.Key), h.Value)
	}
	return digest(append(parts, strconv.AppendInt(nil, r.Timestamp.UnixMilli(), 10))...)
}

// digest tells nil from empty.
func digest(parts ...[]byte) uint64 {
	h := fnv.New64a()
	var n [8]byte
	for _, p := range parts {
		size := int64(len(p))
		if p == nil {
			size = -1
		}
		binary.BigEndian.PutUint64(n[:], uint64(size))
		h.Write(n[:])
		h.Write(p)
	}
	return h.Sum64()
}
