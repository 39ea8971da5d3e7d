package house

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/estate"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/process"
)

// line is a record as the service in Python wrote it down.
type line struct {
	who       string
	nanos     int64
	partition int
	number    int
	cluster   starferry.ClusterName
}

// python starts a process of examples/python and its sidecar.
func (s *service) python(python, name string) (sidecar *process.Process) {
	h := s.h
	h.t.Helper()
	script, err := filepath.Abs(filepath.Join("..", "..", "examples", "python", "service.py"))
	require.NoError(h.t, err)
	address, err := estate.FreeAddress()
	require.NoError(h.t, err)
	_, port, err := net.SplitHostPort(address)
	require.NoError(h.t, err)
	s.apart = append(s.apart, name)
	_, err = h.processes.Start(process.Spec{Name: "python-" + name, Path: python, Args: []string{script, "--port", port, "--out", filepath.Join(h.dir, name+".handled")}, Dir: h.dir})
	require.NoError(h.t, err)
	return h.start("sidecar-"+name, []string{
		"sidecar", "--config", h.file, "--group", string(s.group), "--topic", string(s.topics[0]), "--to", "http://" + address + "/records",
		"--instance", name, "--start", "earliest", "--encoding", "text", "--listen", "127.0.0.1:0", "--session", sessionTimeout.String(), "--retry-max", "500ms", "--grace", "10s",
	}, roleVariable+"="+roleProgram)
}

// lines are what all processes wrote, in the order of time.
func (s *service) lines() (all []line) {
	for _, name := range s.apart {
		raw, err := os.ReadFile(filepath.Join(s.h.dir, name+".handled"))
		if !os.IsNotExist(err) { // it may not have begun
			require.NoError(s.h.t, err)
		}
		for text := range strings.Lines(string(raw)) {
			l := line{who: name}
			var topic, key, value string
			var offset int64
			_, err := fmt.Sscan(text, &l.nanos, &topic, &l.partition, &offset, &key, &value, &l.cluster)
			require.NoError(s.h.t, err, text)
			l.number, err = strconv.Atoi(strings.Split(value, "/")[2])
			require.NoError(s.h.t, err, text)
			all = append(all, l)
		}
	}
	slices.SortFunc(all, func(a, b line) int { return cmp.Compare(a.nanos, b.nanos) })
	return all
}

// following asserts that what was handled so far of each partition follows one on
// the other from the first record on: nothing lost, twice or out of order.
func (s *service) following() {
	s.h.t.Helper()
	next := map[int]int{}
	for _, l := range s.lines() {
		require.Equal(s.h.t, next[l.partition], l.number, "of partition %d", l.partition)
		next[l.partition]++
	}
}

// A service in Python is moved there and back under load, a record that it
// cannot handle is skipped, its hot partition is throttled and spread: it loses
// nothing, and handles nothing twice.
func TestAServiceInPythonIsMovedAndSteered(t *testing.T) {
	t.Parallel()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3: install it to try examples/python")
	}
	h := build(t, "")
	f, err := os.OpenFile(h.file, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = fmt.Fprintf(f, "homes: [{cluster: %s}]\n", h.old.Name)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	h.agent()
	h.shards(1)
	s := h.service(1, 4)
	s.traffic()
	sidecars := []*process.Process{s.python(python, "a"), s.python(python, "b")}
	s.members(2)
	at := func(c starferry.Cluster) {
		t.Helper()
		var from []int
		for _, name := range s.apart {
			from = append(from, s.handledBy(name))
		}
		require.Eventually(t, func() bool {
			for i, name := range s.apart {
				if s.handledBy(name) < from[i]+20 {
					return false
				}
			}
			all := s.lines()
			return all[len(all)-1].cluster == c.Name
		}, patience, poll)
	}
	at(h.old)
	h.says(h.starferry(h.moveArguments(s.group)...), 0)
	at(h.new)
	h.says(h.starferry("rollback", h.runName("move-group.star")), 0)
	at(h.old)
	s.following()

	hot := starferry.TopicPartition{Topic: s.topics[0], Partition: 1}
	poison := kafkatest.Produce(t, h.old, hot.Topic, hot.Partition, kafka.Message{Value: []byte("poison")})
	place := fmt.Sprintf("%s@%d", hot, poison)
	require.Eventually(t, func() bool {
		return strings.Contains(h.starferry("peek", "--group", string(s.group)).out, place)
	}, patience, 100*time.Millisecond, "the poison record blocks nothing")
	count := func() (n int) {
		for _, l := range s.lines() {
			if l.partition == int(hot.Partition) {
				n++
			}
		}
		return n
	}
	before := count()
	h.says(h.starferry("skip", "--group", string(s.group), "--at", place, "--if-next", "--reason", "INC-1"), 0)
	require.Eventually(t, func() bool { return count() > before+20 }, patience, poll, "the partition does not go on")
	s.following()

	h.says(h.starferry("throttle", "--group", string(s.group), "--partition", hot.String(), "--rate", "5/s", "--reason", "INC-2"), 0)
	require.Eventually(t, func() bool {
		was, from := count(), time.Now()
		<-time.After(500 * time.Millisecond)
		return float64(count()-was) < 12*time.Since(from).Seconds()
	}, patience, time.Millisecond, "the partition is not throttled")
	began := time.Now().UnixNano()
	h.says(h.starferry("redistribute", "--group", string(s.group), "--partition", hot.String(), "--reason", "INC-2"), 0)
	h.says(h.starferry("throttle", "--group", string(s.group), "--partition", hot.String(), "--rate", "0/s", "--reason", "fixed"), 0)
	s.intact()
	spread := map[string]bool{}
	for _, l := range s.lines() {
		if l.nanos > began && l.partition == int(hot.Partition) {
			spread[l.who] = true
		}
	}
	require.Len(t, spread, 2, "both have had a share of the hot partition")
	for _, p := range sidecars {
		p.Stop()
		require.Zero(t, p.ExitCode(), p.Tail())
	}
}
