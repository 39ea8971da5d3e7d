package sidecar_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/sidecar"
	"github.com/starferry/starferry/internal/kafkatest"
)

// What depends on brokers is the library's, and tested there and in whole
// houses; here a broker in this process will do.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// record is a record as a service reads it.
type record struct {
	Topic     string
	Partition int
	Offset    int64
	Attempt   int
	Key       string
	Value     string
}

// place is a service with a sidecar, and a topic.
type place struct {
	t       *testing.T
	cluster starferry.Cluster
	topic   starferry.Topic
	group   starferry.Group
	service *httptest.Server

	mu         sync.Mutex
	deliveries [][]record // that came
	answer     func(n int, rs []record, w http.ResponseWriter, r *http.Request)
}

// newPlace makes a place whose service answers so; nil: all is handled.
func newPlace(t *testing.T, partitions int, answer func(n int, rs []record, w http.ResponseWriter, r *http.Request)) *place {
	t.Helper()
	_, c := kafkatest.Fake(t, "dc1")
	p := &place{t: t, cluster: c, group: kafkatest.Group(t), answer: answer}
	p.topic = kafkatest.Topic(t, c, partitions, nil)
	p.service = httptest.NewServer(http.HandlerFunc(p.handle))
	t.Cleanup(p.service.Close)
	return p
}

func (p *place) handle(w http.ResponseWriter, r *http.Request) {
	var d struct{ Records []record }
	if err := json.NewDecoder(r.Body).Decode(&d); err != nil {
		http.Error(w, err.Error(), http.StatusTeapot)
		return
	}
	p.mu.Lock()
	p.deliveries = append(p.deliveries, d.Records)
	n := len(p.deliveries)
	p.mu.Unlock()
	if p.answer != nil {
		p.answer(n-1, d.Records, w, r)
	}
}

func (p *place) came() [][]record {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.deliveries)
}

// values are those of all deliveries, in order.
func (p *place) values() (out []string) {
	for _, d := range p.came() {
		for _, r := range d {
			out = append(out, r.Value)
		}
	}
	return out
}

func (p *place) config() sidecar.Config {
	return sidecar.Config{
		Consumer: consumer.Config{
			Group: p.group, Topics: []starferry.Topic{p.topic}, Clusters: []starferry.Cluster{p.cluster}, Instance: "s1", Start: consumer.Earliest,
			CommitInterval: 20 * time.Millisecond, RetryMin: 5 * time.Millisecond, RetryMax: 50 * time.Millisecond,
		},
		To: p.service.URL + "/records", Encoding: sidecar.Text, Listen: "127.0.0.1:0",
	}
}

func (p *place) open(change ...func(*sidecar.Config)) *sidecar.Sidecar {
	p.t.Helper()
	cfg := p.config()
	for _, f := range change {
		f(&cfg)
	}
	s, err := sidecar.Open(p.t.Context(), cfg)
	require.NoError(p.t, err)
	p.t.Cleanup(func() { p.close(s) })
	return s
}

func (p *place) close(s *sidecar.Sidecar) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(p.t, s.Close(ctx))
}

// write writes n records of the keys in turn, in one batch.
func (p *place) write(partition, n int, keys ...string) {
	p.t.Helper()
	var all []kafka.Message
	for i := range n {
		m := kafka.Message{Value: []byte(strconv.Itoa(i))}
		if len(keys) > 0 {
			m.Key = []byte(keys[i%len(keys)])
		}
		all = append(all, m)
	}
	kafkatest.Produce(p.t, p.cluster, p.topic, starferry.Partition(partition), all...)
}

func (p *place) committed(partition int, want starferry.Offset) {
	p.t.Helper()
	w := kafkatest.Open(p.t, p.cluster)
	require.Eventually(p.t, func() bool {
		got, err := w.Committed(p.t.Context(), p.group, nil)
		return err == nil && got[starferry.TopicPartition{Topic: p.topic, Partition: starferry.Partition(partition)}].Offset == want
	}, patience, 5*time.Millisecond, "partition %d is never committed at %d", partition, want)
}

