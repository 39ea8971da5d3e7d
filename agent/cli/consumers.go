package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent/api"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/scripting"
)

const lookWithin = 15 * time.Second

// groupView is one group as the consumers command shows it.
type groupView struct {
	Group     starferry.Group       `json:"group"`
	Home      starferry.ClusterName `json:"home"`
	Phase     control.Phase         `json:"phase"`
	Epoch     starferry.Epoch       `json:"epoch"`
	Lag       int64                 `json:"lag"`
	Throttle  float64               `json:"throttle"` // records per second; 0: none
	Skips     []control.Skip        `json:"skips,omitempty"`
	Instances []control.Lease       `json:"instances"`
	// Sides is how the group stands on each cluster; empty if Kafka was not asked.
	Sides map[starferry.ClusterName]sideView `json:"sides,omitempty"`
	// Switch is the switch under way, in words.
	Switch string `json:"switch,omitempty"`
	Error  string `json:"error,omitempty"` // why the clusters could not be asked

	placement *control.Placement
}

func (c *cli) consumersCommand() *cobra.Command {
	var json bool
	cmd := &cobra.Command{
		Use: "consumers [GROUP]", GroupID: "look", Short: "groups and their instances: where they live, how far they are",
		Long: `Consumers lists the groups whose instances use the consumer library and can be
reached over NATS; with a group, its instances and partitions.`,
		Example: "  starferry consumers\n  starferry consumers orders",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), lookWithin)
			defer cancel()
			see, err := c.look(ctx)
			if err != nil {
				return err
			}
			defer see.Close()
			views, err := viewGroups(ctx, see, args)
			if err != nil {
				return err
			}
			addSides(ctx, see.fleet, views)
			if len(args) == 1 && views[0].unknown() {
				return fmt.Errorf("look at group %s: no instance of it is known, and no cluster of the configuration has it: is that its name?", args[0])
			}
			for i, v := range views {
				views[i].Switch = v.switchUnderWay(ctx, &api.Client{Conn: see.nc, Operator: see.cfg.NATS.Operator}, v.placement)
			}
			switch {
			case json:
				return asJSON(c.Out, views)
			case len(args) == 1:
				return showGroup(c.Out, views[0])
			}
			return showGroups(c.Out, views)
		},
	}
	cmd.Flags().BoolVar(&json, "json", false, "print everything as JSON")
	return cmd
}

func viewGroups(ctx context.Context, see *sight, only []string) ([]groupView, error) {
	names := []starferry.Group{}
	for _, g := range only {
		names = append(names, starferry.Group(g))
	}
	if len(only) == 0 {
		var err error
		if names, err = see.fleet.Groups(ctx); err != nil {
			return nil, err
		}
	}
	views := []groupView{}
	for _, g := range names {
		v, err := viewGroup(ctx, see.store, g)
		if err != nil {
			return nil, err
		}
		views = append(views, v)
	}
	return views, nil
}

func viewGroup(ctx context.Context, store *desired.Store, g starferry.Group) (groupView, error) {
	v := groupView{Group: g}
	p, _, err := store.Placement(ctx, g)
	switch {
	case err == nil:
		v.Home, v.Phase, v.Epoch, v.placement = p.Active, p.Phase, p.Epoch, &p
	case !errors.Is(err, desired.ErrNotFound):
		return v, err
	}
	s, _, err := store.Settings(ctx, g)
	if err == nil {
		v.Skips = s.Skips
		if s.Throttle != nil {
			v.Throttle = s.Throttle.Rate
		}
	} else if !errors.Is(err, desired.ErrNotFound) {
		return v, err
	}
	if v.Instances, err = store.Leases(ctx, g); err != nil {
		return v, err
	}
	homes := map[starferry.ClusterName]bool{}
	for _, l := range v.Instances {
		homes[l.Home] = true
		v.Epoch = max(v.Epoch, l.HomeEpoch)
		for _, ps := range l.Partitions {
			v.Lag += max(0, int64(ps.End-ps.Committed))
		}
	}
	if v.Home == "" {
		v.Home = starferry.ClusterName(strings.Join(textsOf(slices.Sorted(maps.Keys(homes))), ","))
	}
	return v, nil
}

func textsOf[T ~string](in []T) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = string(s)
	}
	return out
}

