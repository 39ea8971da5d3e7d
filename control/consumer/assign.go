package consumer

import (
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

// The assignors, by the names and with the results of Kafka's own clients, so
// that members of any language can share the group.
const (
	rangeAssignor       = "range"
	roundRobinAssignor  = "roundrobin"
	stickyAssignor      = "sticky"
	cooperativeAssignor = "cooperative-sticky" // KIP-429
)

// subscriptions reads what every member wants to consume.
func subscriptions(members []kmsg.JoinGroupResponseMember) (map[string][]starferry.Topic, []starferry.Topic, error) {
	wants := map[string][]starferry.Topic{}
	topics := map[starferry.Topic]bool{}
	for _, mem := range members {
		want, _, err := wire.Subscription(mem.ProtocolMetadata)
		if err != nil {
			return nil, nil, fmt.Errorf("member %s: %w", mem.MemberID, err)
		}
		wants[mem.MemberID] = want
		for _, t := range want {
			topics[t] = true
		}
	}
	return wants, slices.Sorted(maps.Keys(topics)), nil
}

// protocols are what this library offers, the best first. Alone, its members use
// the first.
func protocols(topics []string, userData []byte) []kmsg.JoinGroupRequestProtocol {
	plain := kmsg.NewConsumerMemberMetadata()
	plain.Topics = topics
	bare := plain.AppendTo(nil) // user data of "sticky" would be read as what a member has had
	plain.UserData = userData
	said := plain.AppendTo(nil)
	var out []kmsg.JoinGroupRequestProtocol
	for _, o := range []struct {
		name string
		text []byte
	}{{rangeAssignor, said}, {roundRobinAssignor, said}, {stickyAssignor, bare}, {cooperativeAssignor, cooperativeSubscription(topics)}} {
		p := kmsg.NewJoinGroupRequestProtocol()
		p.Name, p.Metadata = o.name, o.text
		out = append(out, p)
	}
	return out
}

// assign shares partitions out among members.
func assign(protocol string, wants map[string][]starferry.Topic, counts map[starferry.Topic]int, has owners) []kmsg.SyncGroupRequestGroupAssignment {
	// By member id, which begins with the client id: an instance gets the same
	// partitions on every cluster, so that a switch moves nothing between
	// instances.
	members := slices.Sorted(maps.Keys(wants))
	got := map[string]map[starferry.Topic][]int32{}
	for _, id := range members {
		got[id] = map[starferry.Topic][]int32{}
	}
	switch protocol {
	case roundRobinAssignor:
		roundRobin(members, wants, counts, got)
	case stickyAssignor:
		sticky(members, wants, counts, nil, got)
	case cooperativeAssignor:
		sticky(members, wants, counts, has, got)
		has.withhold(got)
	default:
		ranges(members, wants, counts, got)
	}
	var out []kmsg.SyncGroupRequestGroupAssignment
	for _, id := range members {
		a := kmsg.NewConsumerMemberAssignment()
		for _, t := range slices.Sorted(maps.Keys(got[id])) {
			at := kmsg.NewConsumerMemberAssignmentTopic()
			at.Topic, at.Partitions = string(t), got[id][t]
			a.Topics = append(a.Topics, at)
		}
		g := kmsg.NewSyncGroupRequestGroupAssignment()
		g.MemberID, g.MemberAssignment = id, a.AppendTo(nil)
		out = append(out, g)
	}
	return out
}

// ranges gives each member a contiguous stretch of each topic.
func ranges(members []string, wants map[string][]starferry.Topic, counts map[starferry.Topic]int, got map[string]map[starferry.Topic][]int32) {
	for t, n := range counts {
		var who []string
		for _, id := range members {
			if slices.Contains(wants[id], t) {
				who = append(who, id)
			}
		}
		next := 0
		for i, id := range who {
			k := n / len(who)
			if i < n%len(who) {
				k++
			}
			for range k {
				got[id][t] = append(got[id][t], int32(next))
				next++
			}
		}
	}
}

// roundRobin deals all partitions of all topics to the members in turn.
func roundRobin(members []string, wants map[string][]starferry.Topic, counts map[starferry.Topic]int, got map[string]map[starferry.Topic][]int32) {
	i := 0
	for _, tp := range all(counts) {
		for range members {
			id := members[i%len(members)]
			i++
			if slices.Contains(wants[id], tp.Topic) {
				got[id][tp.Topic] = append(got[id][tp.Topic], int32(tp.Partition))
				break
			}
		}
	}
}

// assigned reads what a leader has assigned.
func assigned(b []byte) ([]starferry.TopicPartition, error) {
	if len(b) == 0 {
		return nil, nil
	}
	a := kmsg.NewConsumerMemberAssignment()
	if err := a.ReadFrom(b); err != nil {
		return nil, fmt.Errorf("read assignment of %d bytes: %w", len(b), err)
	}
	var out []starferry.TopicPartition
	for _, t := range a.Topics {
		for _, p := range t.Partitions {
			out = append(out, starferry.TopicPartition{Topic: starferry.Topic(t.Topic), Partition: starferry.Partition(p)})
		}
	}
	slices.SortFunc(out, starferry.TopicPartition.Compare)
	return out, nil
}

// all lists every partition of the counted topics in order.
func all(counts map[starferry.Topic]int) []starferry.TopicPartition {
	var out []starferry.TopicPartition
	for t, n := range counts {
		for p := range n {
			out = append(out, starferry.TopicPartition{Topic: t, Partition: starferry.Partition(p)})
		}
	}
	slices.SortFunc(out, starferry.TopicPartition.Compare)
	return out
}
