package consumer_test

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/internal/kafkatest"
)

// java starts Kafka's console consumer as a member of the group. What it prints
// is written down as handled by it. The function returned ends it gracefully.
func (e *estate) java(name string, topic starferry.Topic, properties ...string) (end func()) {
	e.t.Helper()
	root, err := kafkatest.ModuleRoot()
	require.NoError(e.t, err)
	version, _, _ := strings.Cut(os.Getenv("STARFERRY_KAFKA"), ",")
	args := []string{
		"-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", filepath.Join(root, ".kafka", version, "*"), "org.apache.kafka.tools.consumer.ConsoleConsumer",
		"--bootstrap-server", strings.Join(e.old.Brokers, ","), "--group", string(e.group), "--topic", string(topic), "--from-beginning",
		"--property", "print.partition=true", "--property", "print.key=false",
	}
	for _, p := range append(properties, "client.id="+name, "auto.commit.interval.ms=100", "fetch.max.wait.ms=100") {
		args = append(args, "--consumer-property", p)
	}
	cmd := exec.CommandContext(context.WithoutCancel(e.t.Context()), "java", args...)
	out, err := cmd.StdoutPipe()
	require.NoError(e.t, err)
	if os.Getenv("STARFERRY_TEST_LOG") != "" {
		cmd.Stderr = os.Stderr
	}
	require.NoError(e.t, cmd.Start())
	done := make(chan struct{})
	handle := e.seen.handle(name)
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			where, value, _ := strings.Cut(lines.Text(), "\t")
			p, err := strconv.Atoi(strings.TrimPrefix(where, "Partition:"))
			if err != nil {
				e.t.Logf("%s says: %s", name, lines.Text())
				continue
			}
			_ = handle(context.Background(), consumer.Record{Topic: topic, Partition: starferry.Partition(p), Value: []byte(value)})
		}
		_ = cmd.Wait() // its status tells of the signal
	}()
	ended := false
	end = func() {
		if ended {
			return
		}
		ended = true
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(patience):
			_ = cmd.Process.Kill()
			<-done
		}
	}
	e.t.Cleanup(end)
	return end
}

// A member of the Java client shares the group with ours, by every assignor of
// Kafka's own: all partitions are read by somebody, none by two, and when one of
// them goes the other takes over where it stood.
func TestJavaMembersShareTheGroup(t *testing.T) {
	if !kafkatest.Real() {
		t.Skip("the Java client needs the jars of a real Kafka; make test-kafka runs this")
	}
	for _, x := range []struct{ first, how, assignor string }{
		{"java", "as it comes", ""}, {"ours", "roundrobin", "RoundRobinAssignor"},
		{"java", "cooperative-sticky", "CooperativeStickyAssignor"}, {"ours", "cooperative-sticky", "CooperativeStickyAssignor"},
		{"ours", "KIP-848", ""},
	} {
		t.Run(x.how+", "+x.first+" first", func(t *testing.T) {
			var properties []string
			if x.assignor != "" {
				properties = []string{"partition.assignment.strategy=org.apache.kafka.clients.consumer." + x.assignor}
			}
			kip848 := x.how == "KIP-848"
			incremental := kip848 || x.how == "cooperative-sticky"
			if kip848 {
				properties = []string{"group.protocol=consumer"}
			}
			if kip848 && strings.HasPrefix(os.Getenv("STARFERRY_KAFKA"), "3.") {
				t.Skip("brokers of 3.9 do not speak KIP-848 unless they are told to")
			}
			e := newEstate(t, 6)
			total := 0
			feedUntil := func(who ...string) {
				require.Eventually(t, func() bool {
					for p := range 6 {
						e.produce(p, 2, e.old)
					}
					total += 12
					for _, n := range who {
						if e.seen.handledBy(n) == 0 {
							return false
						}
					}
					return true
				}, 2*patience, 100*time.Millisecond)
			}
			quiet := func() { // Java's cooperative members do not commit what they read while the group rebalances
				if incremental {
					e.settled(total)
				}
			}
			var end func()
			var ours *consumer.Consumer
			if x.first == "java" {
				end = e.java("java", e.topic, properties...)
				feedUntil("java")
				quiet()
				ours = e.open("a")
			} else {
				ours = e.open("a")
				feedUntil("a")
				quiet()
				end = e.java("java", e.topic, properties...)
			}
			if !kip848 { // DescribeGroups does not know such groups
				e.shared(2, 6)
			}
			feedUntil("a", "java")
			e.settled(total)
			if x.first == "java" {
				end()
			} else {
				closeIn(t, ours)
			}
			feedUntil()
			e.settled(total)
		})
	}
}

// shared checks that n members divide all partitions among themselves.
func (e *estate) shared(n, partitions int) {
	e.t.Helper()
	w := kafkatest.Open(e.t, e.old)
	require.Eventually(e.t, func() bool {
		d, err := w.DescribeGroup(context.Background(), e.group)
		if err != nil || d.State != "Stable" || len(d.Members) != n {
			return false
		}
		given := map[starferry.TopicPartition]bool{}
		for _, m := range d.Members {
			for _, tp := range m.Assigned {
				require.False(e.t, given[tp], "%s is given to two", tp)
				given[tp] = true
			}
		}
		return len(given) == partitions
	}, patience, 20*time.Millisecond, "the partitions are never all given")
}
