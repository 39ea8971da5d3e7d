package switchover_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/switchover"
)

var rewriteMember = flag.Bool("rewrite-member", false, "rewrite testdata/member_*.txt with what the machine does now")

// TestMemberScenarios plays testdata/member_*.txt: a line at the margin is an
// event, the indented lines below it are its effects.
func TestMemberScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/member_*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			got := newStage(t).play(string(want))
			if *rewriteMember {
				require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
				return
			}
			require.Equal(t, string(want), got)
		})
	}
}

// stage is one machine, and what a scenario may leave unsaid.
type stage struct {
	t       *testing.T
	m       *switchover.Member
	now     int64
	reads   map[starferry.ClusterName]int64
	commits map[starferry.ClusterName]int64
}

func newStage(t *testing.T) *stage {
	return &stage{
		t: t, reads: map[starferry.ClusterName]int64{}, commits: map[starferry.ClusterName]int64{},
		m: switchover.NewMember(switchover.MemberConfig{
			Group: "g", Instance: "i1", Boot: "b1", Home: "old", DrainDeadline: 30_000,
			Clusters: []starferry.ClusterName{"old", "new"},
		}),
	}
}

func (s *stage) play(script string) string {
	var out bytes.Buffer
	for _, line := range strings.Split(strings.TrimRight(script, "\n"), "\n") {
		if strings.HasPrefix(line, " ") {
			continue
		}
		fmt.Fprintln(&out, line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		for _, e := range s.m.Step(s.now, s.event(line)) {
			fmt.Fprintln(&out, "    "+s.effect(e))
		}
	}
	return out.String()
}

// event reads one line. A leading "+500" lets so many milliseconds pass.
func (s *stage) event(line string) switchover.Event {
	w := strings.Fields(line)
	if ms, ok := strings.CutPrefix(w[0], "+"); ok {
		s.now += int64(s.number(ms))
		w = w[1:]
	}
	if len(w) == 0 || w[0] == "tick" {
		return switchover.Tick{}
	}
	cluster := func() starferry.ClusterName { return starferry.ClusterName(w[1]) }
	switch w[0] {
	case "start":
		return switchover.Start{}
	case "stop":
		return switchover.Stop{}
	case "rebalance":
		return switchover.Rebalance{Cluster: cluster()}
	case "lost":
		return switchover.Lost{Cluster: cluster(), Reason: "Unknown Member"}
	case "assigned": // assigned old m1 3 t/0,t/1
		e := switchover.Assigned{Cluster: cluster(), Member: w[2], Generation: starferry.Generation(s.number(w[3])), All: s.partitions("t/0,t/1")}
		if len(w) > 4 {
			e.Own = s.partitions(w[4])
		}
		return e
	case "read": // read old t/0@5:home:2 t/1@7
		return switchover.Read{Cluster: cluster(), ID: s.reads[cluster()], Found: s.found(w[2:])}
	case "drained":
		return switchover.Drained{Cluster: cluster(), Cut: s.cut(w[2:])}
	case "progress":
		return switchover.Progress{Cluster: cluster(), Cut: s.cut(w[2:])}
	case "answered": // answered old accepted
		return switchover.Answered{Cluster: cluster(), ID: s.commits[cluster()], Result: w[2], Detail: strings.Join(w[3:], " ")}
	case "placement":
		return s.placement(w[1:])
	}
	require.Fail(s.t, "unknown event", line)
	return nil
}

// placement reads "7 drain 2 old>new deadline=500 actor=i1/b1/m1/1 cut=t/0@5".
func (s *stage) placement(w []string) switchover.Event {
	p := control.Placement{Version: control.ProtocolVersion, Group: "g", Phase: control.Phase(w[1]), Epoch: starferry.Epoch(s.number(w[2]))}
	active, target, _ := strings.Cut(w[3], ">")
	p.Active, p.Target = starferry.ClusterName(active), starferry.ClusterName(target)
	for _, f := range w[4:] {
		key, value, _ := strings.Cut(f, "=")
		switch key {
		case "deadline":
			p.DrainDeadlineMS = int64(s.number(value))
		case "standby":
			name, until, _ := strings.Cut(value, ":")
			p.Standby, p.StandbyUntil = starferry.ClusterName(name), int64(s.number(until))
		case "actor":
			a := strings.Split(value, "/")
			p.Actor = &control.Actor{Instance: starferry.InstanceID(a[0]), Boot: a[1], Member: a[2], Generation: starferry.Generation(s.number(a[3]))}
		case "cut":
			p.Cut = s.cut(strings.Split(value, ","))
		case "seeds":
			p.Seeds = s.cut(strings.Split(value, ","))
		default:
			require.Fail(s.t, "unknown field of a placement", f)
		}
	}
	return switchover.Seen{Placement: p, Revision: uint64(s.number(w[0]))}
}

func (s *stage) number(v string) int {
	n, err := strconv.Atoi(v)
	require.NoError(s.t, err)
	return n
}

func (s *stage) partitions(v string) []starferry.TopicPartition {
	var out []starferry.TopicPartition
	for _, f := range strings.Split(v, ",") {
		tp, err := starferry.ParseTopicPartition(f)
		require.NoError(s.t, err)
		out = append(out, tp)
	}
	return out
}

func (s *stage) cut(words []string) starferry.Cut {
	cut := starferry.Cut{}
	for _, w := range words {
		p, err := starferry.ParsePosition(w)
		require.NoError(s.t, err)
		cut[p.TopicPartition] = starferry.Place{Next: p.Offset}
	}
	return cut
}

func (s *stage) found(words []string) switchover.Found {
	out := switchover.Found{}
	for _, w := range words {
		f := strings.Split(w, ":")
		p, err := starferry.ParsePosition(f[0])
		require.NoError(s.t, err)
		c := switchover.FoundCommit{Offset: p.Offset}
		if len(f) > 1 {
			c.Mark = &control.Mark{State: control.State(f[1]), Epoch: starferry.Epoch(s.number(f[2]))}
			if len(f) > 3 {
				c.Mark.Cluster = starferry.ClusterName(f[3])
			}
		}
		out[p.TopicPartition] = c
	}
	return out
}

func (s *stage) effect(e switchover.Effect) string {
	switch e := e.(type) {
	case switchover.Join:
		if e.Standby {
			return fmt.Sprintf("join %s as standby", e.Cluster)
		}
		return fmt.Sprintf("join %s", e.Cluster)
	case switchover.Rejoin:
		return fmt.Sprintf("rejoin %s with user data %d", e.Cluster, e.Nonce)
	case switchover.Leave:
		return fmt.Sprintf("leave %s", e.Cluster)
	case switchover.ReadCommits:
		s.reads[e.Cluster] = e.ID
		return fmt.Sprintf("read %s", e.Cluster)
	case switchover.Fetch:
		return strings.TrimSpace(fmt.Sprintf("fetch %s epoch %d %s", e.Cluster, e.Epoch, cutText(e.Cut))) + startText(e.Start)
	case switchover.Halt:
		return fmt.Sprintf("halt %s", e.Cluster)
	case switchover.Commit:
		s.commits[e.Cluster] = e.ID
		return fmt.Sprintf("commit %s as %s/%d %q %s", e.Cluster, e.Member, e.Generation, strings.TrimPrefix(e.Mark.String(), "starferry/1 "), cutText(e.Cut))
	case switchover.Publish:
		return "publish " + leaseText(s.m.Lease())
	}
	return strings.ToLower(strings.TrimPrefix(fmt.Sprintf("%T", e), "switchover."))
}

func cutText(c starferry.Cut) string {
	var out []string
	for _, tp := range c.Partitions() {
		out = append(out, starferry.Position{TopicPartition: tp, Offset: c[tp].Next}.String())
	}
	return strings.Join(out, " ")
}

func startText(tps []starferry.TopicPartition) string {
	out := ""
	for _, tp := range tps {
		out += " start:" + tp.String()
	}
	return out
}

func leaseText(l control.Lease) string {
	home := string(l.Home)
	if home == "" {
		home = "?"
	}
	out := fmt.Sprintf("home=%s/%d obeys=%d rev=%d", home, l.HomeEpoch, l.Epoch, l.Revision)
	for _, m := range l.Memberships {
		state := "joining"
		if m.Good {
			state = "good"
		}
		out += fmt.Sprintf(" %s:%d:%s", m.Cluster, m.Generation, state)
	}
	if l.Drained != 0 {
		out += fmt.Sprintf(" drained=%d@[%s]", l.Drained, cutText(l.DrainedAt))
	}
	if l.Seeded != 0 {
		out += fmt.Sprintf(" seeded=%d", l.Seeded)
	}
	if d := l.Decided; d != nil {
		out += fmt.Sprintf(" decided=%d:%s", d.Revision, d.Result)
	}
	if l.Refusal != "" {
		out += fmt.Sprintf(" refusal=%q", l.Refusal)
	}
	return out
}
