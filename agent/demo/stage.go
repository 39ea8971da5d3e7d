package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent"
	"github.com/starferry/starferry/agent/api"
	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication"
	"github.com/starferry/starferry/scripting"
)

const closeWithin = 20 * time.Second

// stage is everything that runs while the story is told.
type stage struct {
	o          Options
	n          names
	cfg        config.Config
	configFile string
	closers    closers

	source, target *wire.Cluster
	agent          *agent.Agent
	client         *api.Client
	producer       *producer
	recorder       *recorder
	lastRun        string
}

func open(ctx context.Context, o Options) (s *stage, err error) {
	s = &stage{o: o, n: o.names(), recorder: newRecorder()}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"clusters", s.openClusters}, {"agent and NATS", s.openAgent}, {"topics", s.createTopics},
		{fmt.Sprintf("%d shards", shards), s.openShards}, {fmt.Sprintf("a service of %d instances", instances), s.openService},
		{fmt.Sprintf("a producer, %g records/s", o.Rate), s.openProducer},
	} {
		began := time.Now()
		limited, cancel := context.WithTimeout(ctx, phaseLimit)
		err := step.do(limited)
		cancel()
		if err != nil {
			return s, fmt.Errorf("start %s of the demo: %w", step.what, err)
		}
		o.Say("started %s (%v)", step.what, time.Since(began).Round(time.Millisecond))
	}
	return s, nil
}

func (s *stage) close() error { return s.closers.Close() }

func (s *stage) openClusters(ctx context.Context) error {
	addresses := [2]string{s.o.Source, s.o.Target}
	if s.n.own {
		for i := range addresses {
			// One broker each: the story is about groups, not about brokers.
			c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.ClusterID(fmt.Sprintf("starferry-demo-%d", i)))
			if err != nil {
				return fmt.Errorf("start an embedded Kafka: %w", err)
			}
			s.closers.add(func() error { c.Close(); return nil })
			addresses[i] = strings.Join(c.ListenAddrs(), ",")
		}
	}
	s.cfg = config.Config{
		Clusters: map[starferry.ClusterName]starferry.Cluster{}, DataDir: s.o.DataDir,
		NATS: config.NATS{Listen: "127.0.0.1:0"}, Shards: config.Shards{Buckets: 8},
	}
	var ids [2]string
	for i, name := range []starferry.ClusterName{s.n.source, s.n.target} {
		cl := starferry.Cluster{Name: name, Brokers: strings.Split(addresses[i], ",")}
		s.cfg.Clusters[name] = cl
		w, err := wire.Open(cl, wire.WithClientID("starferry-demo"), wire.WithLogger(s.o.Log))
		if err != nil {
			return err
		}
		s.closers.add(w.Close)
		m, err := w.Metadata(ctx)
		if err != nil {
			return err
		}
		ids[i] = m.ClusterID
		if i == 0 {
			s.source = w
		} else {
			s.target = w
		}
	}
	if ids[0] == ids[1] && ids[0] != "" {
		return &scripting.UsageError{Text: fmt.Sprintf("demo: %s and %s are the same cluster, %s: give two", s.o.Source, s.o.Target, ids[0])}
	}
	return nil
}

func (s *stage) openAgent(ctx context.Context) error {
	a, err := agent.Open(ctx, &s.cfg, s.o.Log.With("process", "agent"))
	if err != nil {
		return err
	}
	s.agent = a
	s.closers.add(a.Close)
	s.cfg.NATS = a.NATS()
	nc, err := s.connect("command line")
	if err != nil {
		return err
	}
	s.client = &api.Client{Conn: nc, Hint: "the demo's own agent has gone"}
	s.configFile = filepath.Join(s.o.DataDir, config.DefaultFile)
	if err := os.WriteFile(s.configFile, s.yaml(), 0o600); err != nil {
		return fmt.Errorf("write the demo's configuration: %w", err)
	}
	return nil
}

// connect makes a NATS connection of its own for each part, as if each were a
// process.
func (s *stage) connect(part string) (*nats.Conn, error) {
	nc, err := agent.Connect(s.cfg.NATS, "starferry demo: "+part, s.o.Log)
	if err != nil {
		return nil, err
	}
	s.closers.add(func() error { nc.Close(); return nil })
	return nc, nil
}

