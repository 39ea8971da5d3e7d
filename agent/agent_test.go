package agent_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent"
	"github.com/starferry/starferry/agent/api"
	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/agent/embednats"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/scripting"
)

func TestMain(m *testing.M) { kafkatest.Main(m) }

// place is two clusters and a NATS server that outlives agents.
type place struct {
	t      *testing.T
	cfg    config.Config
	topic  starferry.Topic
	client *api.Client
}

func newPlace(t *testing.T) *place {
	source, target := kafkatest.Pair(t)
	server, err := embednats.Open(embednats.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	require.NoError(t, err)
	t.Cleanup(server.Close)
	p := &place{t: t, topic: kafkatest.Topic(t, source, 2, nil), cfg: config.Config{
		Clusters: map[starferry.ClusterName]starferry.Cluster{source.Name: source, target.Name: target},
		NATS:     config.NATS{URL: server.URL()}, DataDir: t.TempDir(), Shards: config.Shards{Buckets: 4},
	}}
	p.client = &api.Client{Conn: p.connect(), Hint: "start one"}
	return p
}

func (p *place) connect() *nats.Conn {
	p.t.Helper()
	nc, err := agent.Connect(p.cfg.NATS, "test", nil)
	require.NoError(p.t, err)
	p.t.Cleanup(nc.Close)
	return nc
}

func (p *place) agent() *agent.Agent {
	p.t.Helper()
	a, err := agent.Open(p.ctx(), &p.cfg, nil)
	require.NoError(p.t, err)
	p.t.Cleanup(func() { _ = a.Close() }) // some tests close it themselves
	return a
}

func (p *place) ctx() context.Context {
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	p.t.Cleanup(cancel)
	return ctx
}

// copyScript makes a link, which takes a shard, and then looks at it.
func (p *place) copyScript() map[string]string {
	return map[string]string{"copy.star": `
def copy(m):
    link = replicate(["` + string(p.topic) + `"], source = cluster("old"), target = cluster("new"))
    return struct(link = link)

move = migration(name = "copy", lock = ["it"], phases = [phase("copy", do = copy)])
`}
}

func (p *place) start(files map[string]string, file string) (string, error) {
	r, err := agent.Pack(scripting.Files(files), file, nil)
	require.NoError(p.t, err)
	return p.client.Start(p.ctx(), r)
}

func (p *place) follow(run string, begin func() error) *api.Ending {
	p.t.Helper()
	f, err := p.client.Follow(run)
	require.NoError(p.t, err)
	defer func() { require.NoError(p.t, f.Close()) }()
	require.NoError(p.t, begin())
	end, err := f.Wait(p.ctx(), func(scripting.Event) {})
	require.NoError(p.t, err)
	return end
}

func (p *place) state(run string) scripting.Status {
	p.t.Helper()
	s, err := p.client.Status(p.ctx(), run)
	require.NoError(p.t, err)
	return s
}

// Guarantee 5: A run survives kill −9 of the agent at any point
//
// A run whose agent stops in the middle of an effect stays open; another agent
// finishes it, and nobody else may begin while it is open.
func TestARunOutlivesItsAgent(t *testing.T) {
	p := newPlace(t)
	first := p.agent()
	run, err := p.start(p.copyScript(), "copy.star")
	require.NoError(t, err)
	// Without any shard the effect cannot end.
	require.Eventually(t, func() bool { return p.state(run).Open != "" }, 20*time.Second, 20*time.Millisecond)

	require.ErrorContains(t, p.client.Resume(p.ctx(), run, "test"), "is being carried out by agent")
	_, err = p.start(p.copyScript(), "copy.star")
	var remote *api.RemoteError
	require.ErrorAs(t, err, &remote)
	require.Equal(t, scripting.ExitLocked, remote.ExitCode())

	require.NoError(t, first.Close())
	require.ErrorIs(t, p.client.Resume(p.ctx(), run, "test"), api.ErrNoAgent)

	p.agent()
	require.Equal(t, scripting.StateOpen, p.state(run).State)
	shard, err := agent.OpenShard(t.Context(), &p.cfg, p.connect(), "shard-1", nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, shard.Close()) }()
	end := p.follow(run, func() error { return p.client.Resume(p.ctx(), run, "test") })
	require.Zero(t, end.Exit, end.Text)
	require.Equal(t, scripting.StateFinished, p.state(run).State)

	end = p.follow(run, func() error { return p.client.Rollback(p.ctx(), run, "test") })
	require.Zero(t, end.Exit, end.Text)
	require.Equal(t, scripting.StateRolledBack, p.state(run).State)
	history, err := p.client.History(p.ctx(), run)
	require.NoError(t, err)
	require.Equal(t, scripting.RolledBack, history[len(history)-1].Kind)
}

func TestNobodyAnswers(t *testing.T) {
	p := newPlace(t)
	_, err := p.client.Runs(p.ctx())
	require.ErrorIs(t, err, api.ErrNoAgent)
	require.ErrorContains(t, err, "no agent answers at nats://")
	require.ErrorContains(t, err, "start one")
}