// ask asks the sidecar, as its service does.
func ask(t *testing.T, s *sidecar.Sidecar, method, path, body string, change ...func(*http.Request)) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.Address()+path, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	for _, f := range change {
		f(req)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(got)
}

func numbers(from, to int) (out []string) {
	for i := from; i < to; i++ {
		out = append(out, strconv.Itoa(i))
	}
	return out
}

func TestRecordsComeInOrderAndMany(t *testing.T) {
	p := newPlace(t, 2, nil)
	p.write(0, 1000, "a", "b")
	p.open()
	p.committed(0, 1000)
	require.Equal(t, numbers(0, 1000), p.values())
	all := p.came()
	require.Equal(t, record{Topic: string(p.topic), Attempt: 1, Key: "a", Value: "0"}, all[0][0])
	require.Len(t, all[0], sidecar.MaxBatch)
	require.Len(t, all, 1000/sidecar.MaxBatch)
}

// By key many records of a partition are under way, in few deliveries, never two
// of one key.
func TestByKeyRecordsTravelTogether(t *testing.T) {
	var keys []string
	for i := range 40 {
		keys = append(keys, fmt.Sprint("k", i))
	}
	p := newPlace(t, 1, func(n int, _ []record, _ http.ResponseWriter, r *http.Request) {
		select { // a service that is not fast
		case <-time.After(time.Millisecond):
		case <-r.Context().Done():
		}
	})
	p.write(0, 2000, keys...)
	p.open(func(c *sidecar.Config) {
		c.Order, c.Requests, c.Consumer.Parallelism = sidecar.ByKey, 2, 40
	})
	p.committed(0, 2000)
	last := map[string]int{}
	for _, d := range p.came() {
		here := map[string]bool{}
		for _, r := range d {
			require.False(t, here[r.Key], "two of %s in one delivery", r.Key)
			here[r.Key] = true
			n, err := strconv.Atoi(r.Value)
			require.NoError(t, err)
			if was, ok := last[r.Key]; ok {
				require.Equal(t, was+40, n, "key %s", r.Key)
			}
			last[r.Key] = n
		}
	}
	require.Len(t, p.values(), 2000)
	require.Less(t, len(p.came()), 1000, "records do not travel together")
}

// Half a delivery is handled: what comes again is what was said, and by
// partition what lies behind it.
func TestPartOfADeliveryComesAgain(t *testing.T) {
	p := newPlace(t, 1, func(n int, rs []record, w http.ResponseWriter, _ *http.Request) {
		if n < 2 {
			i := slices.IndexFunc(rs, func(r record) bool { return r.Value == "3" })
			fmt.Fprintf(w, `{"results": [{"index": %d, "outcome": "retry", "reason": "locked"}]}`, i)
		}
	})
	p.write(0, 6)
	p.open()
	p.committed(0, 6)
	require.Equal(t, slices.Concat(numbers(0, 6), numbers(3, 6), numbers(3, 6)), p.values())
	require.Equal(t, []string{"3"}, valuesOf(p.came()[2]), "what failed twice is delivered alone")
	require.Equal(t, 3, p.came()[2][0].Attempt)
}

func valuesOf(rs []record) (out []string) {
	for _, r := range rs {
		out = append(out, r.Value)
	}
	return out
}

