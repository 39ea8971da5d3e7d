package cli

import (
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/testlog"
)

const (
	ours   = "billing=group:pay.v2,topic:payments.v2"
	theirs = "other=group:other,topic:others"
)

// A service that may nothing but what is printed for it is slowed down, freed of
// a record, relieved of a backlog, and moved with its producers. NATS has nothing
// to refuse to anybody, and the trail knows who gave the orders.
func TestWhatIsPrintedIsEnough(t *testing.T) {
	if kafkatest.Real() {
		t.Skip("what NATS permits does not depend on brokers")
	}
	for mode, more := range map[string][]string{"users": nil, "accounts": {"--accounts"}} {
		t.Run(mode, func(t *testing.T) {
			f := newFort(t, printed(t, append(more, "--service", ours, "--service", theirs, "--operator", "alice")...))
			f.staff()
			const g, topic = "pay.v2", starferry.Topic("payments.v2")
			kafkatest.MakeTopic(t, f.old, topic, 2, nil)
			inbox := map[string]string{"users": "_INBOX_billing"}[mode]
			y := &tally{seen: map[string]int{}}
			for _, name := range []string{"i1", "i2"} {
				f.instance(name, g, topic, f.dial("billing", inbox, f.heard.Logger()), f.heard.Logger(), y)
			}
			p := f.producer(topic, f.dial("billing", inbox, f.heard.Logger()))
			alice := f.operator("alice", "alice")
			write(t, p, topic, 0, 10)
			require.Eventually(t, func() bool { return y.once(10) }, 40*time.Second, 20*time.Millisecond)

			freeTheGroup(t, f, alice, g, topic)
			alice.does(t, "throttle", "--group", g, "--rate", "60/s", "--for", "10m", "--reason", "INC-1")
			write(t, p, topic, 10, 150)
			alice.does(t, "redistribute", "--group", g, "--partition", string(topic)+"/0", "--order", "none", "--reason", "INC-1")
			alice.does(t, "throttle", "--group", g, "--rate", "10000/s", "--for", "10m", "--reason", "INC-1")
			require.Eventually(t, func() bool { return y.once(160) }, 40*time.Second, 20*time.Millisecond)

			alice.does(t, "run", "../../scripts/move_group.star", "-p", "group="+g, "--auto-approve")
			write(t, p, topic, 160, 20)
			require.Eventually(t, func() bool { return y.once(180) }, 40*time.Second, 20*time.Millisecond, "the moved group goes on")

			trail := alice.does(t, "audit", g, "--json", "--last", "0")
			var events []desired.Event
			require.NoError(t, json.Unmarshal([]byte(trail), &events))
			orders := 0
			for _, e := range events {
				if e.What == "throttle" || e.What == "skip" || e.What == "switch" || e.What == "redistribute" {
					require.True(t, strings.HasPrefix(e.Who, "alice (by NATS), "), "%s: %s", e.What, e.Who)
					orders++
				}
			}
			require.GreaterOrEqual(t, orders, 5)
			require.Empty(t, refusals(f.heard.String()), "NATS refused what is needed")
			require.NotContains(t, f.heard.String()+trail+alice.err.String(), secret)

			anonymous := f.operator("alice", "")
			require.NotZero(t, anonymous.calls(t, "runs"))
			require.Contains(t, anonymous.err.String(), "nats.operator")
		})
	}
}

// freeTheGroup lets a record block the group, and passes it.
func freeTheGroup(t *testing.T, f *fort, alice *desk, g string, topic starferry.Topic) {
	kafkatest.Produce(t, f.old, topic, 1, kafka.Message{Value: []byte("stuck")})
	var s builtins.GroupState
	require.Eventually(t, func() bool {
		alice.out.Reset()
		if alice.calls(t, "state", g, "--json") != 0 || json.Unmarshal(alice.out.Bytes(), &s) != nil {
			return false
		}
		for _, p := range s.Partitions {
			if p.Blocked >= 0 {
				return true
			}
		}
		return false
	}, 40*time.Second, 50*time.Millisecond, "%s", alice.err.String())
	alice.does(t, "skip", "--group", g, "--at", string(topic)+"/1@0", "--reason", "INC-1")
}

