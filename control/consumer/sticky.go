package consumer

import (
	"encoding/binary"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
)

// owners are the members that say that they still have a partition.
type owners map[starferry.TopicPartition][]string

// owned reads what cooperative members claim (KIP-429): they go on with their
// partitions while the group rebalances. Of two that claim one partition, the
// one of an older generation has lost it. Members of this library claim nothing:
// they have stopped, and committed, before they join.
func owned(members []kmsg.JoinGroupResponseMember) owners {
	newest := map[starferry.TopicPartition]int32{}
	out := owners{}
	for _, mem := range members {
		claims, generation := claims(mem.ProtocolMetadata)
		for _, tp := range claims {
			was, known := newest[tp]
			if known && generation < was {
				continue
			}
			if !known || generation > was {
				out[tp], newest[tp] = nil, generation
			}
			out[tp] = append(out[tp], mem.MemberID)
		}
	}
	return out
}

// claims reads the partitions that one subscription claims, and of which
// generation: a field since version 2 (KIP-792), user data of the assignor
// before.
func claims(b []byte) (tps []starferry.TopicPartition, generation int32) {
	meta := kmsg.NewConsumerMemberMetadata()
	if meta.ReadFrom(b) != nil || meta.Version < 1 {
		return nil, -1 // claims nothing, or says that it does and does not (kafka-go)
	}
	generation = meta.Generation
	if meta.Version == 1 {
		generation = -1
		if len(meta.UserData) == 4 {
			generation = int32(binary.BigEndian.Uint32(meta.UserData))
		}
	}
	for _, t := range meta.OwnedPartitions {
		for _, p := range t.Partitions {
			tps = append(tps, starferry.TopicPartition{Topic: starferry.Topic(t.Topic), Partition: starferry.Partition(p)})
		}
	}
	return tps, generation
}

// cooperativeSubscription is what this library says to cooperative members:
// version 1, nothing owned, and the user data in which their assignor looks for
// a generation; anything else there would be taken for one.
func cooperativeSubscription(topics []string) []byte {
	meta := kmsg.NewConsumerMemberMetadata()
	meta.Version, meta.Topics = 1, topics
	meta.UserData = binary.BigEndian.AppendUint32(nil, ^uint32(0))
	return meta.AppendTo(nil)
}

// sticky leaves partitions with their owners as far as the members' shares stay
// even.
func sticky(members []string, wants map[string][]starferry.Topic, counts map[starferry.Topic]int, has owners, got map[string]map[starferry.Topic][]int32) {
	holder := map[starferry.TopicPartition]string{}
	load := map[string]int{}
	least := func(t starferry.Topic) string {
		best := ""
		for _, id := range members {
			if slices.Contains(wants[id], t) && (best == "" || load[id] < load[best]) {
				best = id
			}
		}
		return best
	}
	give := func(tp starferry.TopicPartition, id string) { holder[tp] = id; load[id]++ }
	tps := all(counts)
	for _, tp := range tps {
		if who := has[tp]; len(who) == 1 && slices.Contains(wants[who[0]], tp.Topic) {
			give(tp, who[0])
		}
	}
	for _, tp := range tps {
		if id := least(tp.Topic); holder[tp] == "" && id != "" {
			give(tp, id)
		}
	}
	for moved := true; moved; { // each move makes the shares more even, so this ends
		moved = false
		for _, tp := range tps {
			from, to := holder[tp], least(tp.Topic)
			if from != "" && load[to]+1 < load[from] {
				load[from]--
				give(tp, to)
				moved = true
			}
		}
	}
	for _, tp := range tps {
		if id := holder[tp]; id != "" {
			got[id][tp.Topic] = append(got[id][tp.Topic], int32(tp.Partition))
		}
	}
}

// withhold gives nobody what another member still has: that one sees that it is
// to lose the partition, stops, and joins again; then the partition is free.
func (o owners) withhold(got map[string]map[starferry.Topic][]int32) {
	for id, topics := range got {
		for t := range maps.Keys(topics) {
			topics[t] = slices.DeleteFunc(topics[t], func(p int32) bool {
				who := o[starferry.TopicPartition{Topic: t, Partition: starferry.Partition(p)}]
				return slices.ContainsFunc(who, func(other string) bool { return other != id })
			})
			if len(topics[t]) == 0 {
				delete(topics, t)
			}
		}
	}
}
