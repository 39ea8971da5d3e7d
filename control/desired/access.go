package desired

import (
	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/jet"
)

// ServiceAccess is what a service needs at NATS that consumes as these groups and
// produces to these topics: its own keys, and no others. It makes no consumers
// and looks at no stream as a whole.
func ServiceAccess(groups []starferry.Group, topics []starferry.Topic) jet.Access {
	a := jet.Access{Publish: []string{directSubject(DesiredBucket, homesKey)}}
	for _, g := range groups {
		for _, token := range []string{placementToken, settingsToken} {
			a.Publish = append(a.Publish, directSubject(DesiredBucket, groupKey(g, token)))
			a.Subscribe = append(a.Subscribe, toldSubject(DesiredBucket, groupKey(g, token)))
		}
		a.Publish = append(a.Publish, kvSubject(LiveBucket, groupKey(g, "*")), kvSubject(LastBucket, groupKey(g, "*.*")), wordsSubject(g))
	}
	for _, t := range topics {
		key := EncodeKey(string(t))
		a.Publish = append(a.Publish, directSubject(ProducersBucket, key), kvSubject(ProducingBucket, key+".*"))
		a.Subscribe = append(a.Subscribe, toldSubject(ProducersBucket, key))
	}
	return a.And()
}

func streams() (all []string) {
	for _, b := range []string{DesiredBucket, LiveBucket, LastBucket, ProducersBucket, ProducingBucket} {
		all = append(all, jet.Bucket(b))
	}
	return append(all, AuditStream)
}

// AgentAccess is what an agent needs of the desired state: all of it.
func AgentAccess() jet.Access {
	a := jet.Access{Subscribe: []string{wordsSubject("") + "*"}, Responses: true}
	for _, b := range []string{DesiredBucket, LiveBucket, LastBucket, ProducersBucket, ProducingBucket} {
		a.Publish = append(a.Publish, kvSubject(b, ">"))
	}
	a.Publish = append(a.Publish, auditPrefix+">")
	return a.And(jet.Makes(streams()...))
}

// OperatorAccess is what the command line needs of the desired state: it reads
// all, imports homes and lifts fences. Orders go through an agent.
func OperatorAccess() jet.Access {
	return jet.Access{Publish: []string{
		kvSubject(DesiredBucket, homesKey), kvSubject(DesiredBucket, "*."+fencesToken), auditPrefix + "*",
	}}.And(jet.Reads(streams()...))
}