func showGroups(w io.Writer, views []groupView) error {
	if len(views) == 0 {
		_, err := fmt.Fprintln(w, "No groups: no instance of the consumer library is connected to this NATS.")
		return err
	}
	var rows [][]string
	for _, v := range views {
		rows = append(rows, []string{
			string(v.Group), string(v.Home), or(string(v.Phase), "steady"), fmt.Sprint(v.Epoch),
			strconv.Itoa(len(v.Instances)), v.lags(), rate(v.Throttle), strconv.Itoa(len(v.Skips)),
		})
	}
	_, err := fmt.Fprintln(w, scripting.Table(scripting.Width, []string{"group", "home", "phase", "epoch", "instances", "lag", "throttle", "skips"}, rows))
	for _, v := range views {
		if v.Error != "" {
			fmt.Fprintf(w, "%s: %s\n", v.Group, v.Error)
		}
	}
	return err
}

func showGroup(w io.Writer, v groupView) error {
	if err := showGroups(w, []groupView{v}); err != nil {
		return err
	}
	if v.Switch != "" {
		fmt.Fprintln(w, "\n"+v.Switch)
	}
	showSides(w, v)
	fmt.Fprintln(w)
	var instances, partitions [][]string
	now := time.Now()
	for _, l := range v.Instances {
		var members []string
		for _, m := range l.Memberships {
			state := "good"
			if !m.Good {
				state = "joining"
			}
			if m.Cluster != l.Home && l.Home != "" {
				state = strings.TrimSpace("standby " + strings.TrimPrefix(state, "good"))
			}
			members = append(members, fmt.Sprintf("%s:%d %s", m.Cluster, m.Generation, state))
		}
		instances = append(instances, []string{
			string(l.Instance), fmt.Sprintf("%s/%d", l.Host, l.PID), string(l.Home), strings.Join(members, ", "),
			now.Sub(time.UnixMilli(l.At)).Round(100 * time.Millisecond).String(), or(l.Refusal, "-"),
		})
		for _, p := range l.Partitions {
			blocked := "-"
			if p.Blocked != nil {
				if blocked = fmt.Sprint(*p.Blocked); p.BlockedSince > 0 {
					blocked += " for " + now.Sub(time.UnixMilli(p.BlockedSince)).Round(100*time.Millisecond).String()
				}
			}
			partitions = append(partitions, []string{
				p.Partition.String(), string(p.Cluster), string(l.Instance), fmt.Sprint(p.Position), fmt.Sprint(p.Committed), fmt.Sprint(p.End),
				v.lagsOf(p), strconv.Itoa(p.InFlight), blocked,
			})
		}
	}
	fmt.Fprintln(w, scripting.Table(scripting.Width, []string{"instance", "process", "home", "memberships", "seen", "refuses"}, instances))
	fmt.Fprintln(w)
	byPartition(partitions)
	fmt.Fprintln(w, scripting.Table(scripting.Width, []string{"partition", "cluster", "instance", "next", "committed", "end", "lag", "busy", "blocked"}, partitions))
	return showRepeats(w, v.Instances)
}

// unknown reports whether nothing at all is known of the group. A cluster that
// cannot be read may know it.
func (g groupView) unknown() bool {
	if len(g.Instances) > 0 || g.Phase != "" || g.Error != "" {
		return false
	}
	for _, s := range g.Sides {
		if s.Error != "" || len(s.Members) > 0 || len(s.Partitions) > 0 {
			return false
		}
	}
	return true
}

// lagsOf is a partition's lag where it is read, and on the other clusters that
// have a commit of it.
func (g groupView) lagsOf(p control.PartitionState) string {
	text := fmt.Sprint(max(0, p.End-p.Committed))
	for _, c := range g.clusters() {
		if at, ok := g.Sides[c].Partitions[p.Partition]; ok && c != p.Cluster {
			text += fmt.Sprintf(", %s %d", c, at.Lag)
		}
	}
	return text
}

// showRepeats lists what instances that died may have handled before the
// survivors did, if there is any.
func showRepeats(w io.Writer, instances []control.Lease) error {
	var rows [][]string
	for _, l := range instances {
		for _, r := range l.Repeats {
			rows = append(rows, []string{r.Partition.String(), string(r.Cluster), fmt.Sprint(r.Range.From), fmt.Sprint(r.Range.To - 1), r.Reason})
		}
	}
	if len(rows) == 0 {
		return nil
	}
	byPartition(rows)
	fmt.Fprintln(w)
	_, err := fmt.Fprintln(w, scripting.Table(scripting.Width, []string{"handled twice?", "cluster", "from", "to", "why"}, rows))
	return err
}

// byPartition sorts rows that begin with a partition.
func byPartition(rows [][]string) {
	slices.SortStableFunc(rows, func(a, b []string) int {
		x, _ := starferry.ParseTopicPartition(a[0])
		y, _ := starferry.ParseTopicPartition(b[0])
		return x.Compare(y)
	})
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func rate(r float64) string {
	if r == 0 {
		return "-"
	}
	return strconv.FormatFloat(r, 'f', -1, 64) + "/s"
}
