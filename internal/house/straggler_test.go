package house

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/process"
)

// frozenInDrain is a group of two of which one is frozen with the order to
// drain, under a session timeout that would let it block the group for long.
func frozenInDrain(h *house, session time.Duration, options string) (s *service, frozen *process.Process, before []string, run <-chan said) {
	s = h.service(1, 4)
	s.traffic()
	s.instance("i1")
	frozen = s.patientProcess("i2", session)
	s.members(2)
	s.consumesOn(h.old)
	require.Eventually(h.t, func() bool { return s.handledBy("i2") > 20 }, patience, poll)
	seen := h.phases(s.group)
	release := s.hold()
	defer release()
	text := strings.Replace(switching(s, "frozen-"+h.id, s.topics[0]), "link = m.out.copy)", "link = m.out.copy"+options+")", 1)
	run = h.inBackground("run", h.script("frozen.star", text))
	h.await(seen, control.Drain, run)
	require.NoError(h.t, frozen.Signal(syscall.SIGSTOP))
	return s, frozen, s.by("i2"), run
}

// onlyInHand refuses records that came twice unless the frozen instance had
// handled them before it froze, or had them in hand then: one of each partition.
func onlyInHand(t *testing.T, before, twice []string) {
	t.Helper()
	inHand := map[string]string{}
	for _, v := range twice {
		if slices.Contains(before, v) {
			continue
		}
		partition := v[:strings.LastIndex(strings.TrimSuffix(v, "/"), "/")]
		require.Empty(t, inHand[partition], "%s came twice too, and the frozen instance had not handled it before it froze", v)
		inHand[partition] = v
	}
}

// An instance is frozen in the drain. The switch removes it and goes on; when it
// wakes up it hands out nothing of what others have taken over.
func TestAFrozenInstanceIsEvicted(t *testing.T) {
	kafkatest.Waits(t)
	t.Parallel()
	h := build(t, "")
	h.agent()
	h.shards(2)
	s, frozen, before, run := frozenInDrain(h, 45*time.Second, `, on_straggler = "evict"`)
	h.says(<-run, 0, "is finished")
	s.consumesOn(h.new)
	h.says(h.starferry("consumers", string(s.group)), 0, "4 moved", string(h.new.Name))
	report := h.starferry("report", string(s.group))
	h.says(report, 0, "EVICTED", "i2", "PERHAPS HANDLED", "drain", "asked by")
	h.says(h.starferry("report", h.runName("frozen.star"), "--json"), 0, `"evicted"`, `"places"`)
	require.NoError(t, frozen.Signal(syscall.SIGCONT))
	count := s.handledBy("i2")
	require.Eventually(t, func() bool { return s.handledBy("i2") > count+20 }, patience, poll, "the instance that woke up gets nothing to do")
	onlyInHand(t, before, s.complete())
}

// Without that wish the switch is refused, and names the instance. It was frozen
// before the switch began, so the group has not stood still for it.
func TestAFrozenInstanceAbortsTheSwitch(t *testing.T) {
	kafkatest.Waits(t)
	t.Parallel()
	h := build(t, "")
	h.agent()
	h.shards(2)
	s := h.service(1, 4)
	s.traffic()
	s.instance("i1")
	frozen := s.patientProcess("i2", 45*time.Second)
	s.members(2)
	s.consumesOn(h.old)
	require.Eventually(t, func() bool { return s.handledBy("i2") > 20 }, patience, poll)
	require.NoError(t, frozen.Signal(syscall.SIGSTOP))
	before := s.by("i2")
	run := h.inBackground("run", h.script("frozen.star", switching(s, "frozen-"+h.id, s.topics[0])))
	require.Eventually(t, func() bool {
		return strings.Contains(h.starferry("status").out, "i2 ")
	}, patience, poll, "the status does not say what is waited for")
	h.says(h.starferry("consumers", string(s.group)), 0, "switch to "+string(h.new.Name)+" open: prepare")
	ended := <-run
	require.NoError(t, frozen.Signal(syscall.SIGCONT))
	require.NotZero(t, ended.exit)
	for _, words := range []string{"client id i2", "without a lease", "lives on " + string(h.old.Name), `on_straggler="evict"`} {
		require.Contains(t, strings.Join(strings.Fields(ended.err), " "), words)
	}
	h.says(h.starferry("report", string(s.group)), 0, "not moved", "without a lease")
	s.consumesOn(h.old)
	onlyInHand(t, before, s.complete())
}