func TestBadRequests(t *testing.T) {
	p := newPlace(t)
	p.agent()
	for _, tc := range []struct {
		name string
		ask  func() error
		exit int
		text string
	}{
		{"an unknown run", func() error { return p.client.Resume(p.ctx(), "no such run", "test") }, scripting.ExitUsage, "no such run"},
		{"an unknown run's status", func() error { _, err := p.client.Status(p.ctx(), "x.*"); return err }, scripting.ExitUsage, "x.*"},
		{"a script error that only the agent sees", func() error {
			_, err := p.client.Start(p.ctx(), api.RunRequest{File: "a.star", Files: map[string]string{"a.star": "nonsense("}})
			return err
		}, scripting.ExitScript, "a.star"},
		{"a missing parameter", func() error {
			_, err := p.client.Start(p.ctx(), api.RunRequest{File: "a.star", Files: p.copyScript(), Params: nil})
			return err
		}, scripting.ExitScript, "a.star"},
		{"an unknown parameter", func() error {
			_, err := p.client.Start(p.ctx(), api.RunRequest{File: "copy.star", Files: p.copyScript(), Params: map[string]string{"grup": "x"}})
			return err
		}, scripting.ExitUsage, "grup"},
		{"garbage", func() error {
			m, err := p.client.Conn.RequestWithContext(p.ctx(), api.SubjectRun, []byte("{"))
			require.NoError(t, err)
			return api.Open(m.Data, &api.RunAnswer{})
		}, scripting.ExitUsage, "cannot be read"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.ask()
			var remote *api.RemoteError
			require.ErrorAs(t, err, &remote)
			require.Equal(t, tc.exit, remote.ExitCode(), remote.Text)
			require.ErrorContains(t, err, tc.text)
		})
	}
	runs, err := p.client.Runs(p.ctx())
	require.NoError(t, err)
	require.Empty(t, runs, "nothing was journaled")
}

// A failed check stops the run with an exit code of its own and the next commands.
func TestAFailedCheck(t *testing.T) {
	p := newPlace(t)
	p.agent()
	run := api.NewRunName("check.star")
	end := p.follow(run, func() error {
		_, err := p.client.Start(p.ctx(), api.RunRequest{Run: run, File: "check.star", Files: map[string]string{"check.star": `
def look(m):
    expect(describe(cluster("old")).id == "another", "old is another cluster")

m = migration(name = "check", phases = [phase("look", do = look)])
`}})
		return err
	})
	require.Equal(t, scripting.ExitUnmet, end.Exit)
	require.Contains(t, end.Text, "old is another cluster")
	require.Contains(t, end.Text, "starferry")
}

func TestAPlanWritesNothing(t *testing.T) {
	p := newPlace(t)
	p.agent()
	r, err := agent.Pack(scripting.Files(p.copyScript()), "copy.star", nil)
	require.NoError(t, err)
	plan, err := p.client.Plan(p.ctx(), r)
	require.NoError(t, err)
	require.Contains(t, plan.Text, "copy 1 topic (2 partitions) from old to new")
	require.Positive(t, plan.Plan.Counts[scripting.WillDo])
	target := kafkatest.Open(t, p.cfg.Clusters["new"])
	meta, err := target.Metadata(p.ctx(), p.topic)
	require.NoError(t, err)
	require.Error(t, meta.Topics[p.topic].Err, "the topic was not made")
	runs, err := p.client.Runs(p.ctx())
	require.NoError(t, err)
	require.Empty(t, runs)
}

// Whoever takes up a run again hears how that ends, not how the run ended the
// time before, though agents tell that for a while: one answer is given, not two.
func TestANewEndReplacesTheOld(t *testing.T) {
	p := newPlace(t)
	p.agent()
	p.agent()
	run := api.NewRunName("nothing.star")
	end := p.follow(run, func() error {
		_, err := p.client.Start(p.ctx(), api.RunRequest{Run: run, File: "nothing.star", Files: map[string]string{"nothing.star": `
def look(m):
    expect(True, "all is well")

m = migration(name = "nothing", phases = [phase("look", do = look)])
`}})
		return err
	})
	require.Equal(t, scripting.StateFinished, end.Outcome.State)
	end = p.follow(run, func() error { return p.client.Rollback(p.ctx(), run, "test") })
	require.Equal(t, scripting.StateRolledBack, end.Outcome.State)

	inbox := nats.NewInbox()
	answers, err := p.client.Conn.SubscribeSync(inbox)
	require.NoError(t, err)
	require.NoError(t, p.client.Conn.PublishRequest(api.SubjectOwner(run), inbox, nil))
	var owner api.Progress
	m, err := answers.NextMsg(5 * time.Second)
	require.NoError(t, err)
	require.NoError(t, api.Open(m.Data, &owner))
	require.Equal(t, scripting.StateRolledBack, owner.Ending.Outcome.State)
	_, err = answers.NextMsg(300 * time.Millisecond)
	require.ErrorIs(t, err, nats.ErrTimeout, "a second answer")
}
