package scripting

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// shop is the world of these tests: a shelf of things that put adds and take
// removes. It shows the runtime without a word of Kafka.
type shop struct {
	mu      sync.Mutex
	shelf   map[string]bool
	puts    int
	looks   int
	broken  map[string]bool // things that cannot be put or taken
	finding Finding         // what reconcile says instead of looking
	hook    func()          // called inside put
}

func (s *shop) registry(t *testing.T) *Registry {
	thing := []Param{{Name: "thing", Type: StringType(), Required: true, Doc: "what"}, {Name: "times", Type: IntType(), Default: 1, Doc: "how often"}}
	act := func(on bool) func(context.Context, Call) (any, error) {
		return func(_ context.Context, c Call) (any, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			name := c.Args.Text("thing")
			if on {
				s.puts++
			}
			if s.broken[name] && (!on || s.shelf[name] == on) {
				return nil, fmt.Errorf("%s is stuck", name)
			}
			if s.hook != nil {
				s.mu.Unlock()
				s.hook()
				s.mu.Lock()
			}
			s.shelf[name] = on
			return map[string]any{"thing": name, "n": s.puts, "took": 3.0}, nil
		}
	}
	entry := func(name, other string, on bool) *Builtin {
		return &Builtin{Name: name, Doc: name + "s a thing.", Class: Effect, Params: thing, Run: act(on),
			Plan: func(_ context.Context, c Call) (Prediction, error) {
				return Prediction{Verdict: WillDo, Text: name, Result: map[string]any{"thing": c.Args.Text("thing"), "n": Unknown{}}}, nil
			},
			Reconcile: func(_ context.Context, c Call) (Finding, any, error) {
				s.mu.Lock()
				defer s.mu.Unlock()
				if s.finding != "" {
					return s.finding, nil, nil
				}
				if s.shelf[c.Args.Text("thing")] == on {
					return Happened, map[string]any{"thing": c.Args.Text("thing"), "n": s.puts, "took": 3.0}, nil
				}
				return DidNot, nil, nil
			},
			Inverse: func(_ context.Context, c Call) (*Undo, error) {
				return &Undo{Builtin: other, Args: Args{"thing": c.Args.Text("thing")}, Text: other + " " + c.Args.Text("thing")}, nil
			}}
	}
	reg, err := NewRegistry(nil, []*Builtin{entry("put", "take", true), entry("take", "put", false),
		{Name: "has", Doc: "Looks.", Class: Read, Params: thing, Run: func(_ context.Context, c Call) (any, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.looks++
			return s.shelf[c.Args.Text("thing")], nil
		}},
		{Name: "must", Doc: "Checks.", Class: Check, Params: []Param{{Name: "ok", Type: BoolType(), Required: true, Doc: "must be True"}}, Run: func(_ context.Context, c Call) (any, error) {
			if !c.Args.Bool("ok") {
				return nil, Unmet("ok", "not ok")
			}
			return nil, nil
		}},
	})
	require.NoError(t, err)
	return reg
}

type bench struct {
	*testing.T
	shop    *shop
	journal Journal
	runner  *Runner
}

func open(t *testing.T) *bench {
	s := &shop{shelf: map[string]bool{}, broken: map[string]bool{}}
	b := &bench{T: t, shop: s, journal: NewMemoryJournal()}
	b.runner = &Runner{Registry: s.registry(t), Journal: b.journal, By: "ann"}
	return b
}

func (b *bench) load(text string) *Program {
	p, err := Load(Files(map[string]string{"a.star": text}), "a.star", b.runner.Registry)
	require.NoError(b, err)
	return p
}

func (b *bench) run(text string) error {
	_, err := b.runner.Run(context.Background(), b.load(text), nil, "r")
	return err
}

const twoPhases = `
def one(m):
    put("a")
def two(m):
    put("b")
    %s
def back(m):
    take("b")
x = migration(name = "x", lock = ["l"], phases = [phase("one", do = one), phase("two", do = two, %s)])
`

