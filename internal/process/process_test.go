package process

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func shell(t *testing.T, s *Set, script string) *Process {
	t.Helper()
	p, err := s.Start(Spec{Name: "sh", Path: "/bin/sh", Args: []string{"-c", script}})
	require.NoError(t, err)
	return p
}

func newSet(t *testing.T) *Set {
	s := NewSet(t.TempDir())
	t.Cleanup(s.Close)
	return s
}

func TestAProcessThatFailsIsQuoted(t *testing.T) {
	p := shell(t, newSet(t), "echo no such topic; exit 3")
	err := p.Wait(context.Background())
	require.ErrorContains(t, err, "no such topic")
	assert.Equal(t, 3, p.ExitCode())
	assert.False(t, p.Running())
}

func TestCloseEndsWhatRuns(t *testing.T) {
	s := NewSet(t.TempDir())
	asked, stubborn := shell(t, s, "exec sleep 60"), shell(t, s, "exec sleep 60")
	stubborn.Kill()
	s.Close()
	assert.False(t, asked.Running())
	assert.Equal(t, -1, stubborn.ExitCode(), "killed, not ended")
}

func TestWaitingEndsWithItsContext(t *testing.T) {
	p := shell(t, newSet(t), "exec sleep 60")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, p.Wait(ctx), context.Canceled)
	_, err := p.CPU()
	require.NoError(t, err)
}

func TestAMissingProgramIsNamed(t *testing.T) {
	_, err := newSet(t).Start(Spec{Name: "gone", Path: "/nowhere/gone"})
	require.ErrorContains(t, err, "start gone")
}

func TestTheKernelsLineIsRead(t *testing.T) {
	d, err := parseStat([]byte("42 (a (b) c) S 1 42 42 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 1 0 100 1 1\n"))
	require.NoError(t, err)
	assert.Equal(t, 2*time.Second, d)
	for _, bad := range []string{"", "42 (x) S 1", "42 (x) S 1 2 3 4 5 6 7 8 9 10 x y z"} {
		_, err := parseStat([]byte(bad))
		assert.Error(t, err, bad)
	}
}

func TestMemoryIsReadFromTheKernelsLines(t *testing.T) {
	now, peak, err := parseStatus([]byte("Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\nThreads:\t3\n"))
	require.NoError(t, err)
	require.Equal(t, []int64{1 << 20, 2 << 20}, []int64{now, peak})
	for _, odd := range []string{"", "VmRSS:\t1 kB\n", "VmHWM:\t1 kB\nVmRSS:\tmuch kB\n", "VmHWM:\t1 MB\nVmRSS:\t1 kB\n"} {
		_, _, err := parseStatus([]byte(odd))
		require.Error(t, err, odd)
	}
}
