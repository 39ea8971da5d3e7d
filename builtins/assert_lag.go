package builtins

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/scripting"
)

func assertLagEntry(p Ports, t typeSet) *scripting.Builtin {
	a := assertLag{p}
	subject := scripting.NamedType("link or group", "a link, or with on= a group", "old-new")
	return &scripting.Builtin{
		Name: "assert_lag", Class: scripting.Check, Returns: "struct(verdict, total, partitions, worst)",
		Doc: `Checks how far a link's copy, or with on= a group, is behind.
There are three answers, PASS, FAIL and UNKNOWN; only PASS passes. A partition that cannot be measured makes it UNKNOWN.`,
		Example: `assert_lag(link, max = 500, within = "6h", hold = "60s")`,
		Params: []scripting.Param{
			{Name: "of", Type: subject, Required: true, Doc: "a link, or a group if on is given", Complete: "links"},
			{Name: "on", Type: t.cluster, Doc: "the cluster on which the group's lag is measured", Complete: "clusters"},
			{Name: "max", Type: t.whole, Default: 0, Doc: "records that each partition may be behind"},
			{Name: "within", Type: t.duration, Doc: "wait this long for it to become so; left out: it must be so now"},
			{Name: "hold", Type: t.duration, Doc: "and it must stay so for this long"},
		},
		Plan: a.plan, Run: a.run,
	}
}

// lagPoll is how often the lag is measured while waiting.
const lagPoll = 250 * time.Millisecond

type assertLag struct{ p Ports }

// lagAnswer is one measurement judged.
type lagAnswer struct {
	verdict string // PASS, FAIL, UNKNOWN
	final   bool   // waiting will not help
	found   string
	total   int64
	parts   int
	worst   []map[string]any
}

// measure asks the port once and judges. Its error is one that waiting does not
// heal; others are an UNKNOWN.
func (a assertLag) measure(ctx context.Context, c scripting.Call) (lagAnswer, error) {
	var (
		lag Lag
		err error
		of  = c.Args.Text("of")
	)
	if on := clusterArg(c, "on"); on != "" {
		lag, err = a.p.Clusters.GroupLag(ctx, on, starferry.Group(of))
	} else {
		lag, err = a.p.Copier.LinkLag(ctx, starferry.LinkName(of))
	}
	switch {
	case errors.Is(err, ErrNotFound):
		return lagAnswer{}, fmt.Errorf("measure lag of link %s: %w; for a group give on = its cluster", of, err)
	case err != nil && ctx.Err() != nil:
		return lagAnswer{}, err
	case err != nil:
		return lagAnswer{verdict: "UNKNOWN", found: "UNKNOWN: " + err.Error()}, nil
	}
	return judgeLag(lag, c.Args.Int("max")), nil
}

// judgeLag passes only what is measured, not negative and not above the limit
// in every partition.
func judgeLag(lag Lag, limit int64) lagAnswer {
	a := lagAnswer{parts: len(lag.Records)}
	parts := slices.SortedFunc(maps.Keys(lag.Records), func(x, y starferry.TopicPartition) int {
		return cmp.Or(cmp.Compare(lag.Records[y], lag.Records[x]), x.Compare(y))
	})
	unknown := reasons(lag.Unknown)
	over := 0
	var worst []string
	for _, tp := range parts {
		n := lag.Records[tp]
		switch {
		case n < 0:
			unknown = append(unknown, fmt.Sprintf("%s: the measured lag is %d; end and position contradict each other", tp, n))
			continue
		case n > limit:
			over++
		}
		a.total += n
		if len(a.worst) < 5 && n > 0 {
			a.worst = append(a.worst, map[string]any{"partition": tp.String(), "lag": n})
			worst = append(worst, fmt.Sprintf("%s %d", tp, n))
		}
	}
	if len(parts) == 0 && len(unknown) == 0 {
		unknown = []string{"no partition was measured"}
	}
	stopped := reasons(lag.Stopped)
	behind := fmt.Sprintf("%d of %s over the limit, worst: %s", over, count(len(parts), "partition"), strings.Join(worst, ", "))
	if len(lag.Stalled) > 0 {
		behind += "; held up: " + firstFew(reasons(lag.Stalled))
	}
	switch {
	case len(stopped) > 0:
		a.verdict, a.final, a.found = "FAIL", true, "FAIL: stopped and not moving by itself: "+firstFew(stopped)
	case len(unknown) > 0:
		a.verdict, a.found = "UNKNOWN", "UNKNOWN: "+firstFew(unknown)
		if over > 0 {
			a.found += "; " + behind
		}
	case over > 0:
		a.verdict, a.found = "FAIL", "FAIL: "+behind
	default:
		a.verdict, a.found = "PASS", "PASS: "+behind
	}
	return a
}

