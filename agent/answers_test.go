package agent_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry/agent/api"
)

// An answer larger than NATS takes is told as an error: whoever asked would
// wait for nothing.
func TestAnAnswerTooLargeIsToldAsAnError(t *testing.T) {
	p := newPlace(t)
	p.agent()
	_, err := p.client.Plan(p.ctx(), api.RunRequest{File: "a.star", Files: map[string]string{"a.star": `
def look(m):
    for i in range(5):
        expect(True, str(i) + "x" * 2000000)

m = migration(name = "large", phases = [phase("look", do = look)])
`}})
	var remote *api.RemoteError
	require.ErrorAs(t, err, &remote, fmt.Sprint(err))
	require.ErrorContains(t, err, "max_payload")
}
