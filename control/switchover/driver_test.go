package switchover

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var rewriteDriver = flag.Bool("rewrite-driver", false, "rewrite testdata/driver_*.txt with what the driver does now")

// TestDriverScenarios plays the files of testdata: "> command" lines, each followed by
// the orders that the driver gives. -rewrite-driver writes what it gives now.
func TestDriverScenarios(t *testing.T) {
	rewrite := *rewriteDriver
	files, err := filepath.Glob("testdata/driver_*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			got := play(t, string(data))
			if rewrite {
				require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
			}
			require.Equal(t, string(data), got)
		})
	}
}

func play(t *testing.T, script string) string {
	var out strings.Builder
	var w *drill
	for _, line := range strings.Split(script, "\n") {
		if strings.HasPrefix(line, "#") {
			out.WriteString(line + "\n")
		}
		cmd, ok := strings.CutPrefix(line, "> ")
		if !ok {
			continue
		}
		out.WriteString(line + "\n")
		f := strings.Fields(cmd)
		if f[0] == "world" {
			n, _ := strconv.Atoi(f[1])
			p, _ := strconv.Atoi(f[2])
			w = newDrill(n, p)
			continue
		}
		tell(w, &out, func() { command(t, w, f) })
		require.Empty(t, w.bad, "%s: after %q", t.Name(), cmd)
	}
	return out.String()
}

// tell writes down every order given while f runs.
func tell(w *drill, out *strings.Builder, f func()) {
	asked := map[string]bool{}
	w.told = func(o Order) {
		text := describe(o)
		if _, asks := o.(Ask); !asks {
			clear(asked)
		} else if asked[text] {
			return // asked again and again
		} else {
			asked[text] = true
		}
		fmt.Fprintf(out, "  %5d %s\n", w.now-1000, text)
	}
	f()
	w.told = nil
}

func command(t *testing.T, w *drill, f []string) {
	arg := func(i int) string {
		if i < len(f) {
			return f[i]
		}
		return ""
	}
	switch f[0] {
	case "run": // until a phase is stored, or the end
		w.runTo(control.Phase(arg(1)), 120_000)
	case "wait":
		n, err := strconv.ParseInt(arg(1), 10, 64)
		require.NoError(t, err)
		for end := w.now + n; w.now < end && !w.d.Ended(); {
			w.tick()
		}
	case "crash":
		w.crash(arg(1))
	case "expire":
		w.expire(arg(1))
	case "freeze":
		w.inst(arg(1)).frozen = true
	case "evicting": // the policy of the switch
		w.req.OnStraggler, w.req.EvictAfter = Evict, 300
		w.newAgent()
	case "busy": // an instance with so many records that it has not committed
		n, err := strconv.Atoi(arg(2))
		require.NoError(t, err)
		w.inst(arg(1)).ahead = starferry.Offset(n)
	case "thaw":
		w.inst(arg(1)).frozen = false
	case "rebalance":
		w.rebalance(starferry.ClusterName(arg(1)))
	case "stranger":
		g := w.sides[starferry.ClusterName(arg(1))]
		g.members = append(slices.Clone(g.members), "java-7")
		g.gen++
	case "agent":
		w.newAgent()
	case "wipe":
		w.kv = nil
	case "rival":
		p := *w.kv
		p.By, p.Token, p.Epoch = "bob", "t2", p.Epoch+1
		w.kv, w.rev = &p, w.rev+1
	case "refuse":
		w.refuse = true
	case "mute":
		w.mute = true
	case "remember": // an earlier switch, decided when revisions were higher
		for _, x := range w.insts {
			x.outcome = &control.Outcome{Epoch: 0, Revision: 99, Result: control.Accepted}
		}
	case "missing":
		w.missing = arg(1)
	case "delay": // of the copy, ms
		n, err := strconv.ParseInt(arg(1), 10, 64)
		require.NoError(t, err)
		w.delay = n
	case "abandon":
		w.give(Abandon{Reason: "the script was stopped"})
	case "back":
		w.req.Source, w.req.Target, w.req.Direction, w.req.Token = drillNew, drillOld, starferry.Back, "t-back"
		w.newAgent()
	default:
		t.Fatalf("unknown command %q", f[0])
	}
}