func reasons(m map[starferry.TopicPartition]string) []string {
	var out []string
	for _, tp := range slices.SortedFunc(maps.Keys(m), starferry.TopicPartition.Compare) {
		out = append(out, tp.String()+": "+m[tp])
	}
	return out
}

func firstFew(list []string) string {
	if len(list) > 5 {
		return strings.Join(list[:5], "; ") + fmt.Sprintf("; and %d more", len(list)-5)
	}
	return strings.Join(list, "; ")
}

func (a assertLag) run(ctx context.Context, c scripting.Call) (any, error) {
	within, hold := c.Args.Duration("within"), c.Args.Duration("hold")
	start := c.Clock.Now()
	var since, told time.Time // since when it passes; when people were told
	for {
		ans, err := a.measure(ctx, c)
		if err != nil {
			return nil, err
		}
		now := c.Clock.Now()
		if ans.verdict == "PASS" {
			if since.IsZero() {
				since = now
			}
			if now.Sub(since) >= hold {
				return map[string]any{"verdict": ans.verdict, "total": ans.total, "partitions": ans.parts, "worst": ans.worst}, nil
			}
		} else {
			waited := !since.IsZero()
			since = time.Time{}
			if ans.final || now.Sub(start) >= within {
				if waited {
					ans.found += fmt.Sprintf(" (it held, but not for %s)", scripting.FormatDuration(hold))
				}
				return nil, scripting.Unmet(a.expected(c), ans.found)
			}
		}
		if now.Sub(told) >= time.Second {
			told = now
			c.Progress(fmt.Sprintf("%s; waiting for %s", ans.found, a.expected(c)))
		}
		if err := c.Clock.Sleep(ctx, lagPoll); err != nil {
			return nil, err
		}
	}
}

// expected says in words what the call asks for.
func (a assertLag) expected(c scripting.Call) string {
	s := "lag of link " + c.Args.Text("of")
	if c.Args.Has("on") {
		s = fmt.Sprintf("lag of group %s on %s", c.Args.Text("of"), c.Args.Text("on"))
	}
	s += fmt.Sprintf(" at most %d records in each partition", c.Args.Int("max"))
	if c.Args.Has("within") {
		s += " within " + c.Args.Text("within")
	}
	if c.Args.Has("hold") {
		s += " for " + c.Args.Text("hold")
	}
	return s
}

func (a assertLag) plan(ctx context.Context, c scripting.Call) (scripting.Prediction, error) {
	pred := scripting.Prediction{Text: a.expected(c), AtMost: c.Args.Duration("within") + c.Args.Duration("hold"),
		Result: unknownFields("verdict", "total", "partitions", "worst")}
	if a.dependsOnPlan(c) {
		pred.Verdict = scripting.UnknownUntilRun
		return pred, nil
	}
	ans, err := a.measure(ctx, c)
	if err != nil {
		if errors.Is(err, ErrNotFound) {
			pred.Verdict, pred.Text = scripting.FailsNow, err.Error()
			return pred, nil
		}
		return pred, err
	}
	pred.Text += "; now " + ans.found
	switch {
	case ans.verdict == "PASS":
		pred.Verdict = scripting.HoldsNow
	case c.Args.Has("within") && !ans.final:
		pred.Verdict = scripting.UnknownUntilRun
	default:
		pred.Verdict = scripting.FailsNow
	}
	return pred, nil
}

// dependsOnPlan reports whether the answer hangs on an effect that the plan only
// predicts.
func (a assertLag) dependsOnPlan(c scripting.Call) bool {
	of := c.Args.Text("of")
	if c.Args.Has("on") {
		return planned(c, "switch_consumer", "group", of)
	}
	for _, e := range c.Earlier {
		if e.Builtin != "replicate" || e.Verdict != scripting.WillDo {
			continue
		}
		between := starferry.LinkBetween(starferry.ClusterName(e.Args.Text("source")), starferry.ClusterName(e.Args.Text("target")))
		if e.Args.Text("link") == of || string(between) == of {
			return true
		}
	}
	return false
}
