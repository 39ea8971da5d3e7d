package house

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/agent/embednats"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/internal/acl"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/process"
	"github.com/starferry/starferry/internal/wire"
)

// The users of a guarded house: one for each part.
const (
	agentUser   = "starferry-agent"
	shardUser   = "starferry-shard"
	serviceUser = "billing"
	writerUser  = "shop"
)

func partOf(user string) acl.Part {
	return map[string]acl.Part{agentUser: acl.Agent, shardUser: acl.Shard, serviceUser: acl.Consumer, writerUser: acl.Producer}[user]
}

// guarded is a house on clusters with an authorizer, TLS and SASL. Nobody may do
// anything yet.
type guarded struct {
	*house // as the administrator sees it
	g      *kafkatest.Guarded
	names  acl.Names
}

func guard(t *testing.T) *guarded {
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails
	h := &house{t: t, id: hex.EncodeToString(b[:]), dir: t.TempDir(), fakes: map[starferry.ClusterName]*kfake.Cluster{}}
	h.processes = process.NewSet(h.dir)
	t.Cleanup(h.processes.Close)
	names := []starferry.ClusterName{starferry.ClusterName("old-" + h.id), starferry.ClusterName("new-" + h.id)}
	g := kafkatest.OpenGuarded(t, names, agentUser, shardUser, serviceUser, writerUser)
	h.old, h.new = g.Clusters[0], g.Clusters[1]
	var err error
	h.server, err = embednats.Open(embednats.Options{Dir: filepath.Join(h.dir, "nats"), Listen: "127.0.0.1:0"})
	require.NoError(t, err)
	t.Cleanup(h.server.Close)
	x := &guarded{house: h, g: g}
	x.house = x.as(agentUser)
	x.old, x.new = g.Clusters[0], g.Clusters[1]
	return x
}

// as is the house as a user sees it, with a configuration of its own.
func (x *guarded) as(user string) *house {
	h := *x.house
	h.old, h.new = x.g.As(0, user), x.g.As(1, user)
	h.file = filepath.Join(h.dir, user+".yaml")
	text := "clusters:\n"
	for _, c := range []starferry.Cluster{h.old, h.new} {
		text += fmt.Sprintf("  %s: {brokers: [\"%s\"], tls: {ca_file: %s}, sasl: {mechanism: PLAIN, username: %s, password_file: %s}}\n",
			c.Name, strings.Join(c.Brokers, `", "`), c.TLS.CAFile, user, x.g.Password(user))
	}
	text += "nats: {url: \"" + h.server.URL() + "\"}\ndata_dir: data\nshards: {buckets: 2}\n"
	require.NoError(h.t, os.WriteFile(h.file, []byte(text), 0o600))
	var err error
	h.cfg, err = config.Load(h.file, os.Getenv)
	require.NoError(h.t, err)
	return &h
}

// lines are those that fit, for the names of this house.
func (x *guarded) lines(fit func(acl.Entry) bool) []acl.Line {
	return acl.Lines(slices.DeleteFunc(acl.List(), func(e acl.Entry) bool { return !fit(e) }), x.names)
}

// allow gives every part what the list says, on both clusters.
func (x *guarded) allow(users ...string) {
	for _, u := range users {
		for i := range x.g.Clusters {
			x.g.Allow(i, u, x.lines(func(e acl.Entry) bool { return e.Part == partOf(u) })...)
		}
	}
}

// errands are what one guarded house does, step by step.
type errands struct {
	*guarded
	s           *service
	wares       starferry.Topic // which producers with the library write
	retry, dead starferry.Topic
	outside     starferry.Group // without the library
	mended      atomic.Bool     // handlers take what they failed at
	slow        atomic.Bool
	mendedSeen  atomic.Int64
}

