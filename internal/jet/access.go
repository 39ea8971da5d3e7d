package jet

import "slices"

// Access is what a process may do at NATS: the subjects it publishes to and
// subscribes to, and whether it answers those that ask it.
type Access struct {
	Publish   []string `json:"publish"`
	Subscribe []string `json:"subscribe"`
	Responses bool     `json:"allow_responses"`
}

// And joins what several things need, each subject once and in order.
func (a Access) And(others ...Access) Access {
	a.Publish, a.Subscribe = slices.Clone(a.Publish), slices.Clone(a.Subscribe)
	for _, o := range others {
		a.Publish, a.Subscribe = append(a.Publish, o.Publish...), append(a.Subscribe, o.Subscribe...)
		a.Responses = a.Responses || o.Responses
	}
	slices.Sort(a.Publish)
	slices.Sort(a.Subscribe)
	a.Publish, a.Subscribe = slices.Compact(a.Publish), slices.Compact(a.Subscribe)
	return a
}

// Bucket and Objects are the streams behind a key-value bucket and an object
// store (ADR-8, ADR-20 of NATS).
func Bucket(name string) string  { return "KV_" + name }
func Objects(name string) string { return "OBJ_" + name }

// Reads is what it takes to read streams in all ways of the client: directly, by
// consumers, pulled or pushed. Who may do that can let the server deliver what a
// stream holds to any subject: it is for processes that are trusted with all.
func Reads(streams ...string) (a Access) {
	for _, s := range streams {
		for _, ask := range []string{
			"STREAM.INFO." + s, "STREAM.MSG.GET." + s, "DIRECT.GET." + s, "DIRECT.GET." + s + ".>",
			"CONSUMER.CREATE." + s, "CONSUMER.CREATE." + s + ".>", "CONSUMER.INFO." + s + ".*",
			"CONSUMER.DELETE." + s + ".*", "CONSUMER.MSG.NEXT." + s + ".*",
		} {
			a.Publish = append(a.Publish, "$JS.API."+ask)
		}
		a.Publish = append(a.Publish, "$JS.FC."+s+".>", "$JS.ACK."+s+".>")
	}
	return a
}

// Makes is Reads, and what it takes to make streams and to change how they are kept.
func Makes(streams ...string) Access {
	a := Reads(streams...)
	a.Publish = append(a.Publish, "$JS.API.INFO") // the client asks before it makes a bucket
	for _, s := range streams {
		a.Publish = append(a.Publish, "$JS.API.STREAM.CREATE."+s, "$JS.API.STREAM.UPDATE."+s)
	}
	return a
}
