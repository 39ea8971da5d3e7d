package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent/world"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/fleet"
	"github.com/starferry/starferry/scripting"
)

// whereView is what bears a name, and where it is.
type whereView struct {
	Name  string      `json:"name"`
	Group *whereGroup `json:"group,omitempty"`
	Topic *whereTopic `json:"topic,omitempty"`
}

// whereGroup is where a group lives, why, and where its instances are.
type whereGroup struct {
	Home  starferry.ClusterName `json:"home"` // empty: nobody can tell
	Why   string                `json:"why"`
	Epoch starferry.Epoch       `json:"epoch"`
	Phase control.Phase         `json:"phase"`
	// Since is when it came there, Unix milliseconds; 0: it has never been moved,
	// or the audit trail does not tell.
	Since int64  `json:"since,omitempty"`
	By    string `json:"by,omitempty"` // who moved it
	// Instances are those that live on each cluster; empty for those that live
	// nowhere yet.
	Instances map[starferry.ClusterName][]starferry.InstanceID `json:"instances"`
	Sides     map[starferry.ClusterName]sideView               `json:"sides"`
}

// whereTopic is where a topic lives, and where its copies are.
type whereTopic struct {
	Home   starferry.ClusterName                     `json:"home"`
	Why    string                                    `json:"why"`
	On     map[starferry.ClusterName]int             `json:"on"` // partitions
	Failed map[starferry.ClusterName]string          `json:"failed,omitempty"`
	Copies []copyView                                `json:"copies"`
	Groups map[starferry.Group]starferry.ClusterName `json:"groups"` // that read it, with their homes
}

// copyView is one link that copies a topic, from it or to it.
type copyView struct {
	Link   starferry.LinkName    `json:"link"`
	Source starferry.ClusterName `json:"source"`
	From   starferry.Topic       `json:"from"`
	Target starferry.ClusterName `json:"target"`
	To     starferry.Topic       `json:"to"`
	State  string                `json:"state"`
	Lag    int64                 `json:"lag"`
}

func (c *cli) whereCommand() *cobra.Command {
	var json bool
	cmd := &cobra.Command{
		Use: "where GROUP|TOPIC", GroupID: "look", Short: "which cluster a group or topic lives on, since when, and where its copies are",
		Long: `Where tells on which cluster a group lives and by what: its commits, the desired
state, its instances, or, if it has never been moved, the rules; and on which
cluster each instance really works. Of a topic it tells the home, the clusters
that have it, the links that copy it and the groups that read it.`,
		Example: "  starferry where billing\n  starferry where orders --json", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), lookWithin)
			defer cancel()
			see, err := c.look(ctx)
			if err != nil {
				return err
			}
			defer see.Close()
			v, err := see.where(ctx, args[0], c.log(slog.LevelError))
			if err != nil {
				return err
			}
			if json {
				return asJSON(c.Out, v)
			}
			return v.show(c.Out)
		},
	}
	cmd.Flags().BoolVar(&json, "json", false, "print everything as JSON")
	return cmd
}

func (s *sight) where(ctx context.Context, name string, log *slog.Logger) (whereView, error) {
	v := whereView{Name: name}
	stored, _, err := s.store.Homes(ctx)
	if err != nil {
		return v, err
	}
	homes := s.cfg.Homes.With(stored)
	leases, _, err := s.store.AllLeases(ctx)
	if err != nil {
		return v, err
	}
	if v.Group, err = s.whereGroup(ctx, starferry.Group(name), homes); err != nil {
		return v, err
	}
	if v.Topic, err = s.whereTopic(ctx, starferry.Topic(name), homes, leases, log); err != nil {
		return v, err
	}
	if v.Group != nil && v.Topic != nil && v.Topic.nothing() {
		v.Topic = nil // a cluster that does not answer has said enough about the group
	}
	if v.Group == nil && v.Topic == nil {
		return v, &scripting.UsageError{Text: fmt.Sprintf("nothing is known of %q: no cluster of the configuration has a group or topic of that name, and no map speaks of it", name)}
	}
	return v, nil
}