// describe puts an order into one line.
func describe(o Order) string {
	switch o := o.(type) {
	case ReadStored:
		return "read the placement"
	case Write:
		p := o.Placement
		s := fmt.Sprintf("write %s epoch=%d active=%s target=%s if revision %d", p.Phase, p.Epoch, p.Active, p.Target, o.Expect)
		if p.Actor != nil {
			s += fmt.Sprintf(" actor=%s/%d", p.Actor.Instance, p.Actor.Generation)
		}
		if p.Beat > 0 {
			s += fmt.Sprintf(" beat=%d", p.Beat)
		}
		if len(p.Cut) > 0 {
			s += " cut=" + cutText(p.Cut) + " seeds=" + cutText(p.Seeds)
		}
		return s
	case Ask:
		s := "ask"
		if len(o.Describe) > 0 {
			s += fmt.Sprintf(" describe%v", o.Describe)
		}
		if len(o.Commits) > 0 {
			s += fmt.Sprintf(" commits%v", o.Commits)
		}
		if o.Link != nil {
			s += fmt.Sprintf(" link%v", o.Link)
		}
		if o.Translate != nil {
			s += " translate=" + cutText(o.Translate)
		}
		if len(o.Delay) > 0 {
			s += " delay"
		}
		return s
	case Say:
		return strings.TrimRight(fmt.Sprintf("say %s: %s", o.Phase, o.Waits), " ")
	case EvictMembers:
		s := "evict"
		for _, m := range o.Members {
			s += " " + m.ID
		}
		return fmt.Sprintf("%s from %s: %s", s, o.Cluster, o.Why)
	case Finished:
		r := o.Report
		s := fmt.Sprintf("FINISHED epoch=%d attempts=%d exact=%d instances=%v cut=%s seeds=%s notes=%q", r.Epoch, r.Attempts, r.Exact, r.Instances, cutText(r.Cut), cutText(r.Seeds), r.Notes)
		for _, e := range r.Evicted {
			s += fmt.Sprintf(" evicted=%s known=%v", e.Member, e.Known)
			for _, p := range e.Perhaps {
				s += fmt.Sprintf(" perhaps %s[%d, %d)", p.Partition, p.Range.From, p.Range.To)
			}
		}
		return s
	case Failed:
		return "FAILED " + o.Failure.Error()
	}
	return fmt.Sprintf("%T", o)
}

func cutText(c starferry.Cut) string {
	var parts []string
	for _, tp := range c.Partitions() {
		parts = append(parts, fmt.Sprintf("%s@%d", tp, c[tp].Next))
	}
	return strings.Join(parts, ",")
}

// TestWhateverHappensItEnds lets random faults happen at random moments.
func TestWhateverHappensItEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newDrill(rapid.IntRange(1, 3).Draw(t, "instances"), rapid.IntRange(1, 3).Draw(t, "partitions"))
		if rapid.Bool().Draw(t, "evicting") {
			w.req.OnStraggler, w.req.EvictAfter = Evict, 300
			w.newAgent()
		}
		faults := rapid.IntRange(0, 3).Draw(t, "faults")
		for range faults {
			for range rapid.IntRange(0, 25).Draw(t, "ticks") {
				w.ends++
				w.tick()
			}
			misfortune(t, w)
		}
		for end := w.now + 200_000; w.now < end && !w.d.Ended(); {
			w.tick()
			for _, x := range w.insts { // sessions of the dead run out
				if x.down && w.now%10_000 < 10 {
					w.expire(x.name)
				}
			}
		}
		require.True(t, w.d.Ended(), "it has not ended; it waits for %s", w.d.waits)
		for range 50 {
			w.tick()
		}
		require.Empty(t, w.bad, w.result)
		if w.result == "finished" {
			home, _, _ := Truth(map[starferry.ClusterName]Found{drillOld: w.sides[drillOld].found, drillNew: w.sides[drillNew].found})
			require.Equal(t, drillNew, home)
			require.Len(t, w.report.Cut, len(w.handed), "the report has no cut: %q", w.report.Notes)
			require.Len(t, w.report.Seeds, len(w.handed), "the report has no places: %q", w.report.Notes)
		}
	})
}

func misfortune(t *rapid.T, w *drill) {
	x := rapid.SampledFrom(w.insts).Draw(t, "instance")
	c := rapid.SampledFrom([]starferry.ClusterName{drillOld, drillNew}).Draw(t, "cluster")
	switch rapid.SampledFrom([]string{"crash", "rebalance", "agent", "wipe", "refuse", "mute", "join", "abandon", "freeze", "thaw"}).Draw(t, "fault") {
	case "crash":
		w.crash(x.name)
	case "freeze":
		x.frozen = true
	case "thaw":
		x.frozen = false
	case "rebalance":
		w.rebalance(c)
	case "agent":
		if !w.d.Ended() {
			w.newAgent()
		}
	case "wipe":
		w.kv = nil
	case "refuse":
		w.refuse = true
	case "mute":
		w.mute = true
	case "join":
		n := &inst{name: fmt.Sprintf("i%d", len(w.insts)+1), boot: 1, home: drillOld}
		w.insts = append(w.insts, n)
		w.join(n, drillOld)
	case "abandon":
		w.give(Abandon{Reason: "test"})
	}
}