func newErrands(t *testing.T) *errands {
	e := &errands{guarded: guard(t)}
	e.s = e.service(1, 2)
	e.retry, e.dead, e.outside = starferry.Topic(e.s.group+".retry"), starferry.Topic(e.s.group+".dead"), kafkatest.Group(t)
	e.wares = kafkatest.Topic(t, e.old, 2, nil)
	kafkatest.MakeTopic(t, e.old, e.retry, 2, nil)
	for _, c := range e.g.Clusters {
		kafkatest.MakeTopic(t, c, e.dead, 2, nil)
	}
	e.names = acl.Names{
		Topics: []string{string(e.s.topics[0]), string(e.wares)}, Groups: []string{string(e.s.group), string(e.outside)},
		Retry: []string{string(e.retry)}, Dead: []string{string(e.dead)},
		Links: []string{string(starferry.LinkBetween(e.old.Name, e.new.Name)), string(starferry.LinkBetween(e.new.Name, e.old.Name))},
	}
	return e
}

// instance starts an instance that fails at poison until it is mended.
func (e *errands) instance(name string) {
	e.t.Helper()
	e.s.h = e.as(serviceUser)
	c := e.s.config(name)
	c.NATS, c.Failure = e.connect(), consumer.Failure{Attempts: 1, Retries: []consumer.Retry{{Topic: e.retry}}, DeadLetter: e.dead}
	i, err := consumer.Open(e.t.Context(), c, func(ctx context.Context, r consumer.Record) error {
		switch {
		case string(r.Value) == poison && !e.mended.Load():
			return errors.New("cannot be billed")
		case string(r.Value) == poison:
			e.mendedSeen.Add(1)
			return nil
		}
		if e.slow.Load() {
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return e.s.handle(ctx, r)
	})
	require.NoError(e.t, err)
	e.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = i.Close(ctx) // some are closed by a test
	})
}

const poison = "poison"

// links makes a link in each direction.
func (e *errands) links() said {
	return e.run("links.star", fmt.Sprintf(`
def links(m):
    topics = ["%s", "%s", "%s"]
    there = replicate(topics, source = OLD, target = NEW)
    back = replicate(topics, source = NEW, target = OLD)
    assert_lag(there, max = 400, within = "30s")
    assert_lag(back, max = 400, within = "30s")

m = migration(name = "links", phases = [phase("links", do = links)])
`, e.s.topics[0], e.wares, e.retry))
}

func (e *errands) move(name, source, target, more string) said {
	return e.run(name+".star", fmt.Sprintf(`
def switch(m):
    switch_consumer("%s", source = %s, target = %s, link = "%s"%s)

m = migration(name = "%s", phases = [phase("switch", do = switch)])
`, e.s.group, source, target, starferry.LinkBetween(e.old.Name, e.new.Name), more, name))
}

func (e *errands) producers(name, more string) said {
	return e.run(name+".star", fmt.Sprintf(`
def switch(m):
    switch_producer("%s", source = OLD, target = NEW, link = "%s"%s)
    watch_producers("%s", for_ = "100ms")

m = migration(name = "%s", phases = [phase("switch", do = switch)])
`, e.wares, starferry.LinkBetween(e.old.Name, e.new.Name), more, e.wares, name))
}

// outsider is a group without the library, with commits.
func (e *errands) outsider() {
	at := map[starferry.TopicPartition]wire.Committed{}
	for p := range starferry.Partition(2) {
		kafkatest.Produce(e.t, e.old, e.wares, p, kafkatest.Values("w", 3)...)
		at[starferry.TopicPartition{Topic: e.wares, Partition: p}] = wire.Committed{Offset: 2, LeaderEpoch: -1}
	}
	require.NoError(e.t, e.s.cluster.Commit(e.t.Context(), wire.Commit{Group: e.outside, Generation: -1, Offsets: at}))
}

