//go:build unix

package consumer_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
)

// process is an instance of the group in a process of its own.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	out string
}

// build makes the example service.
func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "orders")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "github.com/starferry/starferry/examples/orders").CombinedOutput()
	require.NoError(t, err, string(out))
	return bin
}

func (e *estate) process(bin, name string, session time.Duration) *process {
	e.t.Helper()
	p := &process{t: e.t, out: filepath.Join(e.t.TempDir(), name)}
	address := func(c starferry.Cluster) string { return string(c.Name) + "=" + strings.Join(c.Brokers, "+") }
	p.cmd = exec.CommandContext(context.WithoutCancel(e.t.Context()), bin, "-clusters", address(e.old)+","+address(e.new), "-group", string(e.group), "-topics", string(e.topic),
		"-instance", name, "-session", session.String(), "-work", "50us", "-out", p.out)
	p.cmd.Stderr = os.Stderr
	if os.Getenv("STARFERRY_TEST_LOG") == "" {
		p.cmd.Stderr = nil
	}
	require.NoError(e.t, p.cmd.Start())
	e.t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		_ = p.cmd.Wait()
	})
	return p
}

// lines are "topic partition offset" of what it has handled.
func (p *process) lines() []string {
	text, err := os.ReadFile(p.out)
	if err != nil {
		return nil
	}
	var out []string
	for _, l := range strings.Split(string(text), "\n") {
		if w := strings.Fields(l); len(w) > 4 { // the time stands first
			out = append(out, strings.Join(w[1:4], " "))
		}
	}
	return out
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(s))
}

// A process that was stopped for longer than its session hands out nothing of
// what it has in its queues before it has heard from the coordinator, beyond the
// one record per partition that was on its way to the handler.
func TestAFrozenProcessAsksBeforeItGoesOn(t *testing.T) {
	const partitions, session = 4, 2 * time.Second
	e, _ := faulty(t, partitions)
	bin := build(t)
	for p := range partitions {
		e.produce(p, 6000, e.old)
	}
	frozen := e.process(bin, "a", session)
	require.Eventually(t, func() bool { return len(frozen.lines()) > 400 }, patience, 5*time.Millisecond)
	frozen.signal(syscall.SIGSTOP)
	stopped := time.Now()
	other := e.process(bin, "b", session)
	require.Eventually(t, func() bool { return len(other.lines()) > 10000 && time.Since(stopped) > 2*session }, 3*patience, 20*time.Millisecond)
	before, taken := len(frozen.lines()), map[string]bool{}
	for _, l := range other.lines() {
		taken[l] = true
	}
	frozen.signal(syscall.SIGCONT)

	all := func() map[string]int {
		times := map[string]int{}
		for _, l := range append(frozen.lines(), other.lines()...) {
			times[l]++
		}
		return times
	}
	require.Eventually(t, func() bool { return len(all()) == 6000*partitions }, 3*patience, 50*time.Millisecond, "records are lost")
	late := map[string]int{}
	for _, l := range frozen.lines()[before:] {
		if taken[l] {
			late[strings.Fields(l)[1]]++
		}
	}
	for p, n := range late {
		require.LessOrEqual(t, n, 1, "partition %s: records handed out after the thaw that another instance has had", p)
	}
	t.Logf("late records by partition: %v", late)
}
