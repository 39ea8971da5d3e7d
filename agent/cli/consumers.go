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
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
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
			_, nc, err := c.connect()
			if err != nil {
				return err
			}
			defer nc.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), lookWithin)
			defer cancel()
			store, err := desired.Open(ctx, nc, desired.Options{})
			if err != nil {
				return err
			}
			views, err := viewGroups(ctx, store, args)
			if err != nil {
				return err
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

func viewGroups(ctx context.Context, store *desired.Store, only []string) ([]groupView, error) {
	names := []starferry.Group{}
	for _, g := range only {
		names = append(names, starferry.Group(g))
	}
	if len(only) == 0 {
		wanted, err := store.Groups(ctx)
		if err != nil {
			return nil, err
		}
		live, err := store.LiveGroups(ctx)
		if err != nil {
			return nil, err
		}
		names = append(wanted, live...)
		slices.Sort(names)
		names = slices.Compact(names)
	}
	views := []groupView{}
	for _, g := range names {
		v, err := viewGroup(ctx, store, g)
		if err != nil {
			return nil, err
		}
		if len(only) > 0 && len(v.Instances) == 0 && v.Phase == "" {
			return nil, fmt.Errorf("look at group %s: no instance of it is known: does its service use the consumer library, with the same NATS?", g)
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
		v.Home, v.Phase, v.Epoch = p.Active, p.Phase, p.Epoch
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
			strconv.Itoa(len(v.Instances)), fmt.Sprint(v.Lag), rate(v.Throttle), strconv.Itoa(len(v.Skips)),
		})
	}
	return table(w, []string{"group", "home", "phase", "epoch", "instances", "lag", "throttle", "skips"}, rows)
}

func showGroup(w io.Writer, v groupView) error {
	if err := showGroups(w, []groupView{v}); err != nil {
		return err
	}
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
			members = append(members, fmt.Sprintf("%s:%d %s", m.Cluster, m.Generation, state))
		}
		instances = append(instances, []string{
			string(l.Instance), fmt.Sprintf("%s/%d", l.Host, l.PID), string(l.Home), strings.Join(members, ", "),
			now.Sub(time.UnixMilli(l.At)).Round(100 * time.Millisecond).String(), or(l.Refusal, "-"),
		})
		for _, p := range l.Partitions {
			blocked := "-"
			if p.Blocked != nil {
				blocked = fmt.Sprintf("at %d", *p.Blocked)
			}
			partitions = append(partitions, []string{
				p.Partition.String(), string(p.Cluster), string(l.Instance), fmt.Sprint(p.Committed), fmt.Sprint(p.End),
				fmt.Sprint(max(0, p.End-p.Committed)), strconv.Itoa(p.InFlight), blocked,
			})
		}
	}
	if err := table(w, []string{"instance", "process", "home", "memberships", "seen", "refuses"}, instances); err != nil {
		return err
	}
	fmt.Fprintln(w)
	byPartition(partitions)
	if err := table(w, []string{"partition", "cluster", "instance", "committed", "end", "lag", "in flight", "blocked"}, partitions); err != nil {
		return err
	}
	return showRepeats(w, v.Instances)
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
	return table(w, []string{"handled twice?", "cluster", "from", "to", "why"}, rows)
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
