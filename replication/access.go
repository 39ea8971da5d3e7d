package replication

import "github.com/starferry/starferry/internal/jet"

func linkStreams() []string {
	return []string{jet.Bucket(linksBucket), jet.Bucket(ownersBucket), jet.Bucket(shardsBucket)}
}

// ShardAccess is what a shard needs at NATS: links, owners and leases, the
// snapshots of maps, and to be asked.
func ShardAccess() jet.Access {
	a := jet.Access{Subscribe: []string{subject("*", "*")}, Responses: true}
	for _, b := range []string{linksBucket, ownersBucket, shardsBucket} {
		a.Publish = append(a.Publish, "$KV."+b+".>")
	}
	maps := jet.Objects(snapshotsBucket)
	a.Publish = append(a.Publish, "$O."+snapshotsBucket+".>", "$JS.API.STREAM.PURGE."+maps)
	return a.And(jet.Makes(append(linkStreams(), maps)...))
}

// ClientAccess is what those need that ask for links and look at them.
func ClientAccess() jet.Access {
	a := jet.Access{Publish: []string{subject("*", "*")}}
	for _, b := range []string{linksBucket, ownersBucket} {
		a.Publish = append(a.Publish, "$KV."+b+".>")
	}
	return a.And(jet.Makes(linkStreams()...))
}

// ViewAccess is what those need that only look at links.
func ViewAccess() jet.Access {
	return jet.Access{Publish: []string{subject("*", "*")}}.And(jet.Reads(linkStreams()...))
}
