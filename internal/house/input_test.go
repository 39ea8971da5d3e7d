package house

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/scripting"
)

// switching is a script that copies some of a group's topics over a link of its
// own, and switches the group.
func switching(s *service, link string, topics ...starferry.Topic) string {
	var names []string
	for _, t := range topics {
		names = append(names, `"`+string(t)+`"`)
	}
	return `
def copy(m):
    link = replicate([` + strings.Join(names, ", ") + `], source = OLD, target = NEW, link = "` + link + `")
    assert_lag(link, max = 400, within = "30s")
    return link

def switch(m):
    return switch_consumer("` + string(s.group) + `", source = OLD, target = NEW, link = m.out.copy)

m = migration(name = "move", lock = ["group ` + string(s.group) + `"], phases = [phase("copy", do = copy), phase("switch", do = switch)])
`
}

// Whatever is wrong with groups, topics, scripts or runs, the operator is told
// what, where, why and what to do, and the group reads on where it was.
func TestBadInput(t *testing.T) {
	h := build(t, "")
	h.agent()
	h.shards(2)
	for name, story := range map[string]func(*house){
		"a topic with other partitions on the target": otherPartitions,
		"a member that is no starferry instance":      aStranger,
		"a group that nobody knows":                   nobodyKnows,
		"a group with no committed offsets":           noCommits,
		"a group that reads a topic outside the link": outsideTheLink,
		"a script with a mistake":                     mistakes,
		"a lag that never falls":                      lagThatNeverFalls,
		"a partition that is refused for good":        refusedForGood,
		"things that are not there":                   notThere,
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			mine := *h
			mine.t = t
			story(&mine)
		})
	}
}

func otherPartitions(h *house) {
	s := h.busy(1, 3)
	kafkatest.MakeTopic(h.t, h.new, s.topics[0], 5, nil)
	topic := string(s.topics[0])
	h.says(h.starferry(h.moveArguments(s.group)...), scripting.ExitUnmet,
		topic+" has 5 partitions on "+string(h.new.Name)+" and 3 on "+string(h.old.Name), "move_group.star:", "changed and held now: nothing", "starferry resume")
	h.says(h.run("other.star", switching(s, "other", s.topics[0])), scripting.ExitError,
		"topic "+topic+" has 3 partitions on "+string(h.old.Name)+" and 5 on "+string(h.new.Name), "other.star:3", "delete the topic on "+string(h.new.Name))
	s.consumesOn(h.old)
	s.intact()
}

// A member of the group that uses another library takes its share and does not
// disturb the others. A switch names it, and once it is gone the same run moves
// the group.
func aStranger(h *house) {
	s := h.busy(1, 3)
	stranger, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID: string(s.group), Brokers: h.old.Brokers, Topics: []string{string(s.topics[0])}, SessionTimeout: sessionTimeout,
		HeartbeatInterval: 300 * time.Millisecond, Dialer: &kafka.Dialer{ClientID: "legacy-billing"}, Timeout: 5 * time.Second,
		JoinGroupBackoff: 100 * time.Millisecond,
	})
	require.NoError(h.t, err)
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	require.Eventually(h.t, func() bool { _, err := stranger.Next(ctx); return err == nil }, patience, poll, "the stranger cannot join")
	s.members(3)
	s.consumesOn(h.old)
	h.says(h.run("stranger.star", switching(s, "stranger", s.topics[0])), scripting.ExitError,
		"every member of the group to be a live instance", "legacy-billing", "lives on "+string(h.old.Name), "deploy the library", "held now", "starferry rollback")
	require.NoError(h.t, stranger.Close())
	s.consumesOn(h.old)
	h.says(h.starferry("resume", h.runName("stranger.star")), 0)
	s.consumesOn(h.new)
	s.intact()
}

func nobodyKnows(h *house) {
	h.says(h.starferry(h.moveArguments("bililng")...), scripting.ExitError, "group bililng", "knows no offset of it", "check the name", "changed and held now: nothing")
	h.says(h.run("who.star", `
def look(m):
    topics_of(OLD, "bililng")

m = migration(name = "look", phases = [phase("look", do = look)])
`), scripting.ExitUnmet, "group bililng reads topics on "+string(h.old.Name), "neither members nor commits", "is the group's name right?")
}

// Instances that refuse to guess where to begin hold their partitions and
// commit nothing; a switch would have to guess for them.
func noCommits(h *house) {
	s := h.service(1, 2)
	s.start = consumer.Refuse
	require.NoError(h.t, s.produce(""))
	i := s.instance("i1")
	h.says(h.run("nocommits.star", switching(s, "nocommits", s.topics[0])), scripting.ExitError,
		string(s.topics[0])+"/", "has no commit and the start policy refuses to guess", "set Start to earliest or latest",
		"lives on "+string(h.old.Name))
	require.NoError(h.t, i.Close(h.t.Context()))
	s.start = consumer.Earliest
	s.instance("i2")
	s.traffic()
	s.consumesOn(h.old)
	s.intact()
}

func outsideTheLink(h *house) {
	s := h.busy(2, 2)
	h.says(h.run("outside.star", switching(s, "outside", s.topics[0])), scripting.ExitError,
		"every partition the group reads to be copied by link outside", string(s.topics[1]), "add their topics to the link with replicate",
		"lives on "+string(h.old.Name), "starferry rollback")
	s.consumesOn(h.old)
	s.intact()
}

