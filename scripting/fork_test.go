package scripting

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// many puts a thing and its lid for each of some names, two at once, in two waves.
const many = `
def one(m):
    put("base")
    def fill(g):
        p = put(g)
        must(%s)
        put(g + ".lid")
        return p.thing + "!"
    a = parallel(fill, ["a", "b", "c"], max = 2, title = "wave 1")
    return a + parallel(fill, [struct(name = "d"), "x/[y]:1"], max = 2, title = "wave 2") if False else a + parallel(fill, ["d", "x/[y]:1"], max = 2, title = "wave 2")
x = migration(name = "x", phases = [phase("one", do = one, on_fail = "hold")])
`

func shelf(names ...string) map[string]bool {
	out := map[string]bool{}
	for _, n := range names {
		out[n] = true
	}
	return out
}

func (s *shop) on() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]bool{}
	for n, there := range s.shelf {
		if there {
			out[n] = true
		}
	}
	return out
}

func everything() map[string]bool {
	return shelf("base", "a", "a.lid", "b", "b.lid", "c", "c.lid", "d", "d.lid", "x/[y]:1", "x/[y]:1.lid")
}

func TestParallelReturnsWhatItsBranchesReturn(t *testing.T) {
	defer goleak.VerifyNone(t)
	b := open(t)
	out, err := b.runner.Run(context.Background(), b.load(fmt.Sprintf(many, "True")), nil, "r")
	require.NoError(t, err)
	require.JSONEq(t, `["a!", "b!", "c!", "d!", "x/[y]:1!"]`, string(out.Out["one"]))
	require.Equal(t, everything(), b.shop.on())
	require.Len(t, out.Held, 11)

	s, err := b.runner.Status(context.Background(), "r")
	require.NoError(t, err)
	require.Len(t, s.Phases[0].Forks, 2)
	require.Equal(t, "wave 1", s.Phases[0].Forks[0].Title)
	require.Equal(t, 3, s.Phases[0].Forks[0].Count("done"))

	back, err := b.runner.Rollback(context.Background(), "r")
	require.NoError(t, err)
	require.Empty(t, b.shop.on())
	require.Equal(t, []string{"wave 2: 2 of 2 undone: d, x/[y]:1", "wave 1: 3 of 3 undone: a, b, c", "take base"}, back.Undone)
}

// One branch fails: it undoes itself, those under way end well, later ones are
// not begun. Mended, the run goes on with the rest; what is done is not done again.
func TestAFailedBranchStopsTheRest(t *testing.T) {
	b := open(t)
	err := b.run(fmt.Sprintf(many, `g != "b" or has("mended")`))
	require.Equal(t, ExitUnmet, ExitCode(err))
	for _, want := range []string{"expected: wave 1: all 3 done", "failed and undone", "b       failed and undone  expected: ok; found: not ok", "a       done", "starferry resume r"} {
		require.ErrorContains(t, err, want)
	}
	on := b.shop.on()
	require.NotContains(t, on, "b", "it undid itself")
	require.NotContains(t, on, "d", "the next wave was not begun")
	require.Subset(t, on, shelf("base", "a", "a.lid"), "what is done stays")
	puts := b.shop.puts

	b.shop.shelf["mended"] = true
	out, err := b.runner.Resume(context.Background(), "r")
	require.NoError(t, err)
	require.Equal(t, StateFinished, out.State)
	delete(b.shop.shelf, "mended")
	require.Equal(t, everything(), b.shop.on())
	require.LessOrEqual(t, b.shop.puts-puts, 8, "neither base nor a is put again")

	_, err = b.runner.Rollback(context.Background(), "r")
	require.NoError(t, err)
	require.Empty(t, b.shop.on())
}

// With on_error = "continue" the others are tried all the same.
func TestParallelThatGoesOn(t *testing.T) {
	b := open(t)
	err := b.run(`
def one(m):
    def f(g):
        put(g)
        must(g != "a")
    parallel(f, ["a", "b", "c"], max = 1, on_error = "continue")
x = migration(name = "x", phases = [phase("one", do = one)])
`)
	require.ErrorContains(t, err, "2 done, 1 failed and undone")
	require.Empty(t, b.shop.on(), "the phase's own on_fail undoes the others too")
}

