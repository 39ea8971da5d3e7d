package wire_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
)

// script is a broker that answers as a test says.
type script struct {
	addr string
	// reply returns the frame after the length prefix, nil to stay silent; it
	// may close the connection.
	reply func(nc net.Conn, key int16, corr uint32) []byte
}

// play serves a script on a port of its own.
func play(t *testing.T, s *script) *script {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.addr = l.Addr().String()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			s.serve(nc)
		}
	}()
	t.Cleanup(func() { l.Close(); <-ended })
	return s
}

func (s *script) serve(nc net.Conn) {
	defer nc.Close()
	for {
		var head [4]byte
		if _, err := io.ReadFull(nc, head[:]); err != nil {
			return
		}
		req := make([]byte, binary.BigEndian.Uint32(head[:]))
		if _, err := io.ReadFull(nc, req); err != nil {
			return
		}
		frame := s.reply(nc, int16(binary.BigEndian.Uint16(req)), binary.BigEndian.Uint32(req[4:]))
		if frame == nil {
			continue
		}
		if _, err := nc.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)); err != nil {
			return
		}
	}
}

// framed puts a correlation id before an answer. Answers here have no header tags.
func framed(corr uint32, resp kmsg.Response) []byte {
	return resp.AppendTo(binary.BigEndian.AppendUint32(nil, corr))
}

// speaks answers ApiVersions with ranges of versions.
func speaks(corr uint32, spans map[kmsg.Key][2]int16) []byte {
	resp := kmsg.NewPtrApiVersionsResponse()
	resp.SetVersion(3)
	for k, s := range spans {
		ak := kmsg.NewApiVersionsResponseApiKey()
		ak.ApiKey, ak.MinVersion, ak.MaxVersion = k.Int16(), s[0], s[1]
		resp.ApiKeys = append(resp.ApiKeys, ak)
	}
	return framed(corr, resp)
}

// old is a broker that speaks old, rigid versions, so that answers are short.
func old() map[kmsg.Key][2]int16 {
	return map[kmsg.Key][2]int16{kmsg.Metadata: {0, 4}, kmsg.ListGroups: {0, 2}, kmsg.Fetch: {0, 3}, kmsg.ApiVersions: {0, 3}}
}

func open(t *testing.T, addr string, opts ...wire.Option) *wire.Cluster {
	return kafkatest.Open(t, starferry.Cluster{Name: "old", Brokers: []string{addr}}, opts...)
}

func TestAnswersComeInOrderOfRequests(t *testing.T) {
	ctx, c, conf := begin(t)
	topic := kafkatest.Topic(t, conf, 1, nil)
	broker, _, err := c.Leader(ctx, partitions(topic, 1)[0])
	require.NoError(t, err)
	conn, err := c.Dial(ctx, broker)
	require.NoError(t, err)

	const n = 200
	bases := make(chan int64, n)
	for range n {
		req := kmsg.NewPtrProduceRequest()
		req.Acks, req.TimeoutMillis = -1, 10_000
		rt := kmsg.NewProduceRequestTopic()
		rt.Topic = string(topic)
		rp := kmsg.NewProduceRequestTopicPartition()
		rp.Records = kafkatest.Batch(kafkatest.Values("v", 1), newOwner(), -1, false)
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		require.NoError(t, conn.Send(req, func(r kmsg.Response, err error) {
			if err != nil {
				bases <- -1
				return
			}
			bases <- r.(*kmsg.ProduceResponse).Topics[0].Partitions[0].BaseOffset
		}))
	}
	for i := range int64(n) {
		require.Equal(t, i, <-bases)
	}
	require.NoError(t, conn.Close())
	<-conn.Done()
	require.ErrorIs(t, conn.Err(), wire.ErrClosed)
	require.ErrorIs(t, conn.Send(kmsg.NewPtrMetadataRequest(), nil), wire.ErrNotSent)
}