// Mistakes in scripts are found by the command line, without an agent, or at
// their line when they are reached.
func mistakes(h *house) {
	s := h.busy(1, 2)
	topic := string(s.topics[0])
	for name, tc := range map[string]struct {
		line  string
		words []string
	}{
		"typo.star":     {`replicat(["` + topic + `"], source = OLD, target = NEW)`, []string{"typo.star:3:5", "undefined: replicat", "did you mean replicate?"}},
		"argument.star": {`replicate(["` + topic + `"], sorce = OLD, target = NEW)`, []string{"argument.star:3:", "sorce", `did you mean source`}},
		"type.star":     {`assert_lag("x", max = "many")`, []string{"type.star:3:", "max", "many"}},
		"time.star":     {`assert_lag("x", within = "6 fortnights")`, []string{"time.star:3:", "within", "6 fortnights"}},
		"missing.star":  {`replicate(["` + topic + `"], source = OLD)`, []string{"missing.star:3:", "target"}},
	} {
		h.says(h.run(name, "\ndef go(m):\n    "+tc.line+"\n\nm = migration(name = \"m\", phases = [phase(\"go\", do = go)])\n"),
			scripting.ExitScript, tc.words...)
	}
	h.says(h.starferry("run", h.script("param.star", switching(s, "param", s.topics[0])), "-p", "grup=x"), scripting.ExitUsage, "grup")
	s.consumesOn(h.old)
	s.intact()
}

// A copy that does not get ahead ends the wait when the operator said, and says
// how far which partition is. A second run on the group is refused meanwhile.
func lagThatNeverFalls(h *house) {
	if kafkatest.Real() {
		h.t.Skip("a single real broker that is up has nothing to hold a copy up with for a while")
	}
	s := h.busy(1, 2)
	kafkatest.MakeTopic(h.t, h.new, s.topics[0], 2, nil)
	release := refuseProduce(h, s.topics[0])
	text := strings.Replace(switching(s, "slow", s.topics[0]), `max = 400, within = "30s"`, `max = 10, within = "5s"`, 1)
	first := h.inBackground("run", h.script("slow.star", text))
	require.Eventually(h.t, func() bool { return strings.Contains(h.starferry("runs").out, "slow-") }, patience, 50*time.Millisecond)
	run := h.runName("slow.star")
	h.says(h.run("second.star", switching(s, "second", s.topics[0])), scripting.ExitLocked,
		"lock group "+string(s.group), "held by run "+run, "starferry status "+run, "resume it or roll it back")
	h.says(<-first, scripting.ExitUnmet, "slow.star:4", "lag of link slow at most 10 records in each partition within 5s", string(s.topics[0])+"/",
		"held up", "Not Enough Replicas", "undone:", "starferry resume "+run)
	s.consumesOn(h.old)
	release()
	h.says(h.starferry("resume", run), 0, "switch_consumer done: 2 of 2 positions exact, ", "2 instances", "run "+run+" is finished; take it back with: starferry rollback "+run)
	s.consumesOn(h.new)
	h.says(h.starferry("resume", run), scripting.ExitUsage, "resume run "+run, "it is finished; nothing is left to do")
	h.says(h.starferry("rollback", run), 0, "run "+run+" is rolled back: ", "nothing is left to undo")
	s.consumesOn(h.old)
	h.says(h.starferry("rollback", run), scripting.ExitUsage, "roll back run "+run, "rolled back already")
	s.intact()
}

// A partition whose records the target will never take stops its lane, and the
// check at once: waiting would not help.
func refusedForGood(h *house) {
	s := h.service(1, 2)
	s.traffic()
	require.NoError(h.t, s.produce(strings.Repeat("x", 5000)))
	s.instance("i1")
	s.consumesOn(h.old)
	kafkatest.MakeTopic(h.t, h.new, s.topics[0], 2, map[string]string{"max.message.bytes": "2000"})
	began := time.Now()
	text := strings.Replace(switching(s, "refused", s.topics[0]), `within = "30s"`, `within = "6h"`, 1)
	stopped := h.run("refused.star", text)
	require.NotEqual(h.t, 0, stopped.exit)
	h.says(stopped, stopped.exit, string(s.topics[0])+"/", "max.message.bytes", "refused.star:")
	require.Less(h.t, time.Since(began), patience)
	s.consumesOn(h.old)
	s.intact()
}

func notThere(h *house) {
	s := h.busy(1, 2)
	h.says(h.run("notopic.star", switching(s, "notopic", "no-such-topic")), scripting.ExitError,
		"notopic.star:3", "topic no-such-topic of "+string(h.old.Name), "check its name")
	h.says(h.run("nolink.star", `
def look(m):
    translate_offset("no-such-link", "`+string(s.group)+`")

m = migration(name = "look", phases = [phase("look", do = look)])
`), scripting.ExitError, "nolink.star:3", "link no-such-link", "make it with replicate first")
	h.says(h.run("nocluster.star", `
def look(m):
    describe(cluster("odl"))

m = migration(name = "look", phases = [phase("look", do = look)])
`), scripting.ExitScript, "nocluster.star:3", `no cluster "odl" in the configuration`, string(h.old.Name))
	for _, command := range []string{"rollback", "resume", "status"} {
		h.says(h.starferry(command, "no-such-run"), scripting.ExitUsage, "run no-such-run", "not in the journal", "'starferry runs' lists")
	}
	s.consumesOn(h.old)
	s.intact()
}
