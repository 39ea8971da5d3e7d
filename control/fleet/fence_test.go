package fleet_test

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
)

// foreign is a client of another kind, in a process or library of its own.
type foreign interface {
	// start lets it consume from a cluster; it tells each record's value.
	start(w *world, on starferry.Cluster, saw func(string)) (stop func())
}

// franz is franz-go's consumer.
type franz struct{}

func (franz) start(w *world, on starferry.Cluster, saw func(string)) func() {
	c, err := kgo.NewClient(kgo.SeedBrokers(on.Brokers...), kgo.ConsumerGroup(string(w.group)), kgo.ConsumeTopics(string(w.topic)),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.SessionTimeout(6*time.Second), kgo.HeartbeatInterval(200*time.Millisecond),
		kgo.AutoCommitInterval(100*time.Millisecond))
	require.NoError(w.t, err)
	var done sync.WaitGroup
	done.Go(func() {
		for {
			got := c.PollFetches(context.Background())
			if got.IsClientClosed() {
				return
			}
			got.EachRecord(func(r *kgo.Record) { saw(string(r.Value)) })
		}
	})
	stop := sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = c.CommitUncommittedOffsets(ctx)
		c.Close()
		done.Wait()
	})
	w.t.Cleanup(stop)
	return stop
}

// java is Kafka's console consumer, in one of its two protocols.
type java struct{ protocol string }

func (j java) start(w *world, on starferry.Cluster, saw func(string)) func() {
	cmd := j.command(w, on)
	out, err := cmd.StdoutPipe()
	require.NoError(w.t, err)
	require.NoError(w.t, cmd.Start())
	recorded := regexp.MustCompile(`^\d+/\d+$`)
	var done sync.WaitGroup
	done.Go(func() {
		readLines(out, func(line string) {
			if recorded.MatchString(line) { // it also warns about its own options there
				saw(line)
			}
		})
	})
	stop := sync.OnceFunc(func() {
		_ = cmd.Process.Signal(interrupt) // it commits and leaves
		impatient := time.AfterFunc(patience/2, func() { _ = cmd.Process.Kill() })
		defer impatient.Stop()
		done.Wait()
		_ = cmd.Wait()
	})
	w.t.Cleanup(stop)
	return stop
}

func (j java) command(w *world, on starferry.Cluster, more ...string) *exec.Cmd {
	root, err := kafkatest.ModuleRoot()
	require.NoError(w.t, err)
	const version = "4.3.1" // whatever the brokers are: it speaks both protocols
	if !kafkatest.Fetched(version, filepath.Join(root, ".kafka")) {
		w.t.Skipf("Java's consumer comes with Kafka %s: make kafka KAFKA=%s", version, version)
	}
	dir := filepath.Join(root, ".kafka", version)
	logging := filepath.Join(w.t.TempDir(), "log4j2.properties")
	writeFile(w.t, logging, "status=error\nrootLogger.level=error\nrootLogger.appenderRef.e.ref=E\nappender.e.type=Console\nappender.e.name=E\nappender.e.target=SYSTEM_ERR\nappender.e.layout.type=PatternLayout\n")
	args := append([]string{"-Xmx128m", "-XX:TieredStopAtLevel=1", "-Dlog4j2.configurationFile=" + logging, "-cp", filepath.Join(dir, "*"),
		"org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", on.Brokers[0], "--topic", string(w.topic), "--group", string(w.group),
		"--consumer-property", "group.protocol=" + j.protocol, "--consumer-property", "auto.commit.interval.ms=100",
		"--consumer-property", "auto.offset.reset=earliest"}, more...)
	return exec.Command("java", args...)
}

// The three kinds of client move there and back with records flowing; each
// record is handled once.
func TestForeignClientsMoveThereAndBack(t *testing.T) {
	if !kafkatest.Real() {
		t.Skip("the in-process Kafka keeps the protocol type of a group that is empty, so no fence can take over from consumers")
	}
	for name, client := range map[string]foreign{"franz-go": franz{}, "java classic": java{"classic"}, "java KIP-848": java{"consumer"}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 3)
			if name == "java KIP-848" {
				w.needsConsumerProtocol()
			}
			w.keeper()
			stopTraffic := sync.OnceFunc(w.traffic())
			t.Cleanup(stopTraffic)
			handled := map[starferry.ClusterName]int{}
			saw := func(on starferry.Cluster) func(string) {
				return func(v string) {
					w.mu.Lock()
					defer w.mu.Unlock()
					w.handled[v]++
					handled[on.Name]++
				}
			}
			consumes := func(on starferry.Cluster) {
				w.mu.Lock()
				before := handled[on.Name]
				w.mu.Unlock()
				require.Eventually(t, func() bool {
					w.mu.Lock()
					defer w.mu.Unlock()
					return handled[on.Name] > before+30
				}, patience, 20*time.Millisecond, "nothing is handled on %s", on.Name)
			}
			stop := client.start(w, w.old, saw(w.old))
			consumes(w.old)

			for i, way := range [][2]starferry.Cluster{{w.old, w.new}, {w.new, w.old}} {
				o := w.externalOrder(way[0], way[1], fmt.Sprintf("run-%d", i))
				named := make(chan struct{})
				once := sync.OnceFunc(func() { close(named) })
				o.Progress = func(phase, waits string) {
					t.Logf("%s: %s", phase, waits)
					if strings.Contains(waits, "members to leave "+string(way[0].Name)) {
						once()
					}
				}
				running := stop
				go func() { <-named; running() }()
				r, err := w.fleet.SwitchExternal(t.Context(), o)
				once()
				require.NoError(t, err)
				require.Equal(t, 3, r.Exact)
				require.Equal(t, way[0].Name, r.Fenced)
				stop = client.start(w, way[1], saw(way[1]))
				consumes(way[1])
			}
			stopTraffic()
			lost, twice := w.settledFrom(handled)
			require.Zero(t, lost)
			require.Zero(t, twice)
			stop()
		})
	}
}

