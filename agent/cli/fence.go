package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/fleet"
	"github.com/starferry/starferry/scripting"
)

// fenceWithin is how long a group may take to become empty, or its fence to go.
const fenceWithin = 2 * time.Minute

// fenceView is one fence that ought to stand.
type fenceView struct {
	Group   starferry.Group       `json:"group"`
	Cluster starferry.ClusterName `json:"cluster"`
	Stands  bool                  `json:"stands"`
	State   string                `json:"state"` // in words
	By      string                `json:"by,omitempty"`
	Why     string                `json:"why,omitempty"`
	At      int64                 `json:"at"` // Unix milliseconds
}

func (c *cli) fenceCommand() *cobra.Command {
	var json bool
	var cluster, why string
	cmd := &cobra.Command{
		Use: "fence [GROUP --cluster CLUSTER]", GroupID: "look", Short: "keep everybody out of a group where it does not live; list the fences",
		Long: `Fence has the agents keep everybody out of a group on a cluster that it has left,
and returns when the fence stands. The group has to be empty there; an agent has
to run. Alone it lists the fences that ought to stand, and which do.`,
		Example: "  starferry fence\n  starferry fence billing --cluster old\n  starferry fence lift billing --cluster old", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && cluster == "" {
				return c.listFences(cmd.Context(), json)
			}
			if len(args) == 0 || cluster == "" {
				return &scripting.UsageError{Text: "fence: name the group and the cluster that it has left, such as: starferry fence billing --cluster old"}
			}
			g, on := starferry.Group(args[0]), starferry.ClusterName(cluster)
			return c.fencing(cmd.Context(), func(ctx context.Context, f *fleet.Fleet) (string, error) {
				return fmt.Sprintf("group %s is fenced on %s; let clients in again with: starferry fence lift %s --cluster %s", g, on, g, on), f.RaiseFence(ctx, g, on, c.by(), why)
			})
		},
	}
	cmd.Flags().BoolVar(&json, "json", false, "print the list as JSON")
	fenceFlags(cmd, &cluster, &why)
	cmd.AddCommand(c.liftFenceCommand())
	return cmd
}

func fenceFlags(cmd *cobra.Command, cluster, why *string) {
	cmd.Flags().StringVar(cluster, "cluster", "", "the `CLUSTER` that the group has left")
	cmd.Flags().StringVar(why, "reason", "", "why, for the audit trail")
}

func (c *cli) liftFenceCommand() *cobra.Command {
	var cluster, why string
	cmd := &cobra.Command{
		Use: "lift GROUP --cluster CLUSTER", Short: "let clients into a group again",
		Long:    "Lift takes a fence away and returns when clients may come. One that does not stand\nis no error.",
		Example: "  starferry fence lift billing --cluster old", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			g, on := starferry.Group(args[0]), starferry.ClusterName(cluster)
			if on == "" {
				return &scripting.UsageError{Text: "fence lift: name the cluster, such as: starferry fence lift billing --cluster old"}
			}
			return c.fencing(cmd.Context(), func(ctx context.Context, f *fleet.Fleet) (string, error) {
				return fmt.Sprintf("clients may come into group %s on %s", g, on), f.LiftFence(ctx, g, on, c.by(), why)
			})
		},
	}
	fenceFlags(cmd, &cluster, &why)
	return cmd
}

// fencing does something about a fence and says what came of it.
func (c *cli) fencing(ctx context.Context, do func(context.Context, *fleet.Fleet) (string, error)) error {
	ctx, cancel := context.WithTimeout(ctx, fenceWithin)
	defer cancel()
	see, err := c.look(ctx)
	if err != nil {
		return err
	}
	defer see.Close()
	text, err := do(ctx, see.fleet)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.Out, text)
	return err
}

func (c *cli) listFences(ctx context.Context, json bool) error {
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	see, err := c.look(ctx)
	if err != nil {
		return err
	}
	defer see.Close()
	all, err := see.fences(ctx)
	if err != nil {
		return err
	}
	if json {
		return asJSON(c.Out, all)
	}
	if len(all) == 0 {
		_, err := fmt.Fprintln(c.Out, "No fences are asked for.")
		return err
	}
	var rows [][]string
	for _, v := range all {
		rows = append(rows, []string{string(v.Group), string(v.Cluster), v.State, time.UnixMilli(v.At).Local().Format(time.DateTime), or(v.By, "-"), or(v.Why, "-")})
	}
	_, err = fmt.Fprintln(c.Out, scripting.Table(scripting.Width, []string{"group", "on", "stands", "asked for", "by", "why"}, rows))
	return err
}

// fences lists those that ought to stand, and looks whether they do.
func (s *sight) fences(ctx context.Context) ([]fenceView, error) {
	wanted, err := s.store.AllFences(ctx)
	if err != nil {
		return nil, err
	}
	all := []fenceView{}
	for _, w := range wanted {
		if len(w.On) == 0 {
			continue
		}
		v, err := s.fleet.Group(ctx, w.Group)
		if err != nil {
			return nil, err
		}
		for on, f := range w.On {
			x := fenceView{Group: w.Group, Cluster: on, By: f.By, Why: f.Why, At: f.At}
			switch side := v.On[on]; {
			case side.Err != "":
				x.State = "cannot be read: " + side.Err
			case fleet.Fenced(side.Group):
				x.Stands, x.State = true, "yes"
			case f.From > time.Now().UnixMilli():
				x.State = "not before " + time.UnixMilli(f.From).Local().Format(time.DateTime)
			case len(side.Group.Members) > 0:
				x.State = fmt.Sprintf("no: it has %d members there", len(side.Group.Members))
			default:
				x.State = "no: no agent holds it"
			}
			all = append(all, x)
		}
	}
	slices.SortFunc(all, func(a, b fenceView) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Cluster, b.Cluster))
	})
	return all, nil
}