// What a service must not publish: another's state and its own desired state,
// another's announcements, questions about streams as a whole, and orders.
func forbidden() []string {
	out := []string{
		"$KV.starferry_desired.pay=2ev2.placement", "$KV.starferry_desired.pay=2ev2.settings", "$KV.starferry_desired.other.placement",
		"$KV.starferry_desired.other.settings", "$KV.starferry_desired.homes", "$KV.starferry_producers.others", "$KV.starferry_producers.payments=2ev2",
		"$KV.starferry_live.pay=2ev2.i1", "$KV.starferry_last.pay=2ev2.i1.b", "$KV.starferry_producing.payments=2ev2.b",
		"starferry.told.starferry_desired.pay=2ev2.placement", "starferry.told.starferry_desired.other.placement",
		"starferry.words.pay=2ev2", "starferry.run.r", "starferry.audit.other", "starferry.agent.exec", "starferry.agent.exec.alice",
		"starferry.owner.r", "starferry.events.r", "starferry.shard.s1.status", "$KV.starferry_links.l", "$KV.starferry_owners.l", "$KV.starferry_shards.s1",
		"$KV.starferry_locks.start", "$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST",
		"$JS.API.DIRECT.GET.KV_starferry_desired", "$JS.API.DIRECT.GET.KV_starferry_desired.$KV.starferry_desired.pay=2ev2.placement",
		"$JS.API.DIRECT.GET.KV_starferry_desired.$KV.starferry_desired.*.placement", "$JS.API.DIRECT.GET.KV_starferry_live.$KV.starferry_live.other.i1",
		"$JS.API.CONSUMER.CREATE.KV_starferry_desired.c.$KV.starferry_desired.other.placement",
	}
	for _, stream := range []string{"KV_starferry_desired", "KV_starferry_live", "starferry_journal", "starferry_audit", "OBJ_starferry_maps"} {
		for _, ask := range []string{"STREAM.INFO", "STREAM.CREATE", "STREAM.UPDATE", "STREAM.DELETE", "STREAM.PURGE", "STREAM.MSG.GET", "STREAM.MSG.DELETE", "STREAM.SNAPSHOT", "CONSUMER.CREATE", "CONSUMER.NAMES"} {
			out = append(out, "$JS.API."+ask+"."+stream)
		}
	}
	return out
}

// unheard is what a service must not hear.
var unheard = []string{
	">", "_INBOX.>", "_INBOX_billing.>", "_INBOX_agent.>", "$KV.>", "$JS.>", "starferry.>", "starferry.told.>", "starferry.told.starferry_desired.*.placement",
	"starferry.told.starferry_desired.pay=2ev2.settings", "starferry.told.starferry_producers.payments=2ev2", "starferry.events.*",
	"starferry.audit.>", "starferry.agent.>", "starferry.run.*", "starferry.words.other", "starferry.shard.s1.status", "$KV.starferry_desired.other.placement",
}

// violations are what NATS has refused to one connection.
type violations struct {
	mu  sync.Mutex
	all []string
}

func (v *violations) handler(_ *nats.Conn, _ *nats.Subscription, err error) {
	if errors.Is(err, nats.ErrPermissionViolation) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.all = append(v.all, err.Error())
	}
}

func (v *violations) name(what, subject string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, text := range v.all {
		if strings.Contains(text, what+` to "`+subject+`"`) {
			return true
		}
	}
	return false
}

// NATS refuses a service whatever is another's, each single subject of it.
func TestTheWrongServiceIsRefused(t *testing.T) {
	f := newFort(t, printed(t, "--service", ours, "--service", theirs, "--operator", "alice"))
	f.staff()
	var v violations
	nc := f.dial("other", "_INBOX_other", nil)
	require.Eventually(t, nc.IsConnected, 20*time.Second, 5*time.Millisecond)
	nc.SetErrorHandler(v.handler)
	for _, subject := range forbidden() {
		require.NoError(t, nc.Publish(subject, []byte("{}")))
	}
	for _, subject := range unheard {
		_, err := nc.SubscribeSync(subject)
		require.NoError(t, err)
	}
	require.NoError(t, nc.FlushTimeout(20*time.Second))
	for _, subject := range forbidden() {
		require.Eventually(t, func() bool { return v.name("Publish", subject) }, 20*time.Second, 5*time.Millisecond, subject)
	}
	for _, subject := range unheard {
		require.Eventually(t, func() bool { return v.name("Subscription", subject) }, 20*time.Second, 5*time.Millisecond, subject)
	}

	cfg := f.config("other") // with no rights but a service's an agent ends, and says what it lacks
	_, err := agent.Open(t.Context(), cfg, nil)
	require.ErrorContains(t, err, "starferry nats permissions")
	require.ErrorContains(t, err, "starferry_journal")

	var o violations
	alice := f.dial("alice", "_INBOX_alice", nil)
	require.Eventually(t, alice.IsConnected, 20*time.Second, 5*time.Millisecond)
	alice.SetErrorHandler(o.handler)
	for _, subject := range []string{"starferry.agent.exec.bob", "starferry.agent.exec", "$KV.starferry_desired.other.placement", "$JS.API.STREAM.DELETE.starferry_audit"} {
		require.NoError(t, alice.Publish(subject, nil))
		require.Eventually(t, func() bool { return o.name("Publish", subject) }, 20*time.Second, 5*time.Millisecond, "an operator has no other's name: %s", subject)
	}
}

