package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// spoiled is a cluster, a proxy to it, and a client behind the proxy.
type spoiled struct {
	t       *testing.T
	cluster *kfake.Cluster
	proxy   *Proxy
	client  *kgo.Client
}

func open(t *testing.T, opts ...kgo.Opt) *spoiled {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(2), kfake.SeedTopics(4, "orders"))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	p, err := Open(cluster.ListenAddrs()[0])
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	address, err := p.Address(cluster.ListenAddrs()[0])
	require.NoError(t, err)
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(address), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(kgo.NoCompression())}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return &spoiled{t, cluster, p, client}
}

func (s *spoiled) produce(partition int32, value string) error {
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	return s.client.ProduceSync(ctx, &kgo.Record{Topic: "orders", Partition: partition, Value: []byte(value)}).FirstErr()
}

// held is what the cluster itself holds of a partition.
func (s *spoiled) held(partition int32) int64 {
	return s.cluster.PartitionInfo("orders", partition).HighWatermark
}

// Clients that came through the proxy stay behind it, whichever broker leads.
func TestClientsStayBehindTheProxy(t *testing.T) {
	s := open(t)
	for p := range int32(4) {
		require.NoError(t, s.produce(p, "x"))
	}
	direct := map[string]bool{}
	for _, a := range s.cluster.ListenAddrs() {
		direct[a] = true
	}
	known, err := kmsg.NewPtrMetadataRequest().RequestWith(t.Context(), s.client)
	require.NoError(t, err)
	require.Len(t, known.Brokers, 2)
	for _, b := range known.Brokers {
		assert.False(t, direct[fmt.Sprintf("%s:%d", b.Host, b.Port)], "the client knows the way past the proxy")
	}
}

// Each deed does what it says: what is carried out, and what the client hears.
func TestTricks(t *testing.T) {
	for name, c := range map[string]struct {
		trick   Trick
		carried bool // on the first attempt
	}{
		"half a request": {Trick{Deed: CutRequest}, false},
		"half an answer": {Trick{Deed: CutAnswer}, true},
		"no answer":      {Trick{Deed: LoseAnswer}, true},
		"refused":        {Trick{Deed: Refuse, Code: kerr.InvalidRecord.Code}, false},
		"a lie":          {Trick{Deed: Lie, Code: kerr.InvalidRecord.Code}, true},
	} {
		t.Run(name, func(t *testing.T) {
			// Without a retry the client tells what became of the one attempt.
			s := open(t, kgo.DisableIdempotentWrite(), kgo.RecordRetries(0), kgo.RequestRetries(0), kgo.ProducerBatchMaxBytes(1<<20))
			require.NoError(t, s.produce(0, "before"))
			c.trick.Key = kmsg.Produce
			played := s.proxy.Play(c.trick)
			err := s.produce(0, "spoiled")
			require.Error(t, err)
			if c.trick.Code != 0 {
				assert.True(t, errors.Is(err, kerr.InvalidRecord), "%v", err)
			}
			assert.Equal(t, 1, played.Done())
			want := int64(1)
			if c.carried {
				want = 2
			}
			assert.Equal(t, want, s.held(0))
			require.NoError(t, s.produce(0, "after"))
			assert.Equal(t, want+1, s.held(0))
		})
	}
}

