package house

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/scripting"
)

// drainDeadline is how long the instances stand still for an agent of which
// they hear nothing.
const drainDeadline = 10 * time.Second

// A shard dies while its lanes are copied. The other takes them over, the run
// that waits for the copy goes on, and the target has each record once.
func TestAShardDiesDuringTheCopy(t *testing.T) {
	t.Parallel()
	h := build(t, "")
	h.agent()
	shards := h.shards(2)
	s := h.busy(1, 4)
	done := h.inBackground("run", h.script("copy.star", `
def copy(m):
    link = replicate(["`+string(s.topics[0])+`"], source = OLD, target = NEW, link = "copy-`+h.id+`")
    assert_lag(link, max = 20, within = "60s", hold = "2s")

m = migration(name = "copy", phases = [phase("copy", do = copy)])
`))
	require.Eventually(t, func() bool {
		links := h.starferry("links", "copy-"+h.id).out
		return strings.Contains(links, "shard-1") && strings.Contains(links, "shard-2") && strings.Contains(links, "copying")
	}, patience, poll)
	shards[0].Kill()
	require.Eventually(t, func() bool { return strings.Contains(h.starferry("links", "copy-"+h.id).out, "unowned") }, patience, poll, "nobody noticed")
	h.says(<-done, 0, "is finished")
	require.NotContains(t, h.starferry("links", "copy-"+h.id).out, "shard-1")
	s.consumesOn(h.old)
	s.intact()
	h.copied(s)
}

// copied asserts that the target has each record of the service once, in order.
func (h *house) copied(s *service) {
	h.t.Helper()
	target := kafkatest.Open(h.t, h.new)
	for p := range s.partitions {
		tp := starferry.TopicPartition{Topic: s.topics[0], Partition: starferry.Partition(p)}
		require.Eventually(h.t, func() bool {
			ends, err := target.Offsets(h.t.Context(), []starferry.TopicPartition{tp}, wire.Latest)
			return err == nil && int(ends[tp]) >= s.wrote
		}, patience, poll)
		var want, got []string
		for _, m := range kafkatest.Records(h.t, h.old, tp.Topic, tp.Partition) {
			want = append(want, string(m.Value))
		}
		for _, m := range kafkatest.Records(h.t, h.new, tp.Topic, tp.Partition) {
			got = append(got, string(m.Value))
		}
		require.Equal(h.t, want, got)
	}
}

// An instance is killed while the others drain. The switch waits it out or is
// given up; the group reads on, and only what the dead one had been handed and
// had not committed may come again.
func TestAnInstanceIsKilledBetweenDrainAndDecision(t *testing.T) {
	kafkatest.Waits(t)
	t.Parallel()
	h := build(t, "")
	h.agent()
	h.shards(2)
	s := h.service(1, 4)
	s.traffic()
	s.instance("i1")
	victim := s.process("i2")
	s.members(2)
	s.consumesOn(h.old)
	require.Eventually(t, func() bool { return s.handledBy("i2") > 20 }, patience, poll)
	seen := h.phases(s.group)
	release := s.hold()
	defer release()
	done := h.inBackground("run", h.script("killed.star", switching(s, "killed-"+h.id, s.topics[0])))
	h.await(seen, control.Drain, done)
	victim.Kill()
	release()
	ended := <-done
	home := h.new
	if ended.exit != 0 {
		home = h.old
		h.says(ended, scripting.ExitError, "lives on "+string(h.old.Name), "starferry resume")
	}
	s.consumesOn(home)
	t.Logf("exit %d: %s", ended.exit, ended.err)
	if home.Name == h.old.Name {
		h.says(h.starferry("resume", h.runName("killed.star")), 0)
		s.consumesOn(h.new)
	}
	for _, v := range s.complete() {
		require.True(t, s.wasHandledBy("i2", v), "%s came twice, and the killed instance never had it", v)
	}
}

// NATS goes away right after the order to drain and never comes back. Nobody is
// left to decide, so the instances go back to work by themselves.
func TestNATSGoneInTheMiddleOfASwitch(t *testing.T) {
	kafkatest.Waits(t)
	t.Parallel()
	h := build(t, "")
	h.agent()
	h.shards(2)
	s := h.busy(1, 4)
	seen := h.phases(s.group)
	release := s.hold()
	defer release()
	done := h.inBackground("run", h.script("gone.star", switching(s, "gone-"+h.id, s.topics[0])))
	h.await(seen, control.Drain, done)
	h.heard(s.group, 2)
	h.server.Close()
	release()
	s.consumesWithin(h.old, drainDeadline+10*time.Second)
	h.says(<-done, scripting.ExitError, "run gone-", "silent", "starferry resume gone-")
	s.intact()
	s.calm(2)
}

// Agent and NATS are killed together right after the order to drain, and stay
// dead.
func TestAgentAndNATSKilledAfterTheDrain(t *testing.T) {
	kafkatest.Waits(t)
	t.Parallel()
	h := buildWithItsAgentsNATS(t)
	both := h.agentProcess()
	h.shards(2)
	s := h.busy(1, 4)
	seen := h.phases(s.group)
	release := s.hold()
	defer release()
	done := h.inBackground("run", h.script("gone.star", switching(s, "gone-"+h.id, s.topics[0])))
	h.await(seen, control.Drain, done)
	h.heard(s.group, 2)
	both.Kill()
	release()
	s.consumesWithin(h.old, drainDeadline+10*time.Second)
	h.says(<-done, scripting.ExitError, "run gone-", "silent", "starferry resume gone-")
	s.intact()
	s.calm(2)
}

// An agent is killed in each phase of a switch. The group goes on where it was,
// or where the decision has brought it; another agent finishes the run.
func TestAnAgentKilledInEachPhase(t *testing.T) {
	for _, phase := range []control.Phase{control.Prepare, control.Drain, control.Seed, control.Decide, control.Announce} {
		t.Run(string(phase), func(t *testing.T) {
			t.Parallel()
			h := build(t, "")
			victim := h.agentProcess()
			h.shards(2)
			s := h.busy(1, 4)
			seen := h.phases(s.group)
			release := h.keepIn(phase, s)
			defer release()
			done := h.inBackground("run", h.script("phase.star", switching(s, "phase-"+h.id, s.topics[0])))
			h.await(seen, phase, done)
			victim.Kill()
			release()
			h.agent()
			h.says(h.starferry("resume", h.runName("phase.star")), 0, "is finished")
			s.consumesOn(h.new)
			<-done // it has followed the first agent, or the second
			h.says(h.starferry("consumers", string(s.group)), 0, string(h.new.Name))
			h.says(h.starferry("rollback", h.runName("phase.star")), 0, "rolled back")
			s.consumesOn(h.old)
			s.intact()
		})
	}
}

// keepIn lets a switch not get beyond a phase until release. Where nothing holds
// it there, the phase is left soon after it was seen.
func (h *house) keepIn(phase control.Phase, s *service) (release func()) {
	switch phase {
	case control.Drain:
		return s.hold()
	case control.Seed:
		return holdCommits(h, h.new, control.Seeded)
	case control.Decide:
		return holdCommits(h, h.old, control.Moved)
	}
	return func() {}
}