// A service that answers 4xx to a delivery is asked again of each record alone;
// what it refuses then goes to the dead-letter topic, with the reason.
func TestWhatIsRefusedIsPutAside(t *testing.T) {
	for _, by := range []sidecar.Order{sidecar.ByPartition, sidecar.ByKey} {
		p := newPlace(t, 1, func(_ int, rs []record, w http.ResponseWriter, _ *http.Request) {
			if slices.ContainsFunc(rs, func(r record) bool { return r.Value == "5" }) {
				http.Error(w, "no such customer", http.StatusUnprocessableEntity)
			}
		})
		dead := kafkatest.Topic(t, p.cluster, 1, nil)
		p.write(0, 10)
		p.open(func(c *sidecar.Config) {
			c.Order, c.Consumer.Failure = by, consumer.Failure{Attempts: 1000, DeadLetter: dead}
		})
		p.committed(0, 10)
		got := kafkatest.Records(t, p.cluster, dead, 0)
		require.Len(t, got, 1)
		require.Equal(t, "5", string(got[0].Value))
		i := slices.IndexFunc(got[0].Headers, func(h kafka.Header) bool { return h.Key == "starferry.error" })
		require.Contains(t, string(got[0].Headers[i].Value), "no such customer")
	}
}

// One that fails does not take those along that were delivered with it.
func TestWhatFailsBesideOthersFailsAlone(t *testing.T) {
	hold := make(chan struct{})
	p := newPlace(t, 1, func(n int, rs []record, w http.ResponseWriter, _ *http.Request) {
		if n == 0 {
			<-hold
		}
		if slices.ContainsFunc(rs, func(r record) bool { return r.Value == "5" }) {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	dead := kafkatest.Topic(t, p.cluster, 1, nil)
	p.write(0, 10)
	s := p.open(func(c *sidecar.Config) {
		c.Order, c.Requests, c.Consumer.Failure = sidecar.ByKey, 1, consumer.Failure{Attempts: 1, DeadLetter: dead}
	})
	require.Eventually(t, func() bool { // the others wait for the first, and travel together
		state, err := s.State(t.Context())
		return err == nil && len(state.Consumer.Partitions) == 1 && state.Consumer.Partitions[0].InFlight == 10
	}, patience, time.Millisecond)
	close(hold)
	p.committed(0, 10)
	require.Len(t, kafkatest.Records(t, p.cluster, dead, 0), 1)
}

// A service that is away, or busy, costs no attempt; Health says what is wrong.
func TestAServiceThatIsAwayIsWaitedFor(t *testing.T) {
	var busy atomic.Int32
	p := newPlace(t, 1, func(_ int, _ []record, w http.ResponseWriter, _ *http.Request) {
		if busy.Add(1) < 20 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	away, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := away.Addr().String()
	require.NoError(t, away.Close())
	dead := kafkatest.Topic(t, p.cluster, 1, nil)
	p.write(0, 10)
	s := p.open(func(c *sidecar.Config) {
		c.To, c.Consumer.Failure = "http://"+address, consumer.Failure{Attempts: 1, DeadLetter: dead}
	})
	require.Eventually(t, func() bool {
		_, text := ask(t, s, "GET", "/state", "")
		return strings.Contains(text, "connection refused")
	}, patience, 10*time.Millisecond)
	back, err := net.Listen("tcp", address)
	require.NoError(t, err)
	server := &http.Server{Handler: http.HandlerFunc(p.handle)}
	go func() { _ = server.Serve(back) }() // ends with Close
	defer server.Close()
	p.committed(0, 10)
	require.Empty(t, kafkatest.Records(t, p.cluster, dead, 0))
	require.Eventually(t, func() bool { code, _ := ask(t, s, "GET", "/health", ""); return code == 200 }, patience, 10*time.Millisecond)
}

// A service that says when it may be asked again is left alone until then, by
// all partitions.
func TestAServiceIsLeftAlone(t *testing.T) {
	var mu sync.Mutex
	var when []time.Time
	p := newPlace(t, 4, func(n int, _ []record, w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		when = append(when, time.Now())
		mu.Unlock()
		if n == 0 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	p.write(0, 1)
	p.open()
	require.Eventually(t, func() bool { return len(p.came()) == 1 }, patience, time.Millisecond)
	for i := range 3 {
		p.write(i+1, 1)
	}
	p.committed(0, 1)
	for i := range 3 {
		p.committed(i+1, 1)
	}
	mu.Lock()
	defer mu.Unlock()
	require.Len(t, when, 5)
	require.GreaterOrEqual(t, when[1].Sub(when[0]), 900*time.Millisecond)
}

// A service that hangs at a record is let go when the record is skipped, and the
// others come again.
func TestASkipEndsTheRequest(t *testing.T) {
	for _, by := range []sidecar.Order{sidecar.ByPartition, sidecar.ByKey} {
		hangs, released := make(chan struct{}, 100), make(chan time.Time, 100)
		p := newPlace(t, 1, func(_ int, rs []record, _ http.ResponseWriter, r *http.Request) {
			if slices.ContainsFunc(rs, func(r record) bool { return r.Value == "1" }) {
				hangs <- struct{}{}
				<-r.Context().Done()
				released <- time.Now()
			}
		})
		nc, _ := kafkatest.NATS(t)
		store, err := desired.Open(t.Context(), nc, desired.Options{Poll: 200 * time.Millisecond})
		require.NoError(t, err)
		p.write(0, 3)
		p.open(func(c *sidecar.Config) { c.Order, c.Consumer.NATS = by, nc })
		<-hangs
		began := time.Now()
		_, err = store.PutSettings(t.Context(), control.Settings{Version: control.ProtocolVersion, Group: p.group, Skips: []control.Skip{{
			ID: "s1", Cluster: "dc1", Partition: starferry.TopicPartition{Topic: p.topic}, Range: starferry.Range{From: 1, To: 2}, By: "ann", Why: "INC-1",
		}}}, 0)
		require.NoError(t, err)
		require.Less(t, (<-released).Sub(began), patience, "100 ms on a machine that is not busy; the service would be waited for longer")
		p.committed(0, 3)
	}
}

// Close waits for the answer to what is under way.
func TestCloseWaitsForAnswers(t *testing.T) {
	begun, hold := make(chan struct{}), make(chan struct{})
	p := newPlace(t, 1, func(int, []record, http.ResponseWriter, *http.Request) { close(begun); <-hold })
	p.write(0, 5)
	s := p.open()
	<-begun
	closed := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		closed <- s.Close(ctx)
	}()
	select {
	case err := <-closed:
		require.Fail(t, "closed with records in hand", err)
	case <-time.After(100 * time.Millisecond):
	}
	close(hold)
	require.NoError(t, <-closed)
	p.committed(0, 5)
	require.Len(t, p.came(), 1)
}

func TestAServiceAsksItsSidecar(t *testing.T) {
	p := newPlace(t, 1, nil)
	out := kafkatest.Topic(t, p.cluster, 2, nil)
	p.write(0, 5)
	s := p.open(func(c *sidecar.Config) { c.Produce = []starferry.Topic{out} })
	p.committed(0, 5)
	require.Eventually(t, func() bool { code, _ := ask(t, s, "GET", "/health", ""); return code == 200 }, patience, 10*time.Millisecond)
	_, text := ask(t, s, "GET", "/state", "")
	var state sidecar.State
	require.NoError(t, json.Unmarshal([]byte(text), &state))
	require.Equal(t, p.group, state.Consumer.Group)
	_, text = ask(t, s, "GET", "/metrics", "")
	for _, want := range []string{"starferry_consumer_healthy{", `starferry_sidecar_deliveries_total{status="200"} 1`, `starferry_sidecar_records_total{outcome="handled"} 5`} {
		require.Contains(t, text, want)
	}
	produce := func(body string, change ...func(*http.Request)) (int, string) {
		return ask(t, s, "POST", "/produce/"+string(out), body, change...)
	}
	code, text := produce(`{"records": [{"partition": 1, "key": "k", "value": "v1", "headers": [{"key": "h", "value": "x"}], "timestamp": 1767323045001}, {"partition": 1, "value_base64": "/w=="}, {"partition": 1}]}`)
	require.Equal(t, 200, code, text)
	require.Contains(t, text, `{"cluster":"dc1","partition":1,"offset":2}`)
	got := kafkatest.Records(t, p.cluster, out, 1)
	require.Len(t, got, 3)
	require.Equal(t, "k=v1 h=x", fmt.Sprintf("%s=%s %s=%s", got[0].Key, got[0].Value, got[0].Headers[0].Key, got[0].Headers[0].Value))
	require.Equal(t, int64(1767323045001), got[0].Time.UnixMilli())
	require.Equal(t, []byte{0xff}, got[1].Value)
	require.Nil(t, got[2].Value)
	for body, want := range map[string]string{
		`{"records": []}`:                                    "there are none",
		`{"record": [{}]}`:                                   "unknown field",
		`{"records": [{"value": {"a": 1}}]}`:                 "want a string",
		`{"records": [{"value": null}]}`:                     "leave it out for null",
		`{"records": [{"key_base64": "?"}]}`:                 "read record 0: key: no base64",
		`{"records": [{"value": "a", "value_base64": "/"}]}`: "keep one",
	} {
		code, text := produce(body)
		require.Equal(t, 400, code)
		require.Contains(t, text, want)
	}
	code, text = produce(`{"records": [{"partition": 9, "value": "v"}]}`)
	require.Equal(t, 503, code)
	require.Contains(t, text, `"error":`)
	code, _ = produce(`{}`, func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") })
	require.Equal(t, 415, code, "a page of a browser may send that")
	code, _ = ask(t, s, "GET", "/state", "", func(r *http.Request) { r.Host = "evil.example:80" })
	require.Equal(t, 421, code)
	code, text = ask(t, s, "POST", "/produce/other", "{}")
	require.Equal(t, 404, code)
	require.Contains(t, text, string(out))
}

func TestWrongConfigurations(t *testing.T) {
	_, c := kafkatest.Fake(t, "dc1")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for want, change := range map[string]func(*sidecar.Config){
		"to is empty":                      func(c *sidecar.Config) { c.To = "" },
		"is no address":                    func(c *sidecar.Config) { c.To = "127.0.0.1:8080" },
		`to "http://10.0.0.1/r" is beyond`: func(c *sidecar.Config) { c.To = "http://10.0.0.1/r" },
		"is open beyond this machine":      func(c *sidecar.Config) { c.Listen = ":8090" },
		"want HOST:PORT":                   func(c *sidecar.Config) { c.Listen = "8090" },
		"order by key, or leave it out":    func(c *sidecar.Config) { c.Consumer.Parallelism = 4 },
		`order "none" is unknown`:          func(c *sidecar.Config) { c.Order = "none" },
		`encoding "utf8" is unknown`:       func(c *sidecar.Config) { c.Encoding = "utf8" },
		"at most 1000 records":             func(c *sidecar.Config) { c.Consumer.BatchMax = 1000 },
		"timeout 1m0s: want":               func(c *sidecar.Config) { c.Timeout = time.Minute },
		"no address to listen at":          func(c *sidecar.Config) { c.Produce = []starferry.Topic{"t"} },
		"-1 deliveries at once":            func(c *sidecar.Config) { c.Requests = -1 },
		"group is empty":                   func(c *sidecar.Config) { c.Consumer.Group = "" },
		"give another address":             func(c *sidecar.Config) { c.Listen = taken.Addr().String() },
	} {
		cfg := sidecar.Config{To: "http://localhost:1/r", Consumer: consumer.Config{Group: "g", Topics: []starferry.Topic{"t"}, Clusters: []starferry.Cluster{c}}}
		change(&cfg)
		_, err := sidecar.Open(t.Context(), cfg)
		require.ErrorContains(t, err, want)
	}
}