// A branch that cannot be undone says so, and rollback tries again.
func TestABranchThatCannotBeUndone(t *testing.T) {
	b := open(t)
	b.shop.hook = func() { b.shop.broken["a"] = true } // once it is put it cannot be taken
	err := b.run(`
def one(m):
    def f(g):
        put(g)
        must(False)
    parallel(f, ["a"])
x = migration(name = "x", phases = [phase("one", do = one, on_fail = "hold")])
`)
	require.ErrorContains(t, err, "failed and left as it is")
	require.ErrorContains(t, err, "one/1[a]/1:put put(thing = \"a\"): a is stuck")
	require.ErrorContains(t, err, "one/1[a]/1:put  put(thing = \"a\")  (undo: take a)")
	_, err = b.runner.Rollback(context.Background(), "r")
	require.Equal(t, ExitIncomplete, ExitCode(err))
	b.shop.broken["a"] = false
	_, err = b.runner.Rollback(context.Background(), "r")
	require.NoError(t, err)
	require.Empty(t, b.shop.on())
}

// A run with branches survives the death of its agent at every record, there and
// back, with and without a failing branch.
//
// Guarantee 5: A run survives kill −9 of the agent at any point
func TestCrashSweepOfBranches(t *testing.T) {
	for name, story := range map[string]struct {
		condition string
		back      bool
		want      map[string]bool
	}{
		"there":          {"True", false, everything()},
		"there and back": {"True", true, shelf()},
		"one fails":      {`g != "d"`, false, shelf("base", "a", "a.lid", "b", "b.lid", "c", "c.lid", "x/[y]:1", "x/[y]:1.lid")},
	} {
		for at := 1; ; at++ {
			b := open(t)
			crash := &cutAfter{Journal: b.journal, left: at}
			b.runner.Journal = crash
			p := b.load(fmt.Sprintf(many, story.condition))
			_, err := b.runner.Run(context.Background(), p, nil, "r")
			b.runner.Journal = b.journal
			if errors.Is(err, errCut) {
				if records, _ := b.journal.Read(context.Background(), "r"); len(records) == 0 {
					continue // nothing is known of it
				}
				_, err = b.runner.Resume(context.Background(), "r")
			}
			if story.condition == "True" {
				require.NoError(t, err, "%s, killed at record %d", name, at)
			}
			if story.back {
				crash := &cutAfter{Journal: b.journal, left: at}
				b.runner.Journal = crash
				_, err := b.runner.Rollback(context.Background(), "r")
				b.runner.Journal = b.journal
				if errors.Is(err, errCut) {
					_, err = b.runner.Rollback(context.Background(), "r")
					if ExitCode(err) == ExitUsage {
						err = nil // the lost record was the last
					}
				}
				require.NoError(t, err, "%s, killed at record %d", name, at)
			}
			on := b.shop.on()
			if story.condition != "True" { // its neighbour may not have been begun
				require.Subset(t, story.want, on, "%s, killed at record %d", name, at)
				require.NotContains(t, on, "d")
			} else {
				require.Equal(t, story.want, on, "%s, killed at record %d", name, at)
			}
			if crash.left > 0 {
				require.Greater(t, at, 30)
				break
			}
		}
	}
}

// What the journal has of a branch must be what the script does.
func TestBranchesThatDiffer(t *testing.T) {
	b := open(t)
	text := `
def one(m):
    parallel(lambda g: put(g), %s)
    must(False)
x = migration(name = "x", phases = [phase("one", do = one, on_fail = "hold")])
`
	require.Error(t, b.run(fmt.Sprintf(text, `["a", "b"]`)))
	records, err := b.journal.Read(context.Background(), "r")
	require.NoError(t, err)
	h, err := readHistory("r", records)
	require.NoError(t, err)
	e, err := b.runner.newEngine(h, b.load(fmt.Sprintf(text, `["a", "c"]`)), Args{})
	require.NoError(t, err)
	_, err = e.forward(context.Background())
	require.Equal(t, ExitMismatch, ExitCode(err))
	require.ErrorContains(t, err, "one/1:parallel")
}

