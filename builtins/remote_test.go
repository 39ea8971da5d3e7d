package builtins_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/builtins/memory"
	"github.com/starferry/starferry/scripting"
)

// exec carries out a call as a run of its own.
func exec(t *testing.T, w *memory.World, run, text string) (*scripting.Runner, error) {
	t.Helper()
	r := runner(t, w)
	p, err := scripting.LoadExec(text, r.Registry)
	require.NoError(t, err)
	_, err = r.Run(t.Context(), p, nil, run)
	return r, err
}

func rollback(t *testing.T, r *scripting.Runner, run string) {
	t.Helper()
	_, err := r.Rollback(t.Context(), run)
	require.NoError(t, err)
}

func planOf(t *testing.T, w *memory.World, text string) scripting.PlanLine {
	t.Helper()
	r := runner(t, w)
	p, err := scripting.LoadExec(text, r.Registry)
	require.NoError(t, err)
	plan, err := r.Plan(t.Context(), p, nil)
	require.NoError(t, err)
	require.Zero(t, w.Writes, "a plan changes nothing")
	return plan.Phases[0].Lines[0]
}

func TestEachVerbOfTheHandIsUndoneToWhatWas(t *testing.T) {
	tp := starferry.TopicPartition{Topic: "orders"}
	w := memory.New()
	w.Set.Limit = builtins.Limit{Rate: 900, Parallelism: 2}
	w.Set.Limits = map[starferry.TopicPartition]builtins.Limit{tp: {Rate: 5}}
	was := w.Set

	r, err := exec(t, w, "t1", `throttle("billing", parallelism = 8, delay = "20ms", queue_high = 100, reason = "x")`)
	require.NoError(t, err)
	require.Equal(t, builtins.Limit{Parallelism: 8, DelayMS: 20, QueueHigh: 100}, w.Set.Limit)
	rollback(t, r, "t1")
	require.Equal(t, was.Limit, w.Set.Limit)

	r, err = exec(t, w, "t2", `throttle("billing", partition = "orders/0", rate = "1/s", for_ = "1m", reason = "x")`)
	require.NoError(t, err)
	require.Equal(t, 1.0, w.Set.Limits[tp].Rate)
	rollback(t, r, "t2")
	require.Equal(t, was.Limits, w.Set.Limits)

	r, err = exec(t, w, "p", `pause("billing", on = "orders/0", for_ = "10m", reason = "x")`)
	require.NoError(t, err)
	require.Equal(t, "orders/0", w.Set.Holds[0].On)
	u, err := exec(t, w, "u", `resume("billing", reason = "y")`)
	require.NoError(t, err)
	require.Empty(t, w.Set.Holds)
	rollback(t, u, "u")
	require.Equal(t, "orders/0", w.Set.Holds[0].On, "paused again, for what is left of its time")
	require.NotZero(t, w.Set.Holds[0].Until)
	w.Set.Holds = nil
	rollback(t, r, "p")
	require.Empty(t, w.Set.Holds)

	r, err = exec(t, w, "r", `rewind("billing", to = "orders/0@3", reason = "x")`)
	require.NoError(t, err)
	require.Equal(t, starferry.Offset(3), w.Stands[tp])
	rollback(t, r, "r")
	require.Equal(t, starferry.Offset(7), w.Stands[tp])
}

func TestSkipsAreComparedFirst(t *testing.T) {
	w := memory.New()
	_, err := exec(t, w, "1", `skip("billing", at = "orders/0@7", expect = "d8", reason = "x")`)
	require.ErrorContains(t, err, "d7")
	_, err = exec(t, w, "2", `skip("billing", at = "orders/0@8", if_next = True, reason = "x")`)
	require.ErrorContains(t, err, "the group stands at 7")
	require.Empty(t, w.Set.Skips)
	_, err = exec(t, w, "3", `skip("billing", at = "orders/0@7", expect = "d7", if_next = True, keep = "dead", reason = "x")`)
	require.NoError(t, err)
	require.Equal(t, starferry.Topic("dead"), w.Set.Skips[0].Keep)
}

func TestSkipsToATimeAndToTheEnd(t *testing.T) {
	w := memory.New()
	_, err := exec(t, w, "1", `skip("billing", partition = "orders/0", to = "2023-11-14T22:13:37Z", reason = "x")`)
	require.NoError(t, err)
	require.Equal(t, starferry.Range{From: 7, To: 17}, w.Set.Skips[0].Range, "from where the group stands")
	_, err = exec(t, w, "2", `skip("billing", partition = "orders/0", to = "end", reason = "x")`)
	require.ErrorContains(t, err, "are more than 10000; if that is meant, say force = True")
	for _, wrong := range []string{
		`skip("billing", reason = "x")`, `skip("billing", at = "orders/0@7", partition = "orders/0", reason = "x")`,
		`skip("billing", at = "orders/0@7", to = 9, count = 2, reason = "x")`, `skip("billing", partition = "orders/9", to = "end", reason = "x")`,
	} {
		_, err = exec(t, w, "w", wrong)
		require.Error(t, err, wrong)
	}
	require.Len(t, w.Set.Skips, 1)
}

func TestARewindSaysWhatComesAgainAndGoesAheadOnlyByForce(t *testing.T) {
	w := memory.New()
	line := planOf(t, w, `rewind("billing", to = "2023-11-14T22:13:22Z", reason = "x")`)
	require.Equal(t, scripting.WillDo, line.Verdict)
	require.Contains(t, line.Text, "orders/0 from 7 to 2; up to 5 offsets handled again")
	line = planOf(t, w, `rewind("billing", to = "orders/0@9", reason = "x")`)
	require.Equal(t, scripting.FailsNow, line.Verdict)
	require.Contains(t, line.Text, "use skip, which keeps them")
	_, err := exec(t, w, "1", `rewind("billing", to = "orders/0@9", reason = "x")`)
	require.ErrorContains(t, err, "orders/0 from 7 to 9")
	_, err = exec(t, w, "2", `rewind("billing", to = {"orders/0": 9}, force = True, reason = "x")`)
	require.NoError(t, err)
	require.Equal(t, starferry.Offset(9), w.Stands[starferry.TopicPartition{Topic: "orders"}])
}

func TestStateAndPeekChangeNothing(t *testing.T) {
	w := memory.New()
	for _, call := range []string{
		`expect([p.partition for p in state("billing").partitions if p.blocked >= 0] == ["orders/0"], "one is blocked")`,
		`expect(peek(group = "billing")[0].position == "orders/0@7" and peek(group = "billing")[0].blocks == "a", "that one")`,
		`expect([r.value for r in peek(group = "billing", at = "orders/0@7", before = 2, count = 2)] == ["5", "6", "7", "8"], "around it")`,
	} {
		_, err := exec(t, w, "x", call)
		require.NoError(t, err, call)
	}
	for _, wrong := range []string{`peek()`, `peek(on = "old")`, `peek(group = "billing", count = 0)`, `peek(group = "billing", count = 9999)`} {
		_, err := exec(t, w, "x", wrong)
		require.Error(t, err, wrong)
	}
	require.Zero(t, w.Writes)
}

func TestReplayIsSummedUp(t *testing.T) {
	w := memory.New()
	require.Contains(t, planOf(t, w, `replay("billing", reason = "x")`).Text, "the group's retry topic")
	require.Contains(t, planOf(t, w, `replay("billing", to = "orders", reason = "x")`).Text, "where every group sees them")
	_, err := exec(t, w, "1", `replay("billing", skip = "skip-1", reason = "x")`)
	require.NoError(t, err)
	require.Equal(t, 1, w.Writes)
}