func TestOnFail(t *testing.T) {
	for name, want := range map[string]struct {
		option string
		shelf  map[string]bool
		held   int
		code   int
	}{
		"undo is the default": {"", map[string]bool{"a": true, "b": false}, 1, ExitUnmet},
		"hold":                {`on_fail = "hold"`, map[string]bool{"a": true, "b": true}, 2, ExitUnmet},
		"rollback":            {`on_fail = "rollback"`, map[string]bool{"a": false, "b": false}, 0, ExitRolledBack},
		"its own undo":        {`undo = back`, map[string]bool{"a": true, "b": false}, 1, ExitUnmet},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t)
			err := b.run(fmt.Sprintf(twoPhases, "must(False)", want.option))
			var stop *StopError
			require.ErrorAs(t, err, &stop)
			require.Equal(t, want.code, ExitCode(err), err)
			require.Equal(t, want.shelf, b.shop.shelf)
			require.Len(t, stop.Held, want.held)
			require.NotEmpty(t, stop.Next)
			require.Equal(t, want.code == ExitRolledBack, strings.Contains(err.Error(), "rolled back: nothing is left to undo"), err)
		})
	}
}

func TestHeldPhaseGoesOnWhereItStopped(t *testing.T) {
	b := open(t)
	require.Error(t, b.run(fmt.Sprintf(twoPhases, `must(has("c"))`, `on_fail = "hold"`)))
	require.Equal(t, 2, b.shop.puts)
	b.shop.shelf["c"] = true
	_, err := b.runner.Resume(context.Background(), "r")
	require.Error(t, err, "has was journaled: the same phase sees the same shelf")

	b = open(t)
	b.shop.broken["z"] = true
	b.shop.shelf["z"] = true
	require.Error(t, b.run(fmt.Sprintf(twoPhases, `put("z")`, `on_fail = "hold"`)))
	b.shop.broken["z"], b.shop.shelf["z"] = false, false
	out, err := b.runner.Resume(context.Background(), "r")
	require.NoError(t, err)
	require.Equal(t, StateFinished, out.State)
	require.Equal(t, 4, b.shop.puts, "a and b once, z twice")
}

// A run that went past a phase without a way back says so, and offers none.
func TestNoWayBackIsOfferedWhereThereIsNone(t *testing.T) {
	b := open(t)
	require.Error(t, b.run(fmt.Sprintf(twoPhases, "must(False)", `irreversible = True, on_fail = "hold"`)))
	status, err := b.runner.Status(context.Background(), "r")
	require.NoError(t, err)
	require.NotContains(t, strings.Join(status.Next, "\n"), "rollback")
	require.Contains(t, strings.Join(status.Next, "\n"), "resume")
	_, err = b.runner.Rollback(context.Background(), "r")
	require.ErrorContains(t, err, "no way back")
}

func TestRollbackIncompleteIsToldAndTakenUpAgain(t *testing.T) {
	b := open(t)
	require.NoError(t, b.run(fmt.Sprintf(twoPhases, "", "")))
	b.shop.broken["b"] = true
	_, err := b.runner.Rollback(context.Background(), "r")
	require.Equal(t, ExitIncomplete, ExitCode(err))
	require.ErrorContains(t, err, "b is stuck")
	require.ErrorContains(t, err, "rollback incomplete")
	require.True(t, b.shop.shelf["a"], "what the stuck phase may need stays")
	status, err := b.runner.Status(context.Background(), "r")
	require.NoError(t, err)
	require.Contains(t, status.Error, "b is stuck", "why it is incomplete is told later too")

	b.shop.broken["b"] = false
	out, err := b.runner.Rollback(context.Background(), "r")
	require.NoError(t, err)
	require.Equal(t, StateRolledBack, out.State)
	require.Equal(t, map[string]bool{"a": false, "b": false}, b.shop.shelf)
	_, err = b.runner.Rollback(context.Background(), "r")
	require.Equal(t, ExitUsage, ExitCode(err))
}

// cutAfter makes the journal of the bench's next runner fail from a record on.
type cutAfter struct {
	Journal
	left int
}

var errCut = errors.New("journal gone")

func (c *cutAfter) Append(ctx context.Context, after uint64, r Record) (uint64, error) {
	if c.left--; c.left < 0 {
		return 0, errCut
	}
	return c.Journal.Append(ctx, after, r)
}

func TestUnclearEffectStopsAndAsks(t *testing.T) {
	b := open(t)
	b.runner.Journal = &cutAfter{b.journal, 3} // started, phase started, intent
	err := b.run(fmt.Sprintf(twoPhases, "", ""))
	require.ErrorIs(t, err, errCut)
	b.runner.Journal = b.journal
	b.shop.finding = Unclear
	_, err = b.runner.Resume(context.Background(), "r")
	require.ErrorContains(t, err, "whether it happened cannot be told")
	require.ErrorContains(t, err, "outcome not known yet")
	require.Equal(t, 1, b.shop.puts)

	b.shop.finding = ""
	_, err = b.runner.Resume(context.Background(), "r")
	require.NoError(t, err)
	require.Equal(t, 2, b.shop.puts, "the first put had happened")
}