func TestWrongParallel(t *testing.T) {
	for text, want := range map[string]string{
		`parallel(put, ["a"])`:                                                          "argument fn: want a function of one item",
		`parallel(lambda g: g, 3)`:                                                      "argument items: want a list",
		`parallel(lambda g: g, ["a", "a"])`:                                             "two items are named a",
		`parallel(lambda g: g, [3])`:                                                    "items[0]: a int has no name",
		`parallel(lambda g: g, ["a"], max = 0)`:                                         "0 at once: want 1 to 1000",
		`parallel(lambda g: g, ["a"], on_error = "stopp")`:                              `on_error "stopp"`,
		`parallel(lambda g: g, ["a"], maximum = 2)`:                                     "unexpected keyword argument maximum",
		`l = []; parallel(lambda g: l.append(g), ["a"])`:                                "frozen list",
		`parallel(lambda g: nothing.here, ["a"])`:                                       "undefined: nothing",
		`parallel(lambda g: lock(["l"]), ["a"])`:                                        "outside of parallel",
		`approve("go on?")`:                                                             `on_fail = "hold"`,
		`parallel(lambda g: fail("no " + g), ["a", "b"])`:                               "expected: no a",
		`parallel(lambda g: g.x, ["a"])`:                                                "string has no .x",
		`parallel(lambda g: parallel(lambda h: put(g + h), ["b"]), ["a"]); must(False)`: "ok",
	} {
		b := open(t)
		p, err := Load(Files(map[string]string{"a.star": "def main(m):\n    " + text + "\n"}), "a.star", b.runner.Registry)
		if err == nil {
			_, err = b.runner.Run(context.Background(), p, nil, "r")
		}
		require.ErrorContains(t, err, want, text)
		require.Empty(t, b.shop.on(), text)
	}
	b := open(t)
	p, err := LoadExec(`parallel(lambda g: put(g), ["a"])`, b.runner.Registry)
	require.NoError(t, err)
	_, err = b.runner.Run(context.Background(), p, nil, "r")
	require.ErrorContains(t, err, "not into a single line")
}

func TestLocksTakenOnTheWay(t *testing.T) {
	b := open(t)
	text := `
def one(m):
    lock(["group " + g for g in m.p.groups])
    parallel(lambda g: put(g), m.p.groups)
params(groups = param(list))
x = migration(name = "x", phases = [phase("one", do = one, verify = lambda m: must(has("mended")), on_fail = "hold")])
`
	run := func(id, groups string) error {
		_, err := b.runner.Run(context.Background(), b.load(text), map[string]string{"groups": groups}, id)
		return err
	}
	require.Equal(t, ExitUnmet, ExitCode(run("r1", "a,b")))
	err := run("r2", "c,b")
	require.ErrorContains(t, err, "lock group b: held by run r1")
	require.NotContains(t, b.shop.on(), "c")
	s, err := b.runner.Status(context.Background(), "r2")
	require.NoError(t, err)
	require.Empty(t, s.Locks, "given back")
	b.shop.shelf["mended"] = true
	_, err = b.runner.Resume(context.Background(), "r1")
	require.NoError(t, err)
	_, err = b.runner.Resume(context.Background(), "r2")
	require.NoError(t, err)
	require.Contains(t, b.shop.on(), "c")
}

func TestApproveIsResume(t *testing.T) {
	b := open(t)
	err := b.run(`
def one(m):
    put("a")
    approve("put b?")
    put("b")
x = migration(name = "x", phases = [phase("one", do = one, on_fail = "hold")])
`)
	require.Equal(t, ExitUnmet, ExitCode(err))
	require.ErrorContains(t, err, "expected: a yes to: put b?")
	require.Equal(t, shelf("a"), b.shop.on())
	_, err = b.runner.Resume(context.Background(), "r")
	require.NoError(t, err)
	require.Equal(t, shelf("a", "b"), b.shop.on())
}

func TestAPlanTellsBranchesTogether(t *testing.T) {
	b := open(t)
	plan, err := b.runner.Plan(context.Background(), b.load(fmt.Sprintf(many, "True")), nil)
	require.NoError(t, err)
	require.Empty(t, b.shop.on())
	require.Equal(t, 11, plan.Counts[WillDo])
	text := plan.String()
	for _, want := range []string{"parallel  wave 1: 3, 2 at once", "· put  put … and 2 more alike", "parallel  wave 2: 2, 2 at once"} {
		require.Contains(t, text, want)
	}
}

// What failed is told in full; of hundreds that stand as they should a few.
func TestATableOfManyBranches(t *testing.T) {
	f := ForkStatus{Title: "wave"}
	for i := range 40 {
		f.Branches = append(f.Branches, BranchStatus{Key: fmt.Sprintf("g%02d", i), State: phaseDone})
	}
	require.True(t, f.Calm())
	for i := range 12 {
		f.Branches[20+i].State, f.Branches[20+i].Error = phaseUndone, "no room"
	}
	require.False(t, f.Calm())
	require.Equal(t, "28 done, 12 failed and undone", f.Counts())
	lines := strings.Split(f.Table(), "\n")
	require.Len(t, lines, 1+12+shownCalm+1)
	require.Contains(t, lines[1], "g20")
	require.Contains(t, lines[len(lines)-1], "… 20 more")
}