// TestEverythingWithTheListedACLs: agent, shard, consumers and producers have a
// principal each, and may do what the list of ACLs says and nothing else. Then
// all that starferry does is done: a link in each direction, a switch there with
// a fence and back, dead letters, skip, replay, redistribute, a switch of
// producers, verify, a group without the library.
func TestEverythingWithTheListedACLs(t *testing.T) {
	t.Parallel()
	e := newErrands(t)
	e.allow(agentUser, shardUser, serviceUser, writerUser)
	step := e.stopwatch()
	e.agent()
	e.as(shardUser).shards(1)
	e.s.traffic()
	e.instance("i1")
	e.s.consumesOn(e.old)
	step("consumes")
	e.says(e.links(), 0, "is finished")
	step("links")
	e.says(e.move("away", "OLD", "NEW", `, standby = "100ms", fence = True`), 0, "is finished")
	e.s.consumesOn(e.new)
	step("away")
	e.hand()
	step("hand")

	press := e.as(writerUser).press("shop", e.wares)
	press.writesOn(e.old)
	e.without(0, writerUser, acl.TxID, acl.Book+".{topic}", acl.Write, func() {
		e.refused(e.producers("unended", `, within = "3s"`), "shop", "User:"+writerUser+" lacks the ACL Describe on transactional-id "+acl.Book+"."+string(e.wares))
	})
	e.says(e.producers("producers", ""), 0, "is finished")
	press.writesOn(e.new)
	press.stop()
	step("producers")
	e.says(e.starferry("verify", string(starferry.LinkBetween(e.old.Name, e.new.Name))), 0, "records identical")
	step("verify")
	e.outsider()
	e.says(e.run("outside.star", fmt.Sprintf(`
def switch(m):
    switch_consumer("%s", source = OLD, target = NEW, link = "%s", mode = "external")

m = migration(name = "outside", phases = [phase("switch", do = switch)])
`, e.outside, starferry.LinkBetween(e.old.Name, e.new.Name))), 0, "is finished")
	step("outside")
	e.says(e.move("home", "NEW", "OLD", `, standby = "100ms"`), 0, "is finished")
	e.s.consumesOn(e.old)
	step("home")
	e.lacking()
	e.s.intact()
	step("lacking")
}

// lacking takes ACLs away, one after the other: what needs one fails, before it
// has changed anything, and names it.
func (e *errands) lacking() {
	e.t.Helper()
	group, topic := string(e.s.group), string(e.s.topics[0])
	e.without(1, agentUser, acl.Group, "{group}", "", func() {
		e.refused(e.move("unseen", "OLD", "NEW", ""), "nothing is ordered yet", "User:"+agentUser+" lacks the ACL Describe on group "+group+` of cluster "`+string(e.new.Name),
			"kafka-acls.sh --add --allow-principal User:"+agentUser+" --group "+group+" --operation Describe")
	})
	e.without(1, serviceUser, acl.Topic, "{topic}", acl.Read, func() {
		e.refused(e.move("unread", "OLD", "NEW", `, within = "5s"`), "i1", "User:"+serviceUser+" lacks the ACL Read on topic "+topic+` of cluster "`+string(e.new.Name))
	})
	release := e.s.hold()
	held := e.written()
	require.Eventually(e.t, func() bool { return e.written() > held+10 }, patience, poll, "there is no backlog")
	e.without(0, agentUser, acl.Topic, "{group}.overflow-", acl.Create, func() {
		e.refused(e.starferry("redistribute", "--group", group, "--partition", topic+"/0", "--reason", "test"),
			"User:"+agentUser+" lacks the ACL Create on topic "+group+".overflow-", "nothing was changed")
	})
	release()
	e.without(1, shardUser, acl.Topic, "{topic}", acl.Write, func() {
		require.Eventually(e.t, func() bool {
			return strings.Contains(e.starferry("links", string(starferry.LinkBetween(e.old.Name, e.new.Name))).out, "stopped")
		}, patience, 50*time.Millisecond, "it is still copied")
		e.refused(e.links(), "cannot be copied: shard shard-1", "User:"+shardUser+" lacks the ACL Write on topic")
	})
	e.says(e.links(), 0, "is finished")
	e.s.consumesOn(e.old)
}