func TestReplaySeesTheSameTimeAndValues(t *testing.T) {
	b := open(t)
	clock := &steps{at: time.Unix(1000, 0)}
	b.runner.Clock = clock
	b.runner.Journal = &cutAfter{b.journal, 6}
	p := b.load(`
def one(m):
    t, id, r = m.now(), m.uuid(), m.random()
    a = put("a")
    put("b-%d-%s-%s" % (t.unix, id, r))
    return struct(n = a.n, took = a.took, t = t)
def main(m):
    return one(m)
`)
	_, err := b.runner.Run(context.Background(), p, nil, "r")
	require.ErrorIs(t, err, errCut)
	require.Len(t, b.shop.shelf, 1)
	clock.at = clock.at.Add(time.Hour)
	b.runner.Journal = b.journal
	out, err := b.runner.Resume(context.Background(), "r")
	require.NoError(t, err)
	require.Len(t, b.shop.shelf, 2)
	var main struct {
		N    int
		Took json.Number
		T    Typed
	}
	require.NoError(t, json.Unmarshal(out.Out["main"], &main))
	require.Equal(t, "1970-01-01T00:16:40Z", main.T.Text)
}

type steps struct{ at time.Time }

func (s *steps) Now() time.Time                                 { return s.at }
func (s *steps) Sleep(_ context.Context, d time.Duration) error { s.at = s.at.Add(d); return nil }

func TestCheckPassesAgainBeforeANewEffect(t *testing.T) {
	b := open(t)
	b.runner.Journal = &cutAfter{b.journal, 5}
	text := `
def can(m):
    must(not has("closed"))
def do(m):
    put("a")
    put("b")
x = migration(name = "x", phases = [phase("p", check = can, do = do, on_fail = "hold")])
`
	require.ErrorIs(t, b.run(text), errCut)
	b.shop.shelf["closed"] = true
	b.runner.Journal = b.journal
	_, err := b.runner.Resume(context.Background(), "r")
	require.Equal(t, ExitUnmet, ExitCode(err), err)
	require.False(t, b.shop.shelf["b"], "no new effect after a check that fails")
}

func TestStaleWriterIsStopped(t *testing.T) {
	b := open(t)
	other := &Runner{Registry: b.runner.Registry, Journal: b.journal, By: "bob"}
	b.shop.hook = func() {
		b.shop.hook = nil
		_, err := other.Resume(context.Background(), "r")
		require.NoError(t, err)
	}
	err := b.run(fmt.Sprintf(twoPhases, "", ""))
	require.ErrorIs(t, err, ErrFenced)
	s, err := b.runner.Status(context.Background(), "r")
	require.NoError(t, err)
	require.Equal(t, StateFinished, s.State)
}

func TestJournalAndScriptDiffer(t *testing.T) {
	b := open(t)
	b.runner.Journal = &cutAfter{b.journal, 4}
	require.ErrorIs(t, b.run(fmt.Sprintf(twoPhases, "", "")), errCut)
	mem := b.journal.(*MemoryJournal)
	for i, r := range mem.runs["r"] {
		if r.Kind == Intent {
			mem.runs["r"][i].Hash = "0"
		}
	}
	b.runner.Journal = b.journal
	before, _ := b.journal.Read(context.Background(), "r")
	_, err := b.runner.Resume(context.Background(), "r")
	require.Equal(t, ExitMismatch, ExitCode(err), err)
	require.ErrorContains(t, err, "- journal  a.star:3:8")
	require.ErrorContains(t, err, "+ script   a.star:3:8")
	require.ErrorContains(t, err, "starferry rollback r")
	after, _ := b.journal.Read(context.Background(), "r")
	require.Equal(t, len(before)+1, len(after), "only the resumption was journaled")
}

func TestInterruptedRunStaysOpen(t *testing.T) {
	b := open(t)
	ctx, cancel := context.WithCancel(context.Background())
	b.shop.hook = cancel
	_, err := b.runner.Run(ctx, b.load(fmt.Sprintf(twoPhases, "", "")), nil, "r")
	require.ErrorIs(t, err, context.Canceled)
	s, err := b.runner.Status(context.Background(), "r")
	require.NoError(t, err)
	require.Equal(t, StateOpen, s.State)
	b.shop.hook = nil
	_, err = b.runner.Resume(context.Background(), "r")
	require.NoError(t, err)
	require.Equal(t, 2, b.shop.puts)
}

