package producer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
)

const patience = 30 * time.Second

func logger(who string) *slog.Logger {
	if os.Getenv("STARFERRY_TEST_LOG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("who", who)
}

// started opens a producer of one topic that ends with the test.
func started(t *testing.T, cfg Config, opts ...wire.Option) *Producer {
	t.Helper()
	cfg.Logger = logger("producer")
	p, err := open(t.Context(), cfg, opts...)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = p.Close(ctx) // closed by the story, or left with what cannot be written
	})
	return p
}

// ledger is what callers were told.
type ledger struct {
	mu  sync.Mutex
	got map[string]Result
	wg  sync.WaitGroup
}

func newLedger() *ledger { return &ledger{got: map[string]Result{}} }

func (g *ledger) send(t *testing.T, p *Producer, topic starferry.Topic, key, value string) {
	t.Helper()
	g.wg.Add(1)
	r := Record{Topic: topic, Key: []byte(key), Value: []byte(value), Headers: []Header{{Key: "h", Value: []byte(key)}, {Key: "empty"}}}
	require.NoError(t, p.Send(t.Context(), r, func(res Result) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if _, twice := g.got[value]; twice {
			res.Err = errors.New("told twice")
		}
		g.got[value] = res
		g.wg.Done()
	}))
}

// inOrder asserts that the log holds every value once, each where its caller was
// told, and those of each key in the order they were sent: values are "key/number".
func (g *ledger) inOrder(t *testing.T, c starferry.Cluster, topic starferry.Topic, partitions, values int) {
	t.Helper()
	g.wg.Wait()
	require.Len(t, g.got, values)
	last, seen := map[string]int{}, 0
	for part := range partitions {
		for _, m := range kafkatest.Records(t, c, topic, starferry.Partition(part)) {
			var n int
			key, number, _ := strings.Cut(string(m.Value), "/")
			_, err := fmt.Sscan(number, &n)
			require.NoError(t, err)
			require.Equal(t, key, string(m.Key))
			require.Equal(t, key, string(m.Headers[0].Value))
			require.Equal(t, last[key]+1, n, "key %s on partition %d: lost, doubled or out of order", key, part)
			last[key] = n
			res := g.got[string(m.Value)]
			require.NoError(t, res.Err)
			require.Equal(t, starferry.Partition(part), res.Partition)
			if res.Offset != starferry.NoOffset {
				require.Equal(t, m.Offset, int64(res.Offset))
			}
			seen++
		}
	}
	require.Equal(t, values, seen)
}

func TestRecordsArriveOnceInOrderWhereTheCallerIsTold(t *testing.T) {
	for _, compression := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		t.Run(compression, func(t *testing.T) {
			old := kafkatest.One(t)
			topic := kafkatest.Topic(t, old, 3, nil)
			p := started(t, Config{Topics: []starferry.Topic{topic}, Clusters: []starferry.Cluster{old}, Compression: compression, BatchBytes: 4096})
			g := newLedger()
			for i := range 600 {
				g.send(t, p, topic, fmt.Sprint("k", i%7), fmt.Sprintf("k%d/%d", i%7, i/7+1))
			}
			require.NoError(t, p.Flush(t.Context()))
			g.inOrder(t, old, topic, 3, 600)
			require.Equal(t, int64(600), p.State().Lines[0].Acked)
		})
	}
}

// deafConn loses what the broker answers, from a number of reads on.
type deafConn struct {
	net.Conn
	left int
}

func (c *deafConn) Read(b []byte) (int, error) {
	if c.left--; c.left <= 0 {
		// The broker has read the request and carries it out; nobody hears of it.
		one := make([]byte, 1)
		_, _ = io.ReadFull(c.Conn, one)
		_ = c.Close()
		return 0, errors.New("the answer was lost")
	}
	return c.Conn.Read(b)
}

// TestAnswersThatAreLost: every connection dies after a few answers, with one
// under way. Nothing is written twice, nothing is lost, the order holds.
func TestAnswersThatAreLost(t *testing.T) {
	old := kafkatest.One(t)
	topic := kafkatest.Topic(t, old, 2, nil)
	var cut atomic.Int32
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, address)
		n := cut.Add(1)
		if err != nil || n > 60 {
			return c, err
		}
		return &deafConn{c, 4 + int(n%5)}, nil
	}
	p := started(t, Config{Topics: []starferry.Topic{topic}, Clusters: []starferry.Cluster{old}, BatchBytes: 512}, wire.WithDialer(dial))
	g := newLedger()
	for i := range 1000 {
		g.send(t, p, topic, fmt.Sprint("k", i%5), fmt.Sprintf("k%d/%d", i%5, i/5+1))
	}
	require.NoError(t, p.Flush(t.Context()))
	g.inOrder(t, old, topic, 2, 1000)
	require.Greater(t, cut.Load(), int32(6), "too few connections died for this to tell anything")
}