func TestBrokenConnectionFailsWhatIsUnderWay(t *testing.T) {
	seen := 0
	s := play(t, &script{reply: func(nc net.Conn, key int16, corr uint32) []byte {
		if key == kmsg.ApiVersions.Int16() {
			return speaks(corr, old())
		}
		if seen++; seen == 3 {
			nc.Close()
			return nil
		}
		if seen == 1 {
			r := kmsg.NewPtrListGroupsResponse()
			r.SetVersion(2)
			return framed(corr, r)
		}
		return nil
	}})
	c := open(t, s.addr)
	conn, err := c.DialAddr(t.Context(), s.addr)
	require.NoError(t, err)
	errs := make(chan error, 4)
	for range 3 {
		require.NoError(t, conn.Send(kmsg.NewPtrListGroupsRequest(), func(_ kmsg.Response, err error) { errs <- err }))
	}
	require.NoError(t, <-errs)
	for range 2 {
		err := <-errs
		require.ErrorIs(t, err, wire.ErrNoAnswer)
		require.NotErrorIs(t, err, wire.ErrNotSent)
	}
	<-conn.Done()
	require.Empty(t, errs, "done is called once")
	require.Error(t, conn.Err())
	err = conn.Send(kmsg.NewPtrListGroupsRequest(), func(kmsg.Response, error) { t.Error("done was called for what was not sent") })
	require.ErrorIs(t, err, wire.ErrNotSent)
}

// cutter is a connection that can be cut between a request and its answer.
type cutter struct {
	net.Conn
	armed *atomic.Int32 // 1: fail the next write half way; 2: let it out and lose the answer
	lost  atomic.Bool
}

func (c *cutter) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.lost.Load() {
		return 0, io.EOF
	}
	return n, err
}

func (c *cutter) Write(b []byte) (int, error) {
	switch c.armed.Swap(0) {
	case 1:
		n, _ := c.Conn.Write(b[:len(b)/2])
		c.Conn.Close()
		return n, io.ErrClosedPipe
	case 2:
		c.lost.Store(true)
	}
	return c.Conn.Write(b)
}

func cutting(armed *atomic.Int32) wire.Option {
	return wire.WithDialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &cutter{Conn: nc, armed: armed}, nil
	})
}

func TestCommitIsNeverSentTwice(t *testing.T) {
	f, conf := kafkatest.Fake(t, "old")
	var armed, arrived atomic.Int32
	f.ControlKey(kmsg.OffsetCommit.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		f.KeepControl()
		arrived.Add(1)
		return nil, nil, false
	})
	c := kafkatest.Open(t, conf, cutting(&armed))
	topic := kafkatest.Topic(t, conf, 1, nil)
	g := kafkatest.Group(t)
	commit := func(o starferry.Offset) error {
		return c.Commit(t.Context(), wire.Commit{Group: g, Generation: -1, Offsets: map[starferry.TopicPartition]wire.Committed{{Topic: topic}: {Offset: o}}})
	}
	require.NoError(t, commit(1))

	armed.Store(2)
	err := commit(2)
	require.ErrorIs(t, err, wire.ErrNoAnswer)
	require.NotErrorIs(t, err, wire.ErrNotSent)
	require.Eventually(t, func() bool { return arrived.Load() == 2 }, 5*time.Second, time.Millisecond)

	armed.Store(1)
	require.NoError(t, commit(3), "what was not sent is sent again")
	require.Equal(t, int32(3), arrived.Load())

	armed.Store(2)
	got, err := c.Committed(t.Context(), g, nil)
	require.NoError(t, err, "what only reads is asked again")
	require.Equal(t, starferry.Offset(3), got[starferry.TopicPartition{Topic: topic}].Offset)
}

func TestRequestFollowsTheCoordinator(t *testing.T) {
	f, conf := kafkatest.Fake(t, "old")
	topic := kafkatest.Topic(t, conf, 1, nil)
	c := kafkatest.Open(t, conf)
	g := kafkatest.Group(t)
	com := wire.Commit{Group: g, Generation: -1, Offsets: map[starferry.TopicPartition]wire.Committed{{Topic: topic}: {Offset: 4}}}
	for _, code := range []kafka.Error{kafka.NotCoordinatorForGroup, kafka.GroupLoadInProgress, kafka.GroupCoordinatorNotAvailable} {
		refused := false
		f.ControlKey(kmsg.OffsetCommit.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
			refused = true
			resp := req.ResponseKind().(*kmsg.OffsetCommitResponse)
			for _, rt := range req.(*kmsg.OffsetCommitRequest).Topics {
				st := kmsg.NewOffsetCommitResponseTopic()
				st.Topic = rt.Topic
				st.Partitions = append(st.Partitions, kmsg.OffsetCommitResponseTopicPartition{ErrorCode: int16(code)})
				resp.Topics = append(resp.Topics, st)
			}
			return resp, nil, true
		})
		require.NoError(t, c.Commit(t.Context(), com), code)
		require.True(t, refused)
	}
	f.RehashCoordinators()
	require.NoError(t, c.Commit(t.Context(), com), "after the coordinators moved")
}

