package cli

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/scripting"
)

func told(t *testing.T, p builtins.SwitchProgress) scripting.Event {
	raw, err := json.Marshal(p)
	require.NoError(t, err)
	return scripting.Event{At: time.Now(), Kind: scripting.Progress, Phase: "move", Step: "move/1:switch_consumer", Text: p.Line(), Detail: raw}
}

// In a log a change is a line, and what is over at once is none.
func TestALogOfASwitchHasALineForEachChange(t *testing.T) {
	var out strings.Builder
	p := &progress{w: &out}
	wait := builtins.SwitchProgress{Group: "pay", Phase: "drain", Waits: "i1 to answer", Rows: []builtins.SwitchWait{{Instance: "i1", What: "to answer"}}}
	p.show(told(t, builtins.SwitchProgress{Group: "pay", Phase: "drain"}))
	p.show(told(t, wait)) // 0 ms: over before anybody has read it
	for _, ms := range []int64{1500, 2000, 2500} {
		wait.PhaseMS, wait.Rows[0].WaitedMS = ms, ms
		p.show(told(t, wait))
	}
	wait.Waits, wait.PhaseMS = "i2 to answer", 3000
	p.show(told(t, wait))
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, 3, out.String())
	require.Contains(t, lines[1], "pay: drain 1.5s: waits for i1 to answer, for 1.5s")
}

func TestJSONHasEachChangeOnALine(t *testing.T) {
	var out strings.Builder
	p := &progress{w: &out, json: &out}
	wait := builtins.SwitchProgress{Group: "pay", Phase: "drain", Waits: "i1 to answer"}
	for range 3 {
		p.show(told(t, wait))
	}
	wait.Waits = "i2 to answer"
	p.show(told(t, wait))
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, 2, out.String())
	for _, line := range lines {
		var e scripting.Event
		require.NoError(t, json.Unmarshal([]byte(line), &e))
		require.NotEmpty(t, e.Detail)
	}
}