// without lets something happen while a user lacks what the list has for it, on
// one cluster: one operation, or all on a resource.
func (e *errands) without(i int, user string, r acl.Resource, name string, op acl.Operation, do func()) {
	e.t.Helper()
	lines := e.lines(func(x acl.Entry) bool {
		return x.Part == partOf(user) && x.Resource == r && x.Name == name && (op == "" || x.Operation == op)
	})
	var once []acl.Line // a part may need the same on sources and on targets
	for _, l := range lines {
		if !slices.ContainsFunc(once, func(o acl.Line) bool { return o.Operation == l.Operation }) {
			once = append(once, l)
		}
	}
	require.NotEmpty(e.t, once)
	e.g.Forbid(i, user, once...)
	do()
	e.g.Allow(i, user, once...)
}

// refused asserts that an operator was told all of these, and that it failed.
func (e *errands) refused(s said, words ...string) {
	e.t.Helper()
	require.NotZero(e.t, s.exit)
	e.says(s, s.exit, words...)
}

// written is how many records each partition has been written.
func (e *errands) written() int {
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	return e.s.wrote
}

// handsOut tells whether a record of partition 0 is handled that will be written
// so many records from now.
func (e *errands) handsOut(from int) func() bool {
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	value := fmt.Sprintf("%s/0/%d/", e.s.topics[0], e.s.wrote+from)
	return func() bool {
		e.s.mu.Lock()
		defer e.s.mu.Unlock()
		return e.s.handled[value] > 0
	}
}

// hand does what operators do with a running group.
func (e *errands) hand() {
	e.t.Helper()
	topic, far := e.s.topics[0], kafkatest.Open(e.t, e.new)
	kafkatest.Produce(e.t, e.new, topic, 1, kafka.Message{Value: []byte(poison)})
	put := func(p starferry.Partition) bool {
		ends, err := far.Offsets(e.t.Context(), []starferry.TopicPartition{{Topic: e.dead, Partition: p}}, wire.Latest)
		return err == nil && ends[starferry.TopicPartition{Topic: e.dead, Partition: p}] >= 1
	}
	require.Eventually(e.t, func() bool { return put(1) }, patience, 50*time.Millisecond, "the failing record is not put aside")
	release := e.s.hold()
	e.says(e.starferry("skip", "--group", string(e.s.group), "--partition", string(topic)+"/0", "--count", "20", "--reason", "test"), 0) // some of these are handled, and not committed yet
	beyond := e.handsOut(25)
	release()
	require.Eventually(e.t, beyond, patience, poll, "the skip is not passed")
	require.True(e.t, put(0), "no copy of a skipped record is kept")
	e.mended.Store(true)
	e.says(e.starferry("replay", "--group", string(e.s.group), "--reason", "test"), 0)
	require.Eventually(e.t, func() bool { return e.mendedSeen.Load() == 1 }, patience, poll, "what was put back is not handled")

	e.says(e.starferry("peek", "--group", string(e.s.group), "--at", string(topic)+"/0@1"), 0, string(topic)+"/0@")
	e.says(e.starferry("where", string(e.s.group)), 0, string(e.new.Name))
	e.says(e.starferry("consumers", "--json"), 0, string(e.s.group))

	e.slow.Store(true)
	for range 100 {
		require.NoError(e.t, e.s.produce(""))
	}
	e.says(e.starferry("redistribute", "--group", string(e.s.group), "--partition", string(topic)+"/0", "--order", "none", "--reason", "test"), 0, "are handled by 1 instance")
	e.slow.Store(false)
}

// stopwatch tells in the log how long each step took.
func (e *errands) stopwatch() func(string) {
	last := time.Now()
	return func(what string) {
		e.t.Logf("%s: %v", what, time.Since(last).Round(time.Millisecond))
		last = time.Now()
	}
}
