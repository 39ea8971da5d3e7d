package house

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/internal/chaos"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/process"
	"github.com/starferry/starferry/internal/wire"
)

// sessionTimeout is the shortest that real brokers allow.
const sessionTimeout = 6 * time.Second

// service is a group at work: its topics, its instances, what was written for
// it and what its handlers were given.
type service struct {
	h          *house
	group      starferry.Group
	topics     []starferry.Topic
	partitions int
	cluster    *wire.Cluster
	start      consumer.Start
	apart      []string // instances that are processes

	mu      sync.Mutex
	handled map[string]int // by value
	on      map[starferry.ClusterName]int
	wrote   int
	forced  int           // new generations that instances have forced
	gate    chan struct{} // not nil: handlers wait until it is closed
	quit    func()
}

// service makes topics and a group. Nothing runs yet.
func (h *house) service(topics, partitions int) *service {
	h.t.Helper()
	s := &service{h: h, group: kafkatest.Group(h.t), partitions: partitions, start: consumer.Earliest,
		handled: map[string]int{}, on: map[starferry.ClusterName]int{}, cluster: kafkatest.Open(h.t, h.old)}
	for range topics {
		s.topics = append(s.topics, kafkatest.Topic(h.t, h.old, partitions, nil))
	}
	return s
}

// busy is a service of two instances with traffic, already at work.
func (h *house) busy(topics, partitions int) *service {
	h.t.Helper()
	s := h.service(topics, partitions)
	s.traffic()
	s.instance("i1")
	s.instance("i2")
	s.members(2)
	s.consumesOn(h.old)
	return s
}

// members waits until the group has n members, and has shared its partitions out.
func (s *service) members(n int) {
	s.h.t.Helper()
	require.Eventually(s.h.t, func() bool {
		d, err := s.cluster.DescribeGroup(s.h.t.Context(), s.group)
		return err == nil && d.State == "Stable" && len(d.Members) == n
	}, patience, poll, "the group has not become one of %d members", n)
}

func (s *service) config(name string) consumer.Config {
	return consumer.Config{
		Group: s.group, Topics: s.topics, Instance: starferry.InstanceID(name), Start: s.start,
		Clusters: []starferry.Cluster{s.h.old, s.h.new}, Home: s.h.old.Name, CommitInterval: 50 * time.Millisecond,
		SessionTimeout: sessionTimeout, HeartbeatInterval: 300 * time.Millisecond, Logger: slog.New(ear{logger(name), s}),
	}
}

// instance starts an instance in this process.
func (s *service) instance(name string) *consumer.Consumer {
	s.h.t.Helper()
	c := s.config(name)
	c.NATS = s.h.connect()
	return s.open(c)
}

func (s *service) open(c consumer.Config) *consumer.Consumer {
	s.h.t.Helper()
	i, err := consumer.Open(s.h.t.Context(), c, s.handle)
	require.NoError(s.h.t, err)
	s.h.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = i.Close(ctx) // some tests close it themselves
	})
	return i
}

// process starts an instance that can be killed.
func (s *service) process(name string) *process.Process {
	return s.patientProcess(name, sessionTimeout)
}

// patientProcess is one whose coordinator waits for signs of life for so long.
func (s *service) patientProcess(name string, session time.Duration) *process.Process {
	s.h.t.Helper()
	file := filepath.Join(s.h.dir, name+".handled")
	s.apart = append(s.apart, name)
	o, err := json.Marshal(chaos.ServiceOptions{Group: s.group, Topics: s.topics, Clusters: []starferry.Cluster{s.h.old, s.h.new},
		NATS: s.h.cfg.NATS.Address(), Instance: starferry.InstanceID(name), Out: file, Session: session})
	require.NoError(s.h.t, err)
	return s.h.start(name, nil, roleVariable+"="+roleService, serviceVariable+"="+string(o))
}

func (s *service) handle(ctx context.Context, r consumer.Record) error {
	s.mu.Lock()
	gate := s.gate
	s.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handled[string(r.Value)]++
	s.on[r.Cluster]++
	return nil
}

// hold keeps the handlers of this process busy until release: a drain cannot
// end meanwhile.
func (s *service) hold() (release func()) {
	gate := make(chan struct{})
	s.mu.Lock()
	s.gate = gate
	s.mu.Unlock()
	return sync.OnceFunc(func() {
		s.mu.Lock()
		s.gate = nil
		s.mu.Unlock()
		close(gate)
	})
}

