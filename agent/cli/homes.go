package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/scripting"
)

func (c *cli) homesCommand() *cobra.Command {
	var json bool
	cmd := &cobra.Command{
		Use: "homes", GroupID: "look", Short: "where groups and topics live that have never been moved",
		Long: `Homes shows what is said of groups and topics that have never been moved: the map
that was imported, and after it the rules of the configuration, the first that
fits. A group that has commits lives where they say; see starferry where.`,
		Example: "  starferry homes\n  starferry homes import homes.yaml", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), lookWithin)
			defer cancel()
			see, err := c.look(ctx)
			if err != nil {
				return err
			}
			defer see.Close()
			stored, _, err := see.store.Homes(ctx)
			if err != nil {
				return err
			}
			if json {
				return asJSON(c.Out, see.cfg.Homes.With(stored))
			}
			return showHomes(c.Out, stored, see.cfg.Homes)
		},
	}
	cmd.Flags().BoolVar(&json, "json", false, "print everything as JSON, in the form that services take")
	cmd.AddCommand(c.importHomesCommand())
	return cmd
}

func showHomes(w io.Writer, stored, configured control.Homes) error {
	var rows [][]string
	for _, t := range slices.Sorted(maps.Keys(stored.Topics)) {
		rows = append(rows, []string{"topic " + string(t), string(stored.Topics[t]), "imported"})
	}
	for i, r := range configured.Rules {
		rows = append(rows, []string{r.String(), string(r.Cluster), fmt.Sprintf("rule %d of the configuration", i+1)})
	}
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, "Nothing is said: neither the configuration nor an imported map tells where things live.")
		return err
	}
	if len(stored.Topics) > 0 {
		fmt.Fprintf(w, "imported by %s, %s\n\n", or(stored.By, "-"), time.UnixMilli(stored.At).Local().Format(time.DateTime))
	}
	_, err := fmt.Fprintln(w, scripting.Table(scripting.Width, []string{"what", "lives on", "by"}, rows))
	return err
}

func (c *cli) importHomesCommand() *cobra.Command {
	var auto, replace bool
	cmd := &cobra.Command{
		Use: "import FILE", Short: "say where topics live, by a plain map of topic to cluster",
		Long: `Import reads a map of topic to cluster, YAML or JSON, such as "orders: dc1", and
stores it for all services, which read it when they start. It shows what would
change and, on a terminal, asks. Topics that the file does not name stay as they
are, unless --replace is given. It moves nobody: a group that has commits lives
where they say, until a script moves it.`,
		Example: "  starferry homes import homes.yaml\n  starferry homes import homes.json --replace -y", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.importHomes(cmd.Context(), args[0], replace, auto)
		},
	}
	cmd.Flags().BoolVarP(&auto, "auto-approve", "y", false, "do not ask")
	cmd.Flags().BoolVar(&replace, "replace", false, "forget topics that the file does not name")
	return cmd
}

func (c *cli) importHomes(ctx context.Context, file string, replace, auto bool) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return &scripting.UsageError{Text: fmt.Sprintf("homes import %s: %v: give a file that can be read", file, errors.Unwrap(err))}
	}
	asked, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	see, err := c.look(asked)
	if err != nil {
		return err
	}
	defer see.Close()
	wanted, err := see.cfg.ParseHomeMap(file, text)
	if err != nil {
		return err
	}
	stored, revision, err := see.store.Homes(asked)
	if err != nil {
		return err
	}
	next := stored
	if next.Topics = wanted; !replace {
		next.Topics = maps.Clone(stored.Topics)
		if next.Topics == nil {
			next.Topics = map[starferry.Topic]starferry.ClusterName{}
		}
		maps.Copy(next.Topics, wanted)
	}
	leases, _, err := see.store.AllLeases(asked)
	if err != nil {
		return err
	}
	rows := homesChanges(see.cfg.Homes.With(stored), see.cfg.Homes.With(next), stored, next, leases)
	if len(rows) == 0 {
		_, err := fmt.Fprintf(c.Out, "Nothing changes: %d topics are stored as %s says.\n", len(next.Topics), file)
		return err
	}
	fmt.Fprintln(c.Out, scripting.Table(scripting.Width, []string{"topic", "now", "then", "groups that read it"}, rows))
	if !auto && terminal(c.In) {
		fmt.Fprint(c.Err, "\nStore this? [y/N] ")
		if !c.yes(ctx) {
			fmt.Fprintln(c.Err, "Nothing was done.")
			return &exitError{scripting.ExitError}
		}
	}
	next.By, next.At = c.by(), time.Now().UnixMilli()
	written, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	if _, err := see.store.PutHomes(written, next, revision); err != nil {
		if errors.Is(err, desired.ErrConflict) {
			return fmt.Errorf("%w; look again: starferry homes import %s", err, file)
		}
		return err
	}
	_, err = fmt.Fprintf(c.Out, "\n%d of %d topics changed; services hear of it when they start\n", len(rows), len(next.Topics))
	return err
}

// homesChanges are the topics whose entry changes: what is said of each now and
// then, and which groups live elsewhere.
func homesChanges(now, then control.Homes, stored, next control.Homes, leases map[starferry.Group][]control.Lease) [][]string {
	all := map[starferry.Topic]bool{}
	for t := range stored.Topics {
		all[t] = true
	}
	for t := range next.Topics {
		all[t] = true
	}
	said := func(h control.Homes, t starferry.Topic) (starferry.ClusterName, string) {
		home, why := h.OfTopic(t)
		if home == "" {
			return "", "-"
		}
		return home, fmt.Sprintf("%s (%s)", home, why)
	}
	var rows [][]string
	for _, t := range slices.Sorted(maps.Keys(all)) {
		if stored.Topics[t] == next.Topics[t] {
			continue
		}
		_, was := said(now, t)
		home, will := said(then, t)
		rows = append(rows, []string{string(t), was, will, elsewhere(t, home, leases)})
	}
	return rows
}

// elsewhere names the groups that read a topic, and where they live if that is
// not what is said of the topic.
func elsewhere(t starferry.Topic, home starferry.ClusterName, leases map[starferry.Group][]control.Lease) string {
	var parts []string
	for _, g := range slices.Sorted(maps.Keys(leases)) {
		for _, l := range leases[g] {
			if !slices.Contains(l.Topics, t) {
				continue
			}
			text := string(g)
			if l.Home != "" && l.Home != home {
				text += fmt.Sprintf(" lives on %s and stays there", l.Home)
			}
			parts = append(parts, text)
			break
		}
	}
	return or(strings.Join(parts, ", "), "-")
}
