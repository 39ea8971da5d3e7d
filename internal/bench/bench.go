package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/estate"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/process"
	"github.com/starferry/starferry/internal/wire"
)

// Options say what to compare with what.
type Options struct {
	Starferry string // path of the program
	Kafka     string // version of the brokers and of MirrorMaker 2
	Jars      string // directory that holds the jars, below their version
	Load      Load
	Out       io.Writer // table and figures
	Log       io.Writer // progress
}

// bench is one comparison under way.
type bench struct {
	Options
	dir            string
	processes      *process.Set
	source, target side
}

// warmRecords is enough for the JVM to have compiled what it will.
const warmRecords = 300_000

// patience bounds everything a copier may take for one topic.
const patience = 5 * time.Minute

// Compare runs both copiers one after the other on the same pair of brokers,
// prints the table, and leaves nothing behind.
func Compare(ctx context.Context, o Options) error {
	dir, err := os.MkdirTemp("", "starferry-bench-")
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer os.RemoveAll(dir)
	b := &bench{Options: o, dir: dir, processes: process.NewSet(dir)}
	defer b.processes.Close()
	for name, s := range map[string]*side{estate.Old: &b.source, estate.New: &b.target} {
		stop, err := b.broker(ctx, name, s)
		if err != nil {
			return fmt.Errorf("bench: %w", err)
		}
		defer stop()
	}
	return b.compare(ctx)
}

func (b *bench) compare(ctx context.Context) error {
	warm := b.Load
	warm.Topic, warm.Records = "warm", min(warmRecords, b.Load.Records)
	b.say("filling %s with %d records", warm.Topic, warm.Records)
	if err := warm.Fill(ctx, b.source.cluster, b.source.address); err != nil {
		return err
	}
	mm2, err := b.limited(ctx, func(ctx context.Context) (Copy, error) {
		return b.runMM2(ctx, warm, b.Load, func(ctx context.Context) error { return b.Load.Fill(ctx, b.source.cluster, b.source.address) })
	})
	if err != nil {
		return err
	}
	b.say("MirrorMaker 2: %.0f records/s, %.1f CPU s/GB", mm2.PerSecond(), mm2.CPUPerGB())
	ours, err := b.limited(ctx, func(ctx context.Context) (Copy, error) { return b.runOurs(ctx, warm, b.Load) })
	if err != nil {
		return err
	}
	return Report(b.Out, b.Load, ours, mm2)
}

func (b *bench) limited(ctx context.Context, run func(context.Context) (Copy, error)) (Copy, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return run(ctx)
}

// brokerHeap is what a broker gets; with less it collects garbage instead of
// serving.
const brokerHeap = "1g"

// broker starts one broker as a process of its own and connects to it.
func (b *bench) broker(ctx context.Context, name string, s *side) (stop func(), err error) {
	b.say("starting Kafka %s as %s", b.Kafka, name)
	broker, err := kafkatest.StartBroker(ctx, kafkatest.BrokerOptions{
		Version: b.Kafka, Jars: b.Jars, Dir: filepath.Join(b.dir, "kafka-"+name), Heap: brokerHeap,
	})
	if err != nil {
		return nil, err
	}
	s.address = broker.Addr
	s.cluster, err = wire.Open(starferry.Cluster{Name: starferry.ClusterName(name), Brokers: []string{broker.Addr}})
	if err != nil {
		return nil, errors.Join(err, broker.Kill())
	}
	return func() {
		s.cluster.Close()
		if err := broker.Kill(); err != nil {
			b.say("end Kafka %s: %v", name, err)
		}
	}, nil
}

// runOurs copies both topics by one shard, which is what is measured.
func (b *bench) runOurs(ctx context.Context, warm, load Load) (Copy, error) {
	dir := filepath.Join(b.dir, "estate")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return Copy{}, fmt.Errorf("bench: %w", err)
	}
	e, err := estate.Open(estate.Plan{Dir: dir, Binary: b.Starferry, Old: b.source.address, New: b.target.address, Processes: b.processes})
	if err != nil {
		return Copy{}, err
	}
	agent, err := e.Agent()
	if err != nil {
		return Copy{}, err
	}
	defer agent.Stop()
	if err := e.AwaitAgent(ctx); err != nil {
		return Copy{}, err
	}
	shard, err := e.Shard("bench")
	if err != nil {
		return Copy{}, err
	}
	defer shard.Stop()
	var last Copy
	for _, l := range []Load{warm, load} {
		b.say("copying %s by starferry", l.Topic)
		if last, err = b.copyOne(ctx, e, l, shard); err != nil {
			return Copy{}, err
		}
	}
	return last, nil
}

// copyOne asks for one topic to be copied and measures it from its first record
// on, which comes before the answer does.
func (b *bench) copyOne(ctx context.Context, e *estate.Estate, l Load, shard *process.Process) (Copy, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		if err := b.replicate(ctx, e, l); err != nil {
			cancel(err)
		}
	}()
	c, err := watch(ctx, "starferry", b.target.cluster, l.lanes(l.Topic), l, shard)
	if err == nil {
		<-asked
	}
	return c, errors.Join(err, context.Cause(ctx))
}

// replicate asks for the topic to be copied, as an operator would.
func (b *bench) replicate(ctx context.Context, e *estate.Estate, l Load) error {
	line := fmt.Sprintf("replicate([%q], source = cluster(%q), target = cluster(%q))", l.Topic, estate.Old, estate.New)
	_, err := e.Command(ctx, "exec", "-c", line)
	return err
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.Log, "%s "+format+"\n", append([]any{time.Now().Format("15:04:05")}, args...)...)
}
