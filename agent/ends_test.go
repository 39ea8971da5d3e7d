package agent_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry/agent/api"
	"github.com/starferry/starferry/agent/journal"
	"github.com/starferry/starferry/scripting"
)

// An agent hears that a run it has ended begins anew by a message, which is lost
// with a NATS server that is killed just then. It must not tell the old end all
// the same: whoever follows the rollback would take it for the end of that.
func TestAnOldEndIsNotToldAfterTheWordOfANewBeginningIsLost(t *testing.T) {
	p := newPlace(t)
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
	owner, err := api.Owner(p.ctx(), p.client.Conn, run)
	require.NoError(t, err)
	require.NotNil(t, owner.Ending, "the end is told for a while")

	// Another agent rolls back; its word has not come.
	js, err := jetstream.New(p.client.Conn)
	require.NoError(t, err)
	j, err := journal.Open(p.ctx(), js)
	require.NoError(t, err)
	last, err := j.Last(p.ctx(), run)
	require.NoError(t, err)
	_, err = j.Append(p.ctx(), last, scripting.Record{Run: run, Kind: scripting.RollingBack, Text: "by another agent", At: time.Now().UnixMilli()})
	require.NoError(t, err)

	ctx, cancel := context.WithTimeout(p.ctx(), time.Second)
	defer cancel()
	owner, err = api.Owner(ctx, p.client.Conn, run)
	require.Error(t, err, "told how the run ended before: %+v", owner.Ending)
	require.Equal(t, scripting.StateRollingBack, p.state(run).State)
}