func TestRequestIsGivenUpWithItsContext(t *testing.T) {
	f, conf := kafkatest.Fake(t, "old")
	c := kafkatest.Open(t, conf)
	f.ControlKey(kmsg.FindCoordinator.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		f.KeepControl()
		resp := req.ResponseKind().(*kmsg.FindCoordinatorResponse)
		resp.ErrorCode = int16(kafka.GroupCoordinatorNotAvailable)
		return resp, nil, true
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := c.DescribeGroup(ctx, "g")
	require.ErrorContains(t, err, kafka.GroupCoordinatorNotAvailable.Title(), "the error tells what was waited for")
}

func TestVersionsAreSettledPerBroker(t *testing.T) {
	f, conf := kafkatest.Fake(t, "old", kfake.MaxVersions(kversion.V2_4_0()))
	seen := map[int16]int16{}
	f.Control(func(req kmsg.Request) (kmsg.Response, error, bool) {
		f.KeepControl()
		seen[req.Key()] = req.GetVersion()
		return nil, nil, false
	})
	c := kafkatest.Open(t, conf)
	topic := kafkatest.Topic(t, conf, 1, nil)
	_, err := c.Offsets(t.Context(), partitions(topic, 1), wire.Latest)
	require.NoError(t, err)
	_, err = c.Committed(t.Context(), "g", nil)
	require.NoError(t, err, "a broker that cannot promise stable offsets is asked without")
	v, err := c.MaxVersion(t.Context(), 0, kmsg.Fetch.Int16())
	require.NoError(t, err)
	require.Equal(t, int16(11), v)
	v, err = c.MaxVersion(t.Context(), 0, kmsg.ConsumerGroupHeartbeat.Int16())
	require.NoError(t, err)
	require.Equal(t, int16(-1), v)
	f.DropControl()
	require.Equal(t, int16(6), seen[kmsg.OffsetFetch.Int16()])
	require.Equal(t, int16(5), seen[kmsg.ListOffsets.Int16()])
}

func TestBrokerThatIsTooOldIsTold(t *testing.T) {
	s := play(t, &script{reply: func(_ net.Conn, key int16, corr uint32) []byte { return speaks(corr, old()) }})
	c := open(t, s.addr)
	_, err := c.Do(t.Context(), kmsg.NewPtrFetchRequest())
	var ve *wire.VersionError
	require.ErrorAs(t, err, &ve)
	require.ErrorContains(t, err, `broker `+s.addr+` of cluster "old" speaks Fetch v0 to v3; starferry needs v4 to v12: use a newer Kafka`)
	require.ErrorIs(t, err, wire.ErrNotSent)
	_, err = c.Do(t.Context(), kmsg.NewPtrInitProducerIDRequest())
	require.ErrorContains(t, err, "does not speak InitProducerID")
}

func TestBrokerThatDoesNotKnowTheVersionOfApiVersions(t *testing.T) {
	asked := 0
	s := play(t, &script{reply: func(_ net.Conn, key int16, corr uint32) []byte {
		resp := kmsg.NewPtrApiVersionsResponse()
		if asked++; asked == 1 {
			resp.ErrorCode = int16(kafka.UnsupportedVersion)
			return framed(corr, resp)
		}
		resp.ApiKeys = []kmsg.ApiVersionsResponseApiKey{{ApiKey: 16, MaxVersion: 1}}
		return framed(corr, resp)
	}})
	conn, err := open(t, s.addr).DialAddr(t.Context(), s.addr)
	require.NoError(t, err)
	v, ok := conn.MaxVersion(16)
	require.True(t, ok)
	require.Equal(t, int16(1), v)
}

func TestSilentBrokerIsGivenUp(t *testing.T) {
	s := play(t, &script{reply: func(_ net.Conn, key int16, corr uint32) []byte {
		if key == kmsg.ApiVersions.Int16() {
			return speaks(corr, old())
		}
		return nil
	}})
	conn, err := open(t, s.addr, wire.WithRequestTimeout(50*time.Millisecond)).DialAddr(t.Context(), s.addr)
	require.NoError(t, err)
	_, err = conn.Do(t.Context(), kmsg.NewPtrListGroupsRequest())
	require.ErrorIs(t, err, wire.ErrNoAnswer)
	require.ErrorContains(t, err, "did not answer in time")

	conn, err = open(t, s.addr).DialAddr(t.Context(), s.addr)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = conn.Do(ctx, kmsg.NewPtrListGroupsRequest())
	require.ErrorIs(t, err, wire.ErrNoAnswer)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, conn.Err(), "a caller's impatience does not end the connection")
	conn.Close()
}

