package cli

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/scripting"
)

// office is a desk in front of two clusters, the topic orders on the old one,
// and a service that reads it.
type office struct {
	*desk
	t        *testing.T
	old, new starferry.Cluster
	store    *desired.Store
}

func newOffice(t *testing.T) *office {
	o := &office{t: t}
	_, o.old = kafkatest.Fake(t, "old")
	_, o.new = kafkatest.Fake(t, "new")
	o.desk = newDeskOn(t, o.old, o.new)
	kafkatest.MakeTopic(t, o.old, "orders", 2, nil)
	kafkatest.Produce(t, o.old, "orders", 0, kafkatest.Values("v", 5)...)
	_, nc, err := o.connect()
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	o.store, err = desired.Open(t.Context(), nc, desired.Options{})
	require.NoError(t, err)
	c, err := consumer.Open(t.Context(), consumer.Config{Group: "billing", Topics: []starferry.Topic{"orders"}, Instance: "b-1", NATS: nc,
		Clusters: []starferry.Cluster{o.old, o.new}, Home: "old", Start: consumer.Earliest, CommitInterval: 20 * time.Millisecond},
		func(context.Context, consumer.Record) error { return nil })
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close(context.Background())) })
	return o
}

// says runs a command that ends well, and returns what it prints.
func (o *office) says(args ...string) string {
	o.t.Helper()
	o.out.Reset()
	o.err.Reset()
	require.Zero(o.t, o.calls(o.t, args...), o.err.String())
	return o.out.String()
}

// completes returns what a shell is told, one name a line.
func (o *office) completes(args ...string) string {
	o.t.Helper()
	o.out.Reset()
	require.Zero(o.t, Main(o.t.Context(), append([]string{"__complete", "--config", o.configFile}, args...), o.IO), o.err.String())
	return o.out.String()
}

// comesToSay waits until a command prints what is expected.
func (o *office) comesToSay(want string, args ...string) {
	o.t.Helper()
	said := regexp.MustCompile(want)
	require.Eventually(o.t, func() bool {
		o.out.Reset()
		return o.calls(o.t, args...) == 0 && said.MatchString(o.out.String())
	}, 30*time.Second, 50*time.Millisecond, "%s\n%s", &o.out, &o.err)
}

func (o *office) file(text string) string {
	name := filepath.Join(o.t.TempDir(), "homes.yaml")
	require.NoError(o.t, os.WriteFile(name, []byte(text), 0o600))
	return name
}

func TestWhereAGroupAndATopicLive(t *testing.T) {
	o := newOffice(t)
	o.comesToSay(`group billing lives on old: its commits say so\n  1 instances on old: b-1`, "where", "billing")
	text := o.says("where", "orders")
	require.Contains(t, text, "topic orders lives on old: no other cluster has it")
	require.Contains(t, text, "old has it with 2 partitions")
	require.Contains(t, text, "read by billing (on old)")
	require.Equal(t, scripting.ExitUsage, o.calls(t, "where", "nobody"))
	require.Contains(t, o.err.String(), `nothing is known of "nobody"`)
	require.Contains(t, o.says("where", "--json", "billing"), `"home": "old"`)
}

func TestHomesAreImportedAsShown(t *testing.T) {
	o := newOffice(t)
	o.comesToSay(`lives on old`, "where", "billing")
	require.Contains(t, o.says("homes"), "Nothing is said")
	text := o.says("homes", "import", o.file("orders: new\nrefunds: old\n"))
	require.Regexp(t, `orders +- +new \(imported\) +billing lives on old and stays there`, text)
	require.Contains(t, text, "2 of 2 topics changed")
	require.Regexp(t, `topic refunds +old +imported`, o.says("homes"))
	require.Contains(t, o.says("where", "orders"), "topic orders lives on new: imported")
	require.Contains(t, o.says("where", "refunds"), "topic refunds lives on old: imported")

	require.Contains(t, o.says("homes", "import", o.file("refunds: old\n")), "Nothing changes")
	require.Regexp(t, `orders +new \(imported\) +- +billing`, o.says("homes", "import", "--replace", o.file("refunds: old\n")))
	stored, revision, err := o.store.Homes(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[starferry.Topic]starferry.ClusterName{"refunds": "old"}, stored.Topics)

	require.NotZero(t, o.calls(t, "homes", "import", o.file("refunds: nwe\n")))
	require.Contains(t, o.err.String(), `did you mean "new"?`)
	require.Equal(t, scripting.ExitUsage, o.calls(t, "homes", "import", "nowhere.yaml"))
	_, again, err := o.store.Homes(t.Context())
	require.NoError(t, err)
	require.Equal(t, revision, again)
}

func TestAFenceIsRaisedListedAndLifted(t *testing.T) {
	o := newOffice(t)
	kafkatest.MakeTopic(t, o.new, "orders", 2, nil)
	require.NoError(t, kafkatest.Open(t, o.new).Commit(t.Context(), wire.Commit{Group: "ledger", Generation: -1,
		Offsets: map[starferry.TopicPartition]wire.Committed{{Topic: "orders"}: {Offset: 1, LeaderEpoch: -1}}}))
	require.Contains(t, o.says("fence"), "No fences")
	require.Contains(t, o.says("fence", "ledger", "--cluster", "old", "--reason", "it lives on new"), "ledger is fenced on old")
	require.Regexp(t, `ledger +old +yes .+ it lives on new`, o.says("fence"))
	require.Regexp(t, `old +fenced`, o.says("where", "ledger"))
	require.Contains(t, o.completes("fence", "lift", ""), "ledger\n")
	require.Contains(t, o.says("fence", "lift", "ledger", "--cluster", "old"), "clients may come")
	require.Contains(t, o.says("fence"), "No fences")
	require.Equal(t, scripting.ExitError, o.calls(t, "fence", "ledger", "--cluster", "new"))
	require.Contains(t, o.err.String(), "that is where it lives")
	require.Equal(t, scripting.ExitUsage, o.calls(t, "fence", "ledger"))
	require.Equal(t, scripting.ExitUsage, o.calls(t, "fence", "lift", "ledger"))
}

// Shells complete names that live now.
func TestNamesAreCompleted(t *testing.T) {
	o := newOffice(t)
	o.comesToSay(`lives on old`, "where", "billing")
	require.Equal(t, "billing\norders\n:4\n", o.completes("where", ""))
	require.Contains(t, o.completes("consumers", "bil"), "billing\n")
	require.NotContains(t, o.completes("consumers", "x"), "billing")
	require.Contains(t, o.completes("fence", "billing", "--cluster", "o"), "old\n")
	require.Contains(t, o.completes("link", "any", "pa"), "pause\n")
	require.Equal(t, scripting.ExitUnmet, o.calls(t, "run", "-y", o.script(t)))
	require.Contains(t, o.completes("rollback", ""), "unmet-")
}
