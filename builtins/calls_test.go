package builtins_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/builtins/memory"
	"github.com/starferry/starferry/scripting"
)

func runner(t *testing.T, w *memory.World) *scripting.Runner {
	reg, err := builtins.Registry(w.Ports())
	require.NoError(t, err)
	return &scripting.Runner{Registry: reg, Journal: scripting.NewMemoryJournal(), Clock: w, By: "ann"}
}

// TestCallsWithErrors runs each chunk of testdata/*.star as the body of a phase;
// ### "regexp" on a line expects the error there.
func TestCallsWithErrors(t *testing.T) {
	for _, chunk := range chunks(t, "testdata/calls.star") {
		w := memory.New()
		r := runner(t, w)
		w.Unmeasured = map[starferry.TopicPartition]string{}
		if strings.Contains(chunk.text, "# lag: unknown") {
			w.Unmeasured[starferry.TopicPartition{Topic: "orders", Partition: 2}] = "no commit"
		}
		if strings.Contains(chunk.text, "# lag: negative") {
			w.Behind[starferry.TopicPartition{Topic: "orders", Partition: 2}] = -3
		}
		if strings.Contains(chunk.text, "# proof: different") {
			w.Proof = &builtins.VerifyReport{Verdict: "FAIL", Identical: 11, Compared: 12, Differences: 1, First: "value at source offset 7", Lanes: 5}
		}
		if strings.Contains(chunk.text, "# proof: unproven") {
			w.Proof = &builtins.VerifyReport{Verdict: "UNKNOWN", Identical: 12, Compared: 12, Notes: "3 offsets unknown to the map", Lanes: 5}
		}
		p, err := scripting.Load(scripting.Files(map[string]string{"calls.star": chunk.text}), "calls.star", r.Registry)
		if err == nil {
			_, err = r.Run(context.Background(), p, nil, "r1")
		}
		chunk.check(t, err)
	}
}

type chunk struct {
	text string
	line int
	want string
}

func chunks(t *testing.T, file string) []chunk {
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	var out []chunk
	at := 0
	for _, text := range strings.Split(string(raw), "\n---\n") {
		c := chunk{text: strings.Repeat("\n", at) + text}
		for i, l := range strings.Split(text, "\n") {
			if _, want, ok := strings.Cut(l, "### "); ok {
				c.line, c.want = at+i+1, strings.Trim(want, `"`)
			}
		}
		at += strings.Count(text, "\n") + 2
		out = append(out, c)
	}
	return out
}

func (c chunk) check(t *testing.T, err error) {
	if c.want == "" {
		require.NoError(t, err, c.text)
		return
	}
	require.Error(t, err, c.text)
	require.Regexp(t, c.want, err.Error())
	require.Contains(t, err.Error(), fmt.Sprintf("calls.star:%d:", c.line))
}