func TestGarbageIsAnErrorNotACrash(t *testing.T) {
	for name, raw := range map[string]string{
		"oversized":         "\x7f\xff\xff\xff\x00\x00",
		"negative":          "\xff\xff\xff\xff",
		"too small":         "\x00\x00\x00\x02\x00\x00",
		"http":              "HTTP/1.1 400 Bad Request\r\n\r\n",
		"tls alert":         "\x15\x03\x03\x00\x02\x02\x46",
		"other correlation": "\x00\x00\x00\x08\x12\x34\x56\x78\x00\x00\x00\x00",
		"cut short":         "\x00\x00\x10\x00\x00\x00\x00\x02",
	} {
		t.Run(name, func(t *testing.T) {
			s := play(t, &script{reply: func(nc net.Conn, key int16, corr uint32) []byte {
				if key == kmsg.ApiVersions.Int16() {
					return speaks(corr, old())
				}
				io.WriteString(nc, raw)
				nc.(*net.TCPConn).CloseWrite()
				return nil
			}})
			conn, err := open(t, s.addr).DialAddr(t.Context(), s.addr)
			require.NoError(t, err)
			_, err = conn.Do(t.Context(), kmsg.NewPtrListGroupsRequest())
			require.ErrorIs(t, err, wire.ErrNoAnswer)
			if name != "cut short" {
				require.ErrorIs(t, err, wire.ErrFrame)
			}
			<-conn.Done()
		})
	}
}

func TestFrameLimitIsKept(t *testing.T) {
	ctx, _, conf := begin(t)
	topic := kafkatest.Topic(t, conf, 1, nil)
	kafkatest.Produce(t, conf, topic, 0, kafka.Message{Value: []byte(strings.Repeat("x", 64<<10))})
	c := kafkatest.Open(t, conf, wire.WithMaxFrame(32<<10))
	broker, _, err := c.Leader(ctx, partitions(topic, 1)[0])
	require.NoError(t, err)
	_, err = c.DoOn(ctx, broker, fetchRequest(partitions(topic, 1)[0], 0))
	require.ErrorIs(t, err, wire.ErrFrame)
	require.ErrorContains(t, err, "above the limit of 32768")
}

func TestUnreachableClusterIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	l.Close()
	_, err = open(t, addr).Metadata(t.Context())
	require.ErrorIs(t, err, wire.ErrNotSent)
	require.ErrorContains(t, err, `cluster "old" at `+addr)
	require.ErrorContains(t, err, "check that the broker runs")
}

func TestClosedClusterSaysSo(t *testing.T) {
	_, conf := kafkatest.Fake(t, "old")
	c, err := wire.Open(conf)
	require.NoError(t, err)
	conn, err := c.Dial(t.Context(), 0)
	require.NoError(t, err)
	_, err = c.Metadata(t.Context())
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.NoError(t, c.Close(), "closing twice is no error")
	<-conn.Done()
	_, err = c.Metadata(t.Context())
	require.ErrorIs(t, err, wire.ErrClosed)
	_, err = c.DescribeGroup(t.Context(), "g")
	require.ErrorIs(t, err, wire.ErrClosed)
}