// yaml is the configuration that a second terminal uses.
func (s *stage) yaml() []byte {
	var b strings.Builder
	b.WriteString("clusters:\n")
	for _, name := range s.cfg.Names() {
		fmt.Fprintf(&b, "  %s: {brokers: [\"%s\"]}\n", name, strings.Join(s.cfg.Clusters[name].Brokers, `", "`))
	}
	fmt.Fprintf(&b, "nats: {listen: \"%s\"}\ndata_dir: .\n", s.cfg.NATS.Listen)
	return []byte(b.String())
}

func (s *stage) createTopics(ctx context.Context) error {
	if !s.n.own {
		s.closers.add(s.cleanUp)
	}
	for _, t := range s.n.topics {
		if err := s.createTopic(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) createTopic(ctx context.Context, t topicPlan) error {
	return s.source.CreateTopic(ctx, wire.TopicSpec{Topic: t.name, Partitions: t.partitions, Replication: -1, Configs: map[string]string{"retention.ms": "86400000"}})
}

// cleanUp removes what the demo made on clusters that are not its own.
func (s *stage) cleanUp() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeWithin)
	defer cancel()
	var errs []error
	for _, c := range []*wire.Cluster{s.source, s.target} {
		if err := c.DeleteTopics(ctx, s.n.topicNames()...); err != nil && !errors.Is(err, kafka.UnknownTopicOrPartition) {
			errs = append(errs, fmt.Errorf("remove the demo's topics from %s: %w", c.Name(), err))
		}
		req := kmsg.NewPtrDeleteGroupsRequest()
		req.Groups = []string{string(s.n.group)}
		answer, err := c.DoGroup(ctx, s.n.group, req)
		if err == nil {
			for _, g := range answer.(*kmsg.DeleteGroupsResponse).Groups {
				if code := wire.Code(g.ErrorCode); code != nil && !errors.Is(code, kafka.GroupIdNotFound) {
					err = code
				}
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove group %s from %s: %w", s.n.group, c.Name(), err))
		}
	}
	return errors.Join(errs...)
}

func (s *stage) openShards(ctx context.Context) error {
	for i := range shards {
		id := fmt.Sprintf("shard-%d", i+1)
		nc, err := s.connect(id)
		if err != nil {
			return err
		}
		sh, err := agent.OpenShard(context.WithoutCancel(ctx), &s.cfg, nc, replication.ShardID(id), s.o.Log.With("process", id))
		if err != nil {
			return err
		}
		s.closers.add(sh.Close)
	}
	return nil
}

func (s *stage) openService(ctx context.Context) error {
	for i := range instances {
		id := fmt.Sprintf("orders-%d", i+1)
		nc, err := s.connect(id)
		if err != nil {
			return err
		}
		c, err := consumer.Open(ctx, consumer.Config{
			Group: s.n.group, Topics: s.n.topicNames(), Instance: starferry.InstanceID(id),
			Clusters: []starferry.Cluster{s.cfg.Clusters[s.n.source], s.cfg.Clusters[s.n.target]},
			Home:     s.n.source, Start: consumer.Earliest, NATS: nc, Logger: s.o.Log.With("process", id),
		}, s.handle)
		if err != nil {
			return err
		}
		s.closers.add(func() error {
			ctx, cancel := context.WithTimeout(context.Background(), closeWithin)
			defer cancel()
			return c.Close(ctx)
		})
	}
	return nil
}

// handle is the service's handler.
func (s *stage) handle(_ context.Context, r consumer.Record) error {
	s.recorder.handled(r.Cluster, r.TopicPartition(), r.Value, time.Now())
	return nil
}

func (s *stage) openProducer(ctx context.Context) error {
	p, err := newProducer(ctx, s.source, s.n.topics, s.o.Rate, s.o.Log.With("process", "producer"))
	if err != nil {
		return err
	}
	s.producer = p
	running, cancel := context.WithCancel(context.Background())
	go func() { _ = p.run(running) }() // finish reports its error; close waits for it
	s.closers.add(func() error {
		cancel()
		<-p.done
		return nil
	})
	return nil
}
