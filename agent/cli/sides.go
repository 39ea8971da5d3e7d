package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent/api"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/fleet"
	"github.com/starferry/starferry/scripting"
)

// sideView is how a group stands on one cluster, as its coordinator says.
type sideView struct {
	State   string       `json:"state"`
	Fenced  bool         `json:"fenced,omitempty"` // an agent keeps everybody out
	Members []memberView `json:"members"`
	// Lag is the sum over the partitions with a commit.
	Lag        int64                                    `json:"lag"`
	Partitions map[starferry.TopicPartition]sideOfPlace `json:"partitions"`
	Error      string                                   `json:"error,omitempty"` // why the cluster could not be read
}

// memberView is one member as its coordinator describes it.
type memberView struct {
	ID       string               `json:"id"`
	Client   string               `json:"client"`
	Host     string               `json:"host"`
	Instance starferry.InstanceID `json:"instance,omitempty"` // of the library
	Lease    bool                 `json:"lease"`              // it is a live instance
}

// sideOfPlace is a commit and what lies behind it.
type sideOfPlace struct {
	Committed starferry.Offset `json:"committed"`
	Lag       int64            `json:"lag"`
	Mark      string           `json:"mark,omitempty"` // what the commit says: home, seeded, moved …
}

// looksAtOnce is how many groups are read from their clusters at the same time.
const looksAtOnce = 16

// addSides reads the groups on all clusters.
func addSides(ctx context.Context, f *fleet.Fleet, views []groupView) {
	var wg sync.WaitGroup
	places := make(chan struct{}, looksAtOnce)
	for i := range views {
		wg.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			v, err := f.Group(ctx, views[i].Group)
			if err != nil {
				views[i].Error = err.Error()
				return
			}
			views[i].take(v)
		})
	}
	wg.Wait()
}

// take takes in what the clusters say. Where the group lives is what its commits
// say.
func (g *groupView) take(v fleet.View) {
	g.Home, g.Epoch = cmp.Or(v.Home.Cluster, g.Home), max(v.Home.Epoch, g.Epoch)
	g.Sides = map[starferry.ClusterName]sideView{}
	for c, s := range v.On {
		side := sideView{State: s.Group.State, Fenced: fleet.Fenced(s.Group), Members: []memberView{}, Partitions: map[starferry.TopicPartition]sideOfPlace{}, Error: s.Err}
		for _, m := range s.Group.Members {
			side.Members = append(side.Members, memberView{m.ID, m.Client, m.Host, m.Instance(), leased(v.Leases, c, m.ID)})
		}
		for tp, place := range s.Committed {
			p := sideOfPlace{Committed: place.Next, Lag: s.Lag[tp]}
			if mark := s.Found[tp].Mark; mark != nil {
				p.Mark = string(mark.State)
			}
			side.Partitions[tp] = p
			side.Lag += p.Lag
		}
		g.Sides[c] = side
	}
}

func leased(leases []control.Lease, c starferry.ClusterName, member string) bool {
	return slices.ContainsFunc(leases, func(l control.Lease) bool {
		return slices.ContainsFunc(l.Memberships, func(m control.Membership) bool { return m.Cluster == c && m.Member == member })
	})
}

// lags is the lag on each cluster that has commits, the home first.
func (g groupView) lags() string {
	var parts []string
	for _, c := range g.clusters() {
		switch s := g.Sides[c]; {
		case s.Error != "":
			parts = append(parts, string(c)+" ?")
		case len(s.Partitions) > 0:
			parts = append(parts, fmt.Sprintf("%s %d", c, s.Lag))
		}
	}
	if len(parts) == 0 {
		return fmt.Sprint(g.Lag)
	}
	return strings.Join(parts, ", ")
}

// clusters are those that know the group, its home first.
func (g groupView) clusters() []starferry.ClusterName {
	return slices.SortedFunc(maps.Keys(g.Sides), func(a, b starferry.ClusterName) int {
		if (a == g.Home) != (b == g.Home) {
			return map[bool]int{true: -1, false: 1}[a == g.Home]
		}
		return cmp.Compare(a, b)
	})
}

// showSides prints the group as its coordinators see it, and the members that
// no lease speaks for.
func showSides(w io.Writer, g groupView) {
	var rows, strangers [][]string
	for _, c := range g.clusters() {
		s := g.Sides[c]
		if s.Error != "" {
			rows = append(rows, []string{string(c), "cannot be read: " + s.Error, "-", "-", "-"})
			continue
		}
		state := s.State
		if s.Fenced {
			state = "fenced by an agent"
		}
		marks := map[string]int{}
		for _, p := range s.Partitions {
			marks[or(p.Mark, "of another client")]++
		}
		var said []string
		for _, m := range slices.Sorted(maps.Keys(marks)) {
			said = append(said, fmt.Sprintf("%d %s", marks[m], m))
		}
		rows = append(rows, []string{string(c), state, fmt.Sprint(len(s.Members)), or(strings.Join(said, ", "), "none"), fmt.Sprint(s.Lag)})
		for _, m := range s.Members {
			if what := m.stranger(); what != "" && !s.Fenced {
				strangers = append(strangers, []string{m.ID, string(c), m.Client, m.Host, what})
			} else if s.Fenced {
				strangers = append(strangers, []string{m.ID, string(c), m.Client, m.Host, "holds the fence"})
			}
		}
	}
	if len(rows) > 0 {
		fmt.Fprintln(w, "\n"+scripting.Table(scripting.Width, []string{"cluster", "group there", "members", "commits", "lag"}, rows))
	}
	if len(strangers) > 0 {
		fmt.Fprintln(w, "\n"+scripting.Table(scripting.Width, []string{"member", "cluster", "client id", "host", "which"}, strangers))
	}
}

func (m memberView) stranger() string {
	switch {
	case m.Lease:
		return ""
	case m.Instance != "":
		return "is an instance without a lease: frozen, or cut off from NATS"
	}
	return "does not use the library, or not with this NATS"
}

// switchUnderWay is what an open switch waits for, if the run that made it is
// still carried out; "" if no switch is open.
func (g groupView) switchUnderWay(ctx context.Context, client *api.Client, p *control.Placement) string {
	if p == nil || !p.Open() && p.Phase != control.Announce {
		return ""
	}
	text := fmt.Sprintf("switch to %s open: %s for %s, asked by %s", p.Target, p.Phase, time.Since(time.UnixMilli(p.At)).Round(100*time.Millisecond), or(p.By, "-"))
	rest, ok := strings.CutPrefix(p.Why, "run ")
	run, _, _ := strings.Cut(rest, ",")
	if !ok {
		return text
	}
	text += " in run " + run
	if e := underWay(ctx, client, run); e != nil {
		text += "\n  " + e.Text
	}
	return text
}