// The weather changes for connections that stand, and ends when it is over.
func TestWeather(t *testing.T) {
	s := open(t)
	require.NoError(t, s.produce(0, "warm"))
	took := func() time.Duration {
		began := time.Now()
		require.NoError(t, s.produce(0, string(make([]byte, 100<<10))))
		return time.Since(began)
	}
	s.proxy.Set(Weather{Delay: 200 * time.Millisecond})
	assert.GreaterOrEqual(t, took(), 400*time.Millisecond, "there and back")
	s.proxy.Set(Weather{Rate: 200 << 10})
	assert.GreaterOrEqual(t, took(), 400*time.Millisecond, "100 KB at 200 KB/s")
	s.proxy.Set(Weather{Frozen: true})
	done := make(chan error, 1)
	go func() { done <- s.produce(0, "frozen") }()
	select {
	case err := <-done:
		t.Fatalf("it came through: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	s.proxy.Set(Weather{})
	require.NoError(t, <-done)
	assert.Positive(t, s.proxy.Cut())
	require.NoError(t, s.produce(0, "after the cut"))
}

// What is held arrives late, even if its client is gone; others are not held.
func TestHeldPacketsArriveLate(t *testing.T) {
	s := open(t, kgo.ClientID("held"), kgo.ProducerLinger(0))
	require.NoError(t, s.produce(0, "before"))
	held := s.proxy.Hold("held")
	s.client.Produce(t.Context(), &kgo.Record{Topic: "orders", Value: []byte("late")}, nil)
	address, err := s.proxy.Address(s.cluster.ListenAddrs()[0])
	require.NoError(t, err)
	other, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.ClientID("other"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	defer other.Close()
	require.NoError(t, other.ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Value: []byte("not held")}).FirstErr())
	require.Eventually(t, func() bool { return held.Requests() > 0 }, 10*time.Second, time.Millisecond)
	s.client.Close()
	assert.EqualValues(t, 2, s.held(0))
	held.Release()
	require.Eventually(t, func() bool { return s.held(0) == 3 }, 10*time.Second, 10*time.Millisecond)
}

// A proxy that reads nothing passes everything on, and its weather holds.
func TestRawBytesPassAsTheWeatherLetsThem(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer server.Close()
	var echo sync.WaitGroup
	defer echo.Wait()
	echo.Go(func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			echo.Go(func() { defer c.Close(); _, _ = io.Copy(c, c) })
		}
	})
	defer server.Close()
	p, err := OpenRaw(server.Addr().String())
	require.NoError(t, err)
	defer p.Close()
	address, err := p.Address(server.Addr().String())
	require.NoError(t, err)
	c, err := net.Dial("tcp", address)
	require.NoError(t, err)
	defer c.Close()
	said := func(text string) {
		_, err := io.WriteString(c, text)
		require.NoError(t, err)
		got := make([]byte, len(text))
		_, err = io.ReadFull(c, got)
		require.NoError(t, err)
		require.Equal(t, text, string(got))
	}
	said("INFO")
	p.Set(Weather{Delay: 20 * time.Millisecond})
	began := time.Now()
	said("PING")
	assert.GreaterOrEqual(t, time.Since(began), 40*time.Millisecond, "there and back")
	assert.Equal(t, 1, p.Cut())
	_, err = io.ReadFull(c, make([]byte, 1))
	require.Error(t, err)
}

// Errors can be told to members of a group too: a commit that was carried out
// and answered with an error stands, one that was refused does not.
func TestCommitsAreRefusedAndLiedAbout(t *testing.T) {
	for deed, stands := range map[Deed]bool{Refuse: false, Lie: true} {
		t.Run(string(deed), func(t *testing.T) {
			s := open(t, kgo.MaxVersions(kversion.V3_8_0())) // later ones commit by topic ids
			played := s.proxy.Play(Trick{Key: kmsg.OffsetCommit, Deed: deed, Code: kerr.RequestTimedOut.Code})
			req := kmsg.NewPtrOffsetCommitRequest()
			req.Group, req.Generation = "g", -1
			topic := kmsg.NewOffsetCommitRequestTopic()
			topic.Topic = "orders"
			part := kmsg.NewOffsetCommitRequestTopicPartition()
			part.Partition, part.Offset = 1, 7
			topic.Partitions = append(topic.Partitions, part)
			req.Topics = append(req.Topics, topic)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			resp, err := req.RequestWith(ctx, s.client)
			require.NoError(t, err)
			require.Equal(t, kerr.RequestTimedOut.Code, resp.Topics[0].Partitions[0].ErrorCode)
			require.Equal(t, 1, played.Done())
			ask := kmsg.NewPtrOffsetFetchRequest()
			ask.Group = "g"
			g := kmsg.NewOffsetFetchRequestGroup()
			g.Group = "g"
			ask.Groups = append(ask.Groups, g)
			got, err := ask.RequestWith(ctx, s.client)
			require.NoError(t, err)
			found := 0
			for _, g := range got.Groups {
				for _, t := range g.Topics {
					found += len(t.Partitions)
				}
			}
			assert.Equal(t, stands, found == 1)
		})
	}
}