func TestScriptsThatAreWrong(t *testing.T) {
	for text, want := range map[string]string{
		"def main(m):\n    try:\n        pass\n":  `a.star:2:5: got try.*\n.*no exceptions`,
		"import os\n":                             `no import: load`,
		"x = f\"a\"\n":                            `no f-strings`,
		"def main(m: int):\n    pass\n":           `no type annotations`,
		"def main(m):\n    putt('a')\n":           `a.star:2:5: undefined: putt \(did you mean put\?\)`,
		"put('a')\n":                              `a.star:1:4: .*top level of a script only declares`,
		"load('../b.star', 'x')\n":                `below its root`,
		"load('/etc/passwd', 'x')\n":              `below its root`,
		"load('a.star', 'x')\n":                   `loads itself`,
		"load('b.star', 'x')\n":                   `file does not exist`,
		"x = 1\n":                                 `nothing to run`,
		"x = phase('a', do = 1)\n":                `want a function of m, got int`,
		"def f(): pass\nx = phase('a', do = f)\n": `takes 0 parameters, want one`,
		"def f(m): pass\nx = phase('a', do = f, onfail = 'x')\n":                         `did you mean on_fail\?`,
		"def f(m): pass\nx = phase('a', do = f, on_fail = 'holt')\n":                     `did you mean hold\?`,
		"def f(m): pass\nx = phase('a', do = f, approve = 'Go?')\n":                      `cannot wait for an approval`,
		"def f(m): pass\nx = migration(name = '{grp}', phases = [phase('a', do = f)])\n": `no parameter grp`,
		"params(a = param(durration, '1m'))\ndef main(m): pass\n":                        `did you mean duration\?`,
		"params(a = param(duration, '1 week'))\ndef main(m): pass\n":                     `parse duration "1 week"`,
		"params(a = param(int, 1), b = 2)\ndef main(m): pass\n":                          `b: want param`,
	} {
		b := open(t)
		_, err := Load(Files(map[string]string{"a.star": text}), "a.star", b.runner.Registry)
		require.Error(t, err, text)
		require.Equal(t, ExitScript, ExitCode(err), text)
		require.Regexp(t, want, err.Error(), text)
	}
}

func TestCallsThatAreWrongFailThePhase(t *testing.T) {
	for body, want := range map[string]string{
		`put("a", tims = 2)`:                   `tims \(did you mean times\?\)`,
		`put(7)`:                               `want a string, got the number 7`,
		`put()`:                                `missing argument thing`,
		`params()`:                             `belongs to the top level`,
		`return main`:                          `cannot be kept`,
		`m.out.nothing`:                        `m.out has no .nothing`,
		`[x for x in range(10 * 1000 * 1000)]`: `more than 1000 steps`,
		`fail("stop here")`:                    `expected: stop here`,
	} {
		b := open(t)
		b.runner.MaxSteps = 1000
		err := b.run("def main(m):\n    " + body + "\n")
		require.Error(t, err, body)
		require.Regexp(t, want, err.Error(), body)
		require.Contains(t, err.Error(), "a.star:", body)
	}
}

func TestPlanKnowsWhatItCannotKnow(t *testing.T) {
	b := open(t)
	plan, err := b.runner.Plan(context.Background(), b.load(`
def can(m):
    put("x")
def one(m):
    a = put("a")
    must(a.n == 1)
def two(m):
    must(False)
x = migration(name = "x", phases = [phase("one", do = one), phase("two", do = two)])
`), nil)
	require.NoError(t, err)
	require.Zero(t, b.shop.puts)
	require.Equal(t, map[Verdict]int{WillDo: 1, UnknownUntilRun: 2}, plan.Counts, plan)

	_, err = b.runner.Plan(context.Background(), b.load("def can(m):\n    put('x')\ndef do(m):\n    pass\nx = migration(name = 'x', phases = [phase('p', check = can, do = do)])\n"), nil)
	require.ErrorContains(t, err, "check of phase p only looks")
}

func TestLongRunResumesFast(t *testing.T) {
	b := open(t)
	const calls = 3000
	text := fmt.Sprintf("def main(m):\n    for i in range(%d):\n        put('a%%d' %% i)\n", calls)
	b.runner.Journal = &cutAfter{b.journal, 2*calls + 1}
	require.ErrorIs(t, b.run(text), errCut)
	b.runner.Journal = b.journal
	start := time.Now()
	_, err := b.runner.Resume(context.Background(), "r")
	require.NoError(t, err)
	require.Less(t, time.Since(start), 5*time.Second)
	require.Equal(t, calls, b.shop.puts)
	t.Logf("%d calls replayed in %s", calls, time.Since(start))
}