// TestAFullBufferHoldsTheCallerBack: with nobody to take records, Send waits and
// ends with its context; when somebody does, it goes on.
func TestAFullBufferHoldsTheCallerBack(t *testing.T) {
	old := kafkatest.One(t)
	topic := kafkatest.Topic(t, old, 1, nil)
	p := started(t, Config{Topics: []starferry.Topic{topic}, Clusters: []starferry.Cluster{old}, BufferBytes: 1000})
	require.NoError(t, p.Send(t.Context(), Record{Topic: topic}, nil))
	l := p.lines[topic]
	flushed := make(chan struct{})
	l.hold(func() { close(flushed) })
	<-flushed
	taken := 0
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := p.Send(ctx, Record{Topic: topic, Value: make([]byte, 100)}, nil)
		cancel()
		if err != nil {
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorContains(t, err, "buffer of 1000 bytes is full")
			break
		}
		taken++
		require.Less(t, taken, 10)
	}
	require.Positive(t, taken)
	l.mu.Lock()
	s := l.home
	l.mu.Unlock()
	require.NoError(t, l.resume(s, 1))
	require.NoError(t, p.Send(t.Context(), Record{Topic: topic, Value: make([]byte, 100)}, nil))
	require.NoError(t, p.Flush(t.Context()))
	require.Len(t, kafkatest.Records(t, old, topic, 0), taken+2)
	require.ErrorContains(t, p.Send(t.Context(), Record{Topic: topic, Value: make([]byte, 1001)}, nil), "raise BufferBytes")
}

// TestATooLargeRecordFailsAlone: a batch that is too large for the broker is
// divided; the record that is too large by itself fails, and the sequence of those
// behind it has no gap.
func TestATooLargeRecordFailsAlone(t *testing.T) {
	old := kafkatest.One(t)
	topic := kafkatest.Topic(t, old, 1, map[string]string{"max.message.bytes": "2000"})
	p := started(t, Config{Topics: []starferry.Topic{topic}, Clusters: []starferry.Cluster{old}, Linger: 50 * time.Millisecond})
	var rs []Record
	for i := range 20 {
		size := 300
		if i == 7 {
			size = 3000
		}
		rs = append(rs, Record{Topic: topic, Key: fmt.Append(nil, i), Value: make([]byte, size)})
	}
	out, err := p.Produce(t.Context(), rs...)
	require.ErrorContains(t, err, "max.message.bytes")
	require.Len(t, out, 20)
	for i, r := range out {
		require.Equal(t, i == 7, r.Err != nil, "record %d: %v", i, r.Err)
	}
	ms := kafkatest.Records(t, old, topic, 0)
	require.Len(t, ms, 19)
	require.Equal(t, "19", string(ms[18].Key))
}

// TestPartitionsAreThoseOfJava: the expected hashes are those of the Java
// client's own test of Utils.murmur2.
func TestPartitionsAreThoseOfJava(t *testing.T) {
	for key, hash := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
	} {
		for _, n := range []int{1, 3, 48} {
			p := newPartitioner(n)
			got, err := p.of(Record{Key: []byte(key)})
			require.NoError(t, err)
			require.Equal(t, int(hash&0x7fffffff)%n, got, key)
		}
	}
	p := newPartitioner(4)
	first, _ := p.of(Record{})
	same, _ := p.of(Record{})
	require.Equal(t, first, same, "records without a key stay together")
	p.move()
	other, _ := p.of(Record{})
	require.NotEqual(t, first, other)
	four := starferry.Partition(4)
	_, err := p.of(Record{Partition: &four})
	require.ErrorContains(t, err, "has 4 partitions")
}

func TestWhatIsWrongWithAConfigurationIsSaid(t *testing.T) {
	a, b := starferry.Cluster{Name: "a", Brokers: []string{"x:1"}}, starferry.Cluster{Name: "b", Brokers: []string{"x:2"}}
	for want, cfg := range map[string]Config{
		"name at least one topic":       {Clusters: []starferry.Cluster{a}},
		"name at least one cluster":     {Topics: []starferry.Topic{"t"}},
		"none of the clusters":          {Topics: []starferry.Topic{"t"}, Clusters: []starferry.Cluster{a, b}},
		"given twice":                   {Topics: []starferry.Topic{"t", "t"}, Clusters: []starferry.Cluster{a}},
		`compression "rar" is unknown`:  {Topics: []starferry.Topic{"t"}, Clusters: []starferry.Cluster{a}, Compression: "rar"},
		"leave it 0 for its default":    {Topics: []starferry.Topic{"t"}, Clusters: []starferry.Cluster{a}, BufferBytes: -1},
		`cluster "a" is given twice`:    {Topics: []starferry.Topic{"t"}, Clusters: []starferry.Cluster{a, a}},
		"has no brokers: give at least": {Topics: []starferry.Topic{"t"}, Clusters: []starferry.Cluster{{Name: "a"}}},
	} {
		_, err := Open(t.Context(), cfg)
		require.ErrorContains(t, err, want)
	}
}

// TestWhatCannotBeWrittenEndsWithItsTime: and what cannot be taken says why.
func TestWhatCannotBeWrittenEndsWithItsTime(t *testing.T) {
	old := kafkatest.One(t)
	topic := kafkatest.Topic(t, old, 1, nil)
	p := started(t, Config{Topics: []starferry.Topic{topic, "nowhere"}, Clusters: []starferry.Cluster{old}, DeliveryTimeout: 300 * time.Millisecond})
	require.Eventually(t, func() bool { return p.lines["nowhere"].state().Refusal != "" }, patience, time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := p.Send(ctx, Record{Topic: "nowhere"}, nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "where the topic lives is not known yet")
	require.ErrorContains(t, p.Send(ctx, Record{Topic: "other"}, nil), "not opened for this topic")
	p.lines[topic].hold(nil)
	_, err = p.Produce(t.Context(), Record{Topic: topic, Value: []byte("x")})
	require.ErrorIs(t, err, ErrTimeout)
	require.Empty(t, kafkatest.Records(t, old, topic, 0))
}