// traffic writes a record to every partition every 20 ms until quiet.
func (s *service) traffic() {
	s.quit = s.every20ms("")
	s.h.t.Cleanup(s.quit)
}

// every20ms writes a record to every partition that often, until stop, which may
// be called again.
func (s *service) every20ms(padding string) (stop func()) {
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-over:
				return
			case <-tick.C:
				if !assert.NoError(s.h.t, s.produce(padding)) {
					return
				}
			}
		}
	}()
	return sync.OnceFunc(func() { close(over); <-done })
}

// produce writes one record to every partition.
func (s *service) produce(padding string) error {
	s.mu.Lock()
	n := s.wrote
	s.wrote++
	s.mu.Unlock()
	for _, topic := range s.topics {
		for p := range s.partitions {
			tp := starferry.TopicPartition{Topic: topic, Partition: starferry.Partition(p)}
			value := fmt.Appendf(nil, "%s/%d/%s", tp, n, padding)
			batch := kafkatest.Batch([]kafka.Message{{Value: value}}, wire.Producer{ID: -1, Epoch: -1}, -1, false)
			for deadline := time.Now().Add(patience); ; {
				_, err := kafkatest.ProduceBatch(s.cluster, tp, "", batch)
				if err == nil {
					break
				}
				// A topic that is new may still look for its leader.
				if !errors.Is(err, kafka.NotLeaderForPartition) || time.Now().After(deadline) {
					return err
				}
				s.cluster.Forget(topic)
			}
		}
	}
	return nil
}

func (s *service) handledOn(c starferry.Cluster) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.on[c.Name]
}

// consumesOn asserts that records of a cluster are being handled.
func (s *service) consumesOn(c starferry.Cluster) { s.consumesWithin(c, patience) }

func (s *service) consumesWithin(c starferry.Cluster, d time.Duration) {
	s.h.t.Helper()
	before := s.handledOn(c)
	require.Eventually(s.h.t, func() bool { return s.handledOn(c) > before+20 }, d, poll, "nothing is handled on %s", c.Name)
}

// tally counts what no handler was given, and what was given twice.
func (s *service) tally() (lost int, twice []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]int{}
	for v, n := range s.handled {
		all[v] += n
	}
	for _, name := range s.apart {
		for _, v := range s.by(name) {
			all[v]++
		}
	}
	for v, n := range all {
		if n > 1 {
			twice = append(twice, v)
		}
	}
	return s.wrote*s.partitions*len(s.topics) - len(all), twice
}

// intact ends the traffic and asserts that every record was handled once.
func (s *service) intact() {
	s.h.t.Helper()
	require.Empty(s.h.t, s.complete(), "handled twice")
}

// complete ends the traffic, waits for every record, and returns those handled
// more than once.
func (s *service) complete() []string {
	s.h.t.Helper()
	if s.quit != nil {
		s.quit()
	}
	require.Eventually(s.h.t, func() bool { lost, _ := s.tally(); return lost == 0 }, patience, poll, "records are lost")
	_, twice := s.tally()
	return twice
}

// by returns what an instance that is a process has handled.
func (s *service) by(name string) []string {
	raw, err := os.ReadFile(filepath.Join(s.h.dir, name+".handled"))
	if err != nil && !os.IsNotExist(err) {
		require.NoError(s.h.t, err)
	}
	var values []string
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		values = append(values, fields[len(fields)-2]) // before the cluster
	}
	return values
}

func (s *service) handledBy(name string) int { return len(s.by(name)) }

func (s *service) wasHandledBy(name, value string) bool { return slices.Contains(s.by(name), value) }

// ear counts what instances say of themselves, and passes it on.
type ear struct {
	to *slog.Logger // may be nil
	s  *service
}

func (e ear) Enabled(context.Context, slog.Level) bool { return true }

func (e ear) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "forces a new generation" {
		e.s.mu.Lock()
		e.s.forced++
		e.s.mu.Unlock()
	}
	if e.to == nil || !e.to.Enabled(ctx, r.Level) {
		return nil
	}
	return e.to.Handler().Handle(ctx, r)
}

func (e ear) WithAttrs([]slog.Attr) slog.Handler { return e }

func (e ear) WithGroup(string) slog.Handler { return e }

// calm asserts that the way out of a drain was taken at most once an instance,
// and did not set the group rebalancing over and over.
func (s *service) calm(instances int) {
	s.h.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	require.LessOrEqual(s.h.t, s.forced, instances, "the instances force generation after generation")
	require.Positive(s.h.t, s.forced, "nobody took the way out")
}