// whereGroup looks at a group; nil if nobody knows it.
func (s *sight) whereGroup(ctx context.Context, g starferry.Group, homes control.Homes) (*whereGroup, error) {
	seen, err := s.fleet.Group(ctx, g)
	if err != nil {
		return nil, err
	}
	view := groupView{Group: g, Instances: seen.Leases, placement: seen.Placement}
	view.take(seen)
	if seen.Placement != nil {
		view.Phase = seen.Placement.Phase
	}
	if view.unknown() {
		return nil, nil
	}
	out := &whereGroup{Home: seen.Home.Cluster, Epoch: seen.Home.Epoch, Phase: seen.Home.Phase, Sides: view.Sides,
		Instances: map[starferry.ClusterName][]starferry.InstanceID{}}
	topics, labels := map[starferry.Topic]bool{}, map[string]string{}
	for _, l := range seen.Leases {
		out.Instances[l.Home] = append(out.Instances[l.Home], l.Instance)
		for _, t := range l.Topics {
			topics[t] = true
		}
		maps.Copy(labels, l.Labels)
	}
	if out.Why = whyHome(seen); out.Home == "" {
		if out.Home, out.Why, err = homes.OfGroup(g, slices.Sorted(maps.Keys(topics)), labels); err != nil {
			out.Why = err.Error()
		}
	}
	events, err := s.store.AuditLog(ctx, desired.AuditFilter{Group: g})
	if err != nil {
		return nil, err
	}
	stories, err := fleet.Stories(events)
	if err != nil {
		return nil, err
	}
	for _, st := range slices.Backward(stories) {
		if st.Failure == nil {
			if st.Target == out.Home {
				out.Since, out.By = st.Ended, st.By
			}
			break
		}
	}
	return out, nil
}

// whyHome tells what says where a group lives, the strongest first.
func whyHome(v fleet.View) string {
	for _, at := range v.On[v.Home.Cluster].Found {
		if at.Mark != nil {
			return "its commits say so"
		}
	}
	switch {
	case v.Home.Cluster == "":
		return ""
	case v.Placement != nil && v.Placement.Active == v.Home.Cluster:
		return "the desired state says so"
	case slices.ContainsFunc(v.Leases, func(l control.Lease) bool { return l.Home == v.Home.Cluster }):
		return "its instances say so"
	case len(v.On[v.Home.Cluster].Found)+len(v.On[v.Home.Cluster].Group.Members) > 0:
		return "no other cluster knows it"
	}
	return "another cluster says that it has moved there"
}

// whereTopic looks at a topic; nil if nobody knows it.
func (s *sight) whereTopic(ctx context.Context, t starferry.Topic, homes control.Homes, leases map[starferry.Group][]control.Lease, log *slog.Logger) (*whereTopic, error) {
	out := &whereTopic{On: map[starferry.ClusterName]int{}, Failed: map[starferry.ClusterName]string{}, Groups: map[starferry.Group]starferry.ClusterName{}, Copies: []copyView{}}
	clusters := world.NewClusters(s.cfg)
	defer func() { _ = clusters.Close() }() // nothing was written
	for _, name := range s.cfg.Names() {
		if err := s.partitionsOf(ctx, clusters, name, t, out); err != nil {
			out.Failed[name] = err.Error()
		}
	}
	if err := s.copiesOf(ctx, t, out, log); err != nil {
		return nil, err
	}
	for g, ls := range leases {
		for _, l := range ls {
			if slices.Contains(l.Topics, t) {
				out.Groups[g] = cmp.Or(out.Groups[g], l.Home)
			}
		}
	}
	said, why := homes.OfTopic(t)
	_, imported := homes.Topics[t]
	if out.nothing() && len(out.Failed) == 0 && !imported {
		return nil, nil // a rule for the rest speaks of everything
	}
	out.Home, out.Why = said, why
	if said == "" {
		out.Home, out.Why = out.follows()
	}
	return out, nil
}

func (s *sight) partitionsOf(ctx context.Context, clusters *world.Clusters, name starferry.ClusterName, t starferry.Topic, out *whereTopic) error {
	w, err := clusters.Wire(name)
	if err != nil {
		return err
	}
	meta, err := w.Metadata(ctx, t)
	if err != nil {
		return err
	}
	if m, ok := meta.Topics[t]; ok && m.Err == nil {
		out.On[name] = len(m.Partitions)
	}
	return nil
}

// copiesOf lists the links that copy a topic, or write it.
func (s *sight) copiesOf(ctx context.Context, t starferry.Topic, out *whereTopic, log *slog.Logger) error {
	links := world.NewLinks(s.cfg, s.nc, log)
	defer func() { _ = links.Close() }() // nothing was written
	all, err := links.Statuses(ctx, nil)
	if err != nil {
		return err
	}
	for _, l := range all {
		lags, copied := map[starferry.Topic]int64{}, map[starferry.Topic]bool{}
		for _, topic := range l.Spec.Topics {
			copied[topic] = true
		}
		for _, lane := range l.Lanes {
			copied[lane.Partition.Topic] = true
			lags[lane.Partition.Topic] += max(0, lane.Lag)
		}
		for _, from := range slices.Sorted(maps.Keys(copied)) {
			if to := l.Spec.TargetOf(from); from == t || to == t {
				state, _ := l.State()
				out.Copies = append(out.Copies, copyView{l.Spec.Name, l.Spec.Source, from, l.Spec.Target, to, string(state), lags[from]})
			}
		}
	}
	return nil
}

