package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent"
	"github.com/starferry/starferry/agent/api"
	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/scripting"
)

// desk is a command line with an agent that answers it.
type desk struct {
	cli
	out, err bytes.Buffer
}

func newDesk(t *testing.T) *desk {
	return newDeskOn(t, starferry.Cluster{Name: "old", Brokers: []string{"127.0.0.1:1"}})
}

func newDeskOn(t *testing.T, clusters ...starferry.Cluster) *desk {
	cfg := config.Config{
		Clusters: map[starferry.ClusterName]starferry.Cluster{},
		NATS:     config.NATS{Listen: "127.0.0.1:0"}, DataDir: t.TempDir(), Shards: config.Shards{Buckets: 1},
	}
	text := "clusters:\n"
	for _, c := range clusters {
		cfg.Clusters[c.Name] = c
		text += fmt.Sprintf("  %s: {brokers: [%q]}\n", c.Name, c.Brokers[0])
	}
	a, err := agent.Open(t.Context(), &cfg, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, a.Close()) })
	file := filepath.Join(t.TempDir(), "starferry.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text+fmt.Sprintf("nats: {listen: %q}\n", a.NATS().Listen)), 0o600))
	d := &desk{}
	d.cli = cli{configFile: file, IO: IO{In: &bytes.Buffer{}, Out: &d.out, Err: &d.err, Getenv: func(string) string { return "" }}}
	return d
}

func (d *desk) calls(t *testing.T, args ...string) int {
	return Main(t.Context(), append(args, "--config", d.configFile), d.IO)
}

const unmetScript = `
def look(m):
    expect(False, "all is well")

m = migration(name = "unmet", phases = [phase("look", do = look)])
`

func (d *desk) script(t *testing.T) string {
	file := filepath.Join(t.TempDir(), "unmet.star")
	require.NoError(t, os.WriteFile(file, []byte(unmetScript), 0o600))
	return file
}

// Programs read the exit code of a plan, and people too: it is one.
func TestAPlanThatFailsNowExitsTheSameWayAsJSON(t *testing.T) {
	d := newDesk(t)
	require.Equal(t, scripting.ExitUnmet, d.calls(t, "plan", d.script(t)), d.err.String())
	d.out.Reset()
	require.Equal(t, scripting.ExitUnmet, d.calls(t, "plan", "--json", d.script(t)), d.err.String())
	var plan scripting.Plan
	require.NoError(t, json.Unmarshal(d.out.Bytes(), &plan))
	require.Equal(t, 1, plan.Counts[scripting.FailsNow])
}

// With --json every line of standard output is an object, also the only one.
func TestADetachedRunNamesItselfAsAsked(t *testing.T) {
	d := newDesk(t)
	require.Zero(t, d.calls(t, "run", "--detach", "--json", d.script(t)), d.err.String())
	var line struct{ Run string }
	require.NoError(t, json.Unmarshal(d.out.Bytes(), &line), d.out.String())
	require.Regexp(t, `^unmet-`, line.Run)
	d.out.Reset()
	require.Zero(t, d.calls(t, "run", "--detach", d.script(t)), d.err.String())
	require.Regexp(t, `^unmet-\w+\n$`, d.out.String())
}

// Ctrl-C at the question is a no, and does not wait for a line to be typed.
func TestCtrlCAtTheQuestionIsANo(t *testing.T) {
	d := newDesk(t)
	nobody, typing := io.Pipe()
	defer typing.Close()
	d.In = nobody
	client, err := d.client()
	require.NoError(t, err)
	defer client.Conn.Close()
	r, err := d.request(d.script(t), nil)
	require.NoError(t, err)
	ctx, ctrlC := context.WithCancel(t.Context())
	asked := make(chan error, 1)
	var quiet bytes.Buffer
	d.Err = said(func(p []byte) (int, error) {
		if bytes.Contains(p, []byte("[y/N]")) {
			ctrlC()
		}
		return quiet.Write(p)
	})
	go func() { asked <- d.confirm(ctx, client, r) }()
	select {
	case err := <-asked:
		require.Equal(t, &exitError{scripting.ExitError}, err)
		require.Contains(t, quiet.String(), "Nothing was done.")
	case <-time.After(10 * time.Second):
		t.Fatal("the question waits for a line")
	}
}

type said func([]byte) (int, error)

func (s said) Write(p []byte) (int, error) { return s(p) }

// Ctrl-C while an agent is asked to begin leaves it open whether the run began:
// it has to be named.
func TestCtrlCWhileARunBeginsNamesTheRun(t *testing.T) {
	d := newDesk(t)
	client, err := d.client()
	require.NoError(t, err)
	defer client.Conn.Close()
	ctx, ctrlC := context.WithCancel(t.Context())
	err = d.follow(ctx, client, "unmet-1", runFlags{}, func(ctx context.Context) error {
		ctrlC()
		_, err := client.Start(ctx, api.RunRequest{})
		return err
	})
	require.Equal(t, &exitError{scripting.ExitError}, err)
	require.Contains(t, d.err.String(), "starferry status unmet-1")
}

const branchesScript = `
def move(m):
    parallel(lambda g: expect(g != "b", g + " can move"), ["a", "b"], title = "wave 1")

m = migration(name = "branches", phases = [phase("move", do = move, on_fail = "hold")])
`

// The text of a status tells of branches what its JSON tells.
func TestAStatusShowsBranches(t *testing.T) {
	d := newDesk(t)
	file := filepath.Join(t.TempDir(), "branches.star")
	require.NoError(t, os.WriteFile(file, []byte(branchesScript), 0o600))
	require.Equal(t, scripting.ExitUnmet, d.calls(t, "run", "-y", file), d.err.String())
	d.out.Reset()
	require.Zero(t, d.calls(t, "status"), d.err.String())
	require.Regexp(t, `move +wave 1 +1 done, 1 failed and undone`, d.out.String())
	require.Regexp(t, `(?m)^b +failed and undone`, d.out.String())
	d.out.Reset()
	require.Zero(t, d.calls(t, "status", "--json"), d.err.String())
	require.Contains(t, d.out.String(), `"key": "b"`)
}
