package consumer

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/starferry/starferry"
)

// cooperator is a member that goes on with what it has while its group
// rebalances, and stops only what it is told to.
type cooperator struct {
	has        []starferry.TopicPartition
	topics     []string
	generation int32
	version    int16
}

func (c *cooperator) says() []byte {
	meta := kmsg.NewConsumerMemberMetadata()
	meta.Version, meta.Topics, meta.Generation = c.version, c.topics, c.generation
	meta.UserData = binary.BigEndian.AppendUint32(nil, uint32(c.generation))
	for _, tp := range c.has {
		o := kmsg.NewConsumerMemberMetadataOwnedPartition()
		o.Topic, o.Partitions = string(tp.Topic), []int32{int32(tp.Partition)}
		meta.OwnedPartitions = append(meta.OwnedPartitions, o)
	}
	return meta.AppendTo(nil)
}

// lead assigns as a leader of this library does.
func lead(t require.TestingT, protocol string, counts map[starferry.Topic]int, members map[string][]byte) map[string][]starferry.TopicPartition {
	var joined []kmsg.JoinGroupResponseMember
	for id, text := range members {
		m := kmsg.NewJoinGroupResponseMember()
		m.MemberID, m.ProtocolMetadata = id, text
		joined = append(joined, m)
	}
	wants, _, err := subscriptions(joined)
	require.NoError(t, err)
	out := map[string][]starferry.TopicPartition{}
	for _, a := range assign(protocol, wants, counts, owned(joined)) {
		out[a.MemberID], err = assigned(a.MemberAssignment)
		require.NoError(t, err)
	}
	return out
}

// Whatever members come and go, nobody gets what another still has, and after
// the rebalances that those who lose something ask for, everything is shared out
// evenly.
func TestCooperativeMembersNeverShareAPartition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		counts := map[starferry.Topic]int{"a": rapid.IntRange(0, 7).Draw(t, "a"), "b": rapid.IntRange(1, 7).Draw(t, "b")}
		theirs := map[string]*cooperator{}
		ours := map[string][]starferry.TopicPartition{}
		for round := range 6 {
			name := fmt.Sprintf("m%d", rapid.IntRange(0, 4).Draw(t, "who"))
			switch {
			case theirs[name] != nil:
				delete(theirs, name)
			case ours[name] != nil:
				delete(ours, name)
			case rapid.Bool().Draw(t, "ours"):
				ours[name] = []starferry.TopicPartition{}
			default:
				theirs[name] = &cooperator{topics: []string{"a", "b"}, version: int16(rapid.IntRange(1, 3).Draw(t, "version"))}
			}
			if len(theirs)+len(ours) == 0 {
				continue
			}
			for again := true; again; {
				again = false
				says := map[string][]byte{}
				for id, c := range theirs {
					says[id] = c.says()
				}
				for id := range ours { // they have stopped
					ours[id] = []starferry.TopicPartition{}
					says[id] = cooperativeSubscription([]string{"a", "b"})
				}
				got := lead(t, cooperativeAssignor, counts, says)
				active := map[starferry.TopicPartition]string{}
				for id, tps := range got {
					for _, tp := range tps {
						require.Empty(t, active[tp], "%s is given to two", tp)
						active[tp] = id
					}
				}
				for id, c := range theirs {
					for _, tp := range c.has {
						require.Contains(t, []string{"", id}, active[tp], "%s goes to another while %s has it", tp, id)
						again = again || active[tp] == ""
					}
					c.has, c.generation = got[id], int32(round+1)
				}
				if again {
					continue
				}
				least, most := len(all(counts)), 0
				for _, tps := range got {
					least, most = min(least, len(tps)), max(most, len(tps))
				}
				require.Len(t, active, len(all(counts)))
				require.LessOrEqual(t, most-least, 1)
			}
		}
	})
}

// Members that subscribe to other topics get those, and nothing else, by every
// assignor; a topic that is not there yet is none.
func TestALeaderHonoursOtherSubscriptions(t *testing.T) {
	counts := map[starferry.Topic]int{"ours": 4, "theirs": 3, "none": 0}
	for _, protocol := range []string{rangeAssignor, roundRobinAssignor, stickyAssignor, cooperativeAssignor} {
		members := map[string][]byte{"x": (&cooperator{topics: []string{"none", "ours", "theirs"}, version: 1, generation: 3, has: []starferry.TopicPartition{{Topic: "gone", Partition: 1}}}).says()}
		for _, p := range protocols([]string{"ours"}, []byte("starferry")) {
			if p.Name == protocol {
				members["a"], members["b"] = p.Metadata, p.Metadata
			}
		}
		seen := map[starferry.TopicPartition]bool{}
		for id, tps := range lead(t, protocol, counts, members) {
			for _, tp := range tps {
				require.False(t, seen[tp], "%s: %s is given to two", protocol, tp)
				seen[tp] = true
				require.True(t, id == "x" || tp.Topic == "ours", "%s: %s gets %s", protocol, id, tp)
			}
		}
		require.Len(t, seen, 7, protocol)
	}
}

// Of two that claim one partition the one of the older generation has lost it;
// if neither is older, nobody gets it before they have stopped.
func TestClaimsOfOldGenerationsAreVoid(t *testing.T) {
	tp := []starferry.TopicPartition{{Topic: "a", Partition: 0}}
	for _, version := range []int16{1, 2} {
		old := &cooperator{topics: []string{"a"}, has: tp, generation: 4, version: version}
		now := &cooperator{topics: []string{"a"}, has: tp, generation: 7, version: version}
		got := lead(t, cooperativeAssignor, map[starferry.Topic]int{"a": 1}, map[string][]byte{"m1": old.says(), "m2": now.says()})
		require.Equal(t, tp, got["m2"])
		old.generation = 7
		got = lead(t, cooperativeAssignor, map[starferry.Topic]int{"a": 1}, map[string][]byte{"m1": old.says(), "m2": now.says()})
		require.Empty(t, slices.Concat(got["m1"], got["m2"]))
	}
}