// A service that takes another's group says what it lacks and where to get it,
// and goes on at what Kafka says.
func TestAServiceWithoutPermissionsSaysSo(t *testing.T) {
	f := newFort(t, printed(t, "--service", ours, "--service", theirs))
	f.staff()
	kafkatest.MakeTopic(t, f.old, "payments.v2", 1, nil)
	var said testlog.Log
	y := &tally{seen: map[string]int{}}
	f.instance("i1", "pay.v2", "payments.v2", f.dial("other", "_INBOX_other", said.Logger()), said.Logger(), y)
	kafkatest.Produce(t, f.old, "payments.v2", 0, kafka.Message{Value: []byte("v0")})
	require.Eventually(t, func() bool { return y.once(1) }, 40*time.Second, 20*time.Millisecond)
	require.Eventually(t, func() bool {
		for _, line := range strings.Split(said.String(), "\n") {
			if strings.Contains(line, "level=WARN") && strings.Contains(line, "out of sight") && strings.Contains(line, "starferry nats permissions") {
				return true
			}
		}
		return false
	}, 40*time.Second, 20*time.Millisecond, "%s", said.String())
	require.Contains(t, said.String(), "NATS refuses")
	require.NotContains(t, said.String(), secret)
}

// In an account of its own a service that somebody has taken over reaches
// nothing, not even by letting the server answer to where it may not write.
func TestAnAccountHoldsWhoeverIsInIt(t *testing.T) {
	f := newFort(t, printed(t, "--accounts", "--service", ours, "--service", theirs))
	f.staff()
	cfg := f.config("agent")
	nc, err := nats.Connect(f.url, nats.RootCAs(f.ca), nats.UserInfo("agent", secret), nats.CustomInboxPrefix(cfg.NATS.InboxPrefix))
	require.NoError(t, err)
	defer nc.Close()
	store, err := desired.Open(t.Context(), nc, desired.Options{})
	require.NoError(t, err)
	rev, err := store.PutPlacement(t.Context(), control.Placement{Group: "pay.v2", Phase: control.Steady, Active: "old", Epoch: 3}, 0)
	require.NoError(t, err)
	require.NoError(t, store.PutLease(t.Context(), control.Lease{Group: "pay.v2", Instance: "i1"}))

	other := f.dial("other", "", nil)
	require.Eventually(t, other.IsConnected, 20*time.Second, 5*time.Millisecond)
	for _, subject := range forbidden() {
		require.NoError(t, other.PublishRequest("$KV.starferry_live.other.i1", subject, []byte("{}")), "an acknowledgement there")
		m := nats.NewMsg(subject)
		m.Header.Set("Nats-Rollup", "all")
		require.NoError(t, other.PublishMsg(m))
		if answer, err := other.Request(subject, []byte("{}"), 50*time.Millisecond); err == nil { // by its own account's
			require.Contains(t, string(answer.Data), "not enabled", "%s was answered", subject)
		}
	}
	own := nats.NewMsg("$KV.starferry_live.other.i1")
	own.Header.Set("Nats-Rollup", "all")
	answer, err := other.RequestMsg(own, 20*time.Second)
	require.NoError(t, err)
	require.Contains(t, string(answer.Data), "rollup not permitted", "one key does not take the bucket away")
	heard, err := other.SubscribeSync(">")
	require.NoError(t, err)
	require.NoError(t, other.Flush())
	at, err := store.PutPlacement(t.Context(), control.Placement{Group: "pay.v2", Phase: control.Steady, Active: "old", Epoch: 4}, rev)
	require.NoError(t, err)
	require.Equal(t, rev+1, at, "nothing else was written")
	leases, err := store.Leases(t.Context(), "pay.v2")
	require.NoError(t, err)
	require.Len(t, leases, 1)
	require.Empty(t, leases[0].Topics)
	events, err := store.AuditLog(t.Context(), desired.AuditFilter{})
	require.NoError(t, err)
	require.Empty(t, events)
	_, err = store.PutPlacement(t.Context(), control.Placement{Group: "other", Phase: control.Steady, Active: "old", Epoch: 1}, 0)
	require.NoError(t, err)
	m, err := heard.NextMsg(20 * time.Second)
	for err == nil && strings.HasPrefix(m.Subject, "$JS.EVENT.") { // its own account's
		m, err = heard.NextMsg(20 * time.Second)
	}
	require.NoError(t, err)
	require.Equal(t, "starferry.told.starferry_desired.other.placement", m.Subject, "the first thing it hears is its own")
}