// nothing reports whether nobody said that there is such a topic.
func (t *whereTopic) nothing() bool { return len(t.On)+len(t.Copies)+len(t.Groups) == 0 }

// follows is the home that follows from what was found; empty if several would.
func (t *whereTopic) follows() (starferry.ClusterName, string) {
	sources := map[starferry.ClusterName]starferry.LinkName{}
	for _, l := range t.Copies {
		sources[l.Source] = l.Link
	}
	for c, link := range sources {
		if len(sources) == 1 {
			return c, fmt.Sprintf("link %s copies it from there", link)
		}
	}
	for c := range t.On {
		if len(t.On) == 1 && len(t.Failed) == 0 {
			return c, "no other cluster has it"
		}
	}
	return "", "no rule says it; see starferry homes"
}

func (v whereView) show(w io.Writer) error {
	if v.Group != nil {
		v.Group.show(w, v.Name)
	}
	if v.Group != nil && v.Topic != nil {
		fmt.Fprintln(w)
	}
	if v.Topic != nil {
		v.Topic.show(w, v.Name)
	}
	return nil
}

func (g *whereGroup) show(w io.Writer, name string) {
	fmt.Fprintf(w, "group %s lives on %s: %s\n", name, or(string(g.Home), "no cluster that anybody could name"), or(g.Why, "nothing is known"))
	if g.Since > 0 {
		fmt.Fprintf(w, "  since %s, epoch %d, moved by %s\n", time.UnixMilli(g.Since).Local().Format(time.DateTime), g.Epoch, or(g.By, "-"))
	}
	if g.Phase != "" && g.Phase != control.Steady {
		fmt.Fprintf(w, "  a switch is under way: %s; see starferry consumers %s\n", g.Phase, name)
	}
	for _, c := range slices.Sorted(maps.Keys(g.Instances)) {
		note := ""
		switch {
		case c == "":
			note = ", which live nowhere yet"
		case c != g.Home:
			note = ", which is not its home"
		}
		fmt.Fprintf(w, "  %d instances on %s%s: %s\n", len(g.Instances[c]), or(string(c), "-"), note, shortList(textsOf(g.Instances[c])))
	}
	var rows [][]string
	for _, c := range slices.Sorted(maps.Keys(g.Sides)) {
		s := g.Sides[c]
		state := s.State
		if s.Fenced {
			state = "fenced"
		}
		rows = append(rows, []string{string(c), or(s.Error, state), fmt.Sprint(len(s.Members)), fmt.Sprint(len(s.Partitions)), fmt.Sprint(s.Lag)})
	}
	fmt.Fprintln(w, "\n"+scripting.Table(scripting.Width, []string{"on", "group is", "members", "commits", "lag"}, rows))
}

// shortList names a few.
func shortList(names []string) string {
	const most = 5
	if n := len(names) - most; n > 0 {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(", and %d more", n)
	}
	return strings.Join(names, ", ")
}

func (t *whereTopic) show(w io.Writer, name string) {
	fmt.Fprintf(w, "topic %s lives on %s: %s\n", name, or(string(t.Home), "no cluster that anybody could name"), t.Why)
	for _, c := range slices.Sorted(maps.Keys(t.On)) {
		fmt.Fprintf(w, "  %s has it with %d partitions\n", c, t.On[c])
	}
	for _, c := range slices.Sorted(maps.Keys(t.Failed)) {
		fmt.Fprintf(w, "  %s cannot be asked: %s\n", c, t.Failed[c])
	}
	if len(t.Groups) > 0 {
		var names []string
		for _, g := range slices.Sorted(maps.Keys(t.Groups)) {
			names = append(names, fmt.Sprintf("%s (on %s)", g, or(string(t.Groups[g]), "-")))
		}
		fmt.Fprintf(w, "  read by %s\n", shortList(names))
	}
	var rows [][]string
	for _, l := range t.Copies {
		rows = append(rows, []string{string(l.Link), fmt.Sprintf("%s on %s", l.From, l.Source), fmt.Sprintf("%s on %s", l.To, l.Target), l.State, fmt.Sprint(l.Lag)})
	}
	if len(rows) > 0 {
		fmt.Fprintln(w, "\n"+scripting.Table(scripting.Width, []string{"link", "copies", "to", "state", "lag"}, rows))
	}
}