// needsConsumerProtocol skips where a broker does not speak KIP-848.
func (w *world) needsConsumerProtocol() {
	for _, c := range []*wire.Cluster{w.oldW, w.newW} {
		md, err := c.Metadata(w.t.Context())
		require.NoError(w.t, err)
		v, err := c.MaxVersion(w.t.Context(), md.Brokers[0].ID, 68)
		require.NoError(w.t, err)
		if v < 1 { // 0 is the preview of 3.7 to 3.9, which brokers name and refuse
			w.t.Skipf("cluster %s does not speak the consumer protocol of KIP-848 (Kafka 4.0)", c.Name())
		}
	}
}

// What a client sees that is started where its group is fenced.
func TestClientsAreRefusedByAFence(t *testing.T) {
	w := outsiders(t)
	w.keeper()
	w.movedOutside(w.old, w.new, "run-1")
	errs := make(chan error, 1)
	c, err := kgo.NewClient(kgo.SeedBrokers(w.old.Brokers...), kgo.ConsumerGroup(string(w.group)), kgo.ConsumeTopics(string(w.topic)),
		kgo.OnPartitionsAssigned(func(context.Context, *kgo.Client, map[string][]int32) { t.Error("a client was let in") }),
		kgo.WithHooks(groupError(func(err error) {
			select {
			case errs <- err:
			default:
			}
		})))
	require.NoError(t, err)
	defer c.Close()
	select {
	case err := <-errs:
		require.ErrorContains(t, err, "INCONSISTENT_GROUP_PROTOCOL")
	case <-time.After(patience):
		require.Fail(t, "the client was neither refused nor let in")
	}
	if !kafkatest.Real() {
		return // what Java says is asked of a real broker
	}
	for _, protocol := range []string{"classic", "consumer"} {
		if protocol == "consumer" {
			w.needsConsumerProtocol()
		}
		out, _ := java{protocol}.command(w, w.old, "--timeout-ms", "4000").CombinedOutput()
		t.Logf("java, %s protocol: %s", protocol, out)
		require.Contains(t, strings.ToLower(string(out)), "protocol")
		require.NotContains(t, string(out), "0/0")
	}
}

type groupError func(error)

func (g groupError) OnGroupManageError(err error) { g(err) }

// The fence stands as long as one of the agents that keep it lives, and falls
// when it is lifted.
func TestAFenceOutlivesItsAgent(t *testing.T) {
	w := outsiders(t)
	first := w.keeper()
	w.movedOutside(w.old, w.new, "run-1")
	w.keeper()
	members := func() int {
		v, err := w.fleet.Group(t.Context(), w.group)
		require.NoError(t, err)
		g := v.On[w.old.Name].Group
		if g.ProtocolType != "starferry" || g.State != "Stable" {
			return 0
		}
		return len(g.Members)
	}
	require.Eventually(t, func() bool { return members() == 2 }, patience, 20*time.Millisecond, "both agents are members")
	first()
	require.Error(t, w.byHand(w.oldW, 9, 9), "the fence has fallen with one of its agents")
	w.evict(w.oldW) // the session of the dead one ends, and for once that of the other too
	require.Eventually(t, func() bool { return members() == 1 }, patience, 20*time.Millisecond, "the living agent has the fence again")
	require.Error(t, w.byHand(w.oldW, 9, 9))
	require.NoError(t, w.fleet.LiftFence(contextFor(t, patience), w.group, w.old.Name, "ann", "test"))
	require.NoError(t, w.byHand(w.oldW, 9, 9))
	require.ErrorContains(t, w.fleet.RaiseFence(contextFor(t, patience), w.group, w.new.Name, "ann", "test"), "that is where it lives")
}

// settledFrom is settled, and tells which records are missing.
func (w *world) settledFrom(on map[starferry.ClusterName]int) (lost, twice int) {
	missing := func() (m []string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		for p := range w.partitions {
			for n := range w.wrote {
				if v := fmt.Sprintf("%d/%d", p, n); w.handled[v] == 0 {
					m = append(m, v)
				}
			}
		}
		return m
	}
	wait := time.NewTimer(patience)
	defer wait.Stop()
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for over := false; !over && len(missing()) > 0; {
		select {
		case <-wait.C:
			over = true
		case <-look.C:
		}
	}
	m := missing()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(m) > 0 {
		w.t.Logf("%d of %d missing, handled on %v: %v; old %v new %v", len(m), w.wrote*w.partitions, on, m[:min(20, len(m))], w.committed(w.oldW), w.committed(w.newW))
	}
	for v, n := range w.handled {
		if n > 1 {
			w.t.Logf("record %s was handled %d times", v, n)
			twice++
		}
	}
	return len(m), twice
}
