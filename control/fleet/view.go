package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/switchover"
	"github.com/starferry/starferry/internal/wire"
)

// View is how a group stands.
type View struct {
	Group     starferry.Group
	Home      Home               // Cluster is empty if nobody can tell
	Placement *control.Placement // nil: none is stored
	Revision  uint64
	Settings  control.Settings
	// SettingsRevision is theirs; 0 if nothing was ever set.
	SettingsRevision uint64
	Leases           []control.Lease
	On               map[starferry.ClusterName]Side
}

// Side is how a group stands on one cluster.
type Side struct {
	Group     switchover.GroupSeen
	Committed starferry.Cut
	Found     switchover.Found
	// Lag is how many records lie between the commit and the end, for
	// partitions with a commit.
	Lag map[starferry.TopicPartition]int64
	Err string // why the cluster could not be read
}

// library reports whether members of the group there use the library.
func (s Side) library() bool {
	return slices.ContainsFunc(s.Group.Members, func(m switchover.MemberSeen) bool { return m.Library })
}

// Fenced reports whether a group is held by an agent's fence.
func Fenced(g switchover.GroupSeen) bool { return fencing(g) }

// Groups lists the groups that have desired state or live instances, in order.
func (f *Fleet) Groups(ctx context.Context) ([]starferry.Group, error) {
	stored, err := f.c.Store.Groups(ctx)
	if err != nil {
		return nil, err
	}
	live, err := f.c.Store.LiveGroups(ctx)
	if err != nil {
		return nil, err
	}
	all := append(stored, live...)
	slices.Sort(all)
	return slices.Compact(all), nil
}

// Group shows how a group stands everywhere. A cluster that cannot be read is
// shown as such; NATS that cannot be read is an error.
func (f *Fleet) Group(ctx context.Context, g starferry.Group) (View, error) {
	v := View{Group: g}
	p, rev, err := f.c.Store.Placement(ctx, g)
	switch {
	case err == nil:
		v.Placement, v.Revision = &p, rev
	case !errors.Is(err, desired.ErrNotFound):
		return v, fmt.Errorf("view group %s: %w", g, err)
	}
	if v.Settings, v.SettingsRevision, err = f.Settings(ctx, g); err != nil {
		return v, fmt.Errorf("view group %s: %w", g, err)
	}
	if v.Leases, err = f.c.Store.Leases(ctx, g); err != nil {
		return v, fmt.Errorf("view group %s: %w", g, err)
	}
	v.On = f.sides(ctx, func(ctx context.Context, c starferry.ClusterName) (Side, error) { return f.readSide(ctx, c, g) })
	v.Home = v.home()
	return v, nil
}

// sides reads a group on all clusters at the same time.
func (f *Fleet) sides(ctx context.Context, read func(context.Context, starferry.ClusterName) (Side, error)) map[starferry.ClusterName]Side {
	on := map[starferry.ClusterName]Side{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, c := range f.names() {
		wg.Go(func() {
			s, err := read(ctx, c)
			if err != nil {
				s.Err = err.Error()
			}
			mu.Lock()
			defer mu.Unlock()
			on[c] = s
		})
	}
	wg.Wait()
	return on
}

// readSide reads a group on one cluster, and how far it is behind there.
func (f *Fleet) readSide(ctx context.Context, c starferry.ClusterName, g starferry.Group) (Side, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	s, err := f.standing(ctx, c, g)
	if err != nil || len(s.Committed) == 0 {
		return s, err
	}
	w, err := f.cluster(c)
	if err != nil {
		return s, err
	}
	ends, err := w.Offsets(ctx, s.Committed.Partitions(), wire.Latest)
	s.Lag = map[starferry.TopicPartition]int64{}
	for tp, end := range ends {
		s.Lag[tp] = max(0, int64(end-s.Committed[tp].Next))
	}
	return s, err
}

// standing is who is in a group on one cluster, and what its commits say.
func (f *Fleet) standing(ctx context.Context, c starferry.ClusterName, g starferry.Group) (s Side, err error) {
	if s.Group, err = f.describe(ctx, c, g); err != nil {
		return s, err
	}
	if s.Found, err = f.found(ctx, c, g); err != nil {
		return s, err
	}
	s.Committed = starferry.Cut{}
	for tp, x := range s.Found {
		p := starferry.Place{Next: x.Offset}
		if x.Mark != nil {
			p.Handled = x.Mark.Handled
		}
		s.Committed[tp] = p
	}
	return s, nil
}

// members describes a group on all clusters.
func (f *Fleet) members(ctx context.Context, g starferry.Group) map[starferry.ClusterName]membersOf {
	all := map[starferry.ClusterName]membersOf{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, c := range f.names() {
		wg.Go(func() {
			seen, err := f.describe(ctx, c, g)
			mu.Lock()
			defer mu.Unlock()
			all[c] = membersOf{seen, err}
		})
	}
	wg.Wait()
	return all
}

// home concludes from what was read: Kafka's marks, then the placement, then
// what the instances say, then the one cluster that knows the group.
func (v View) home() Home {
	h := Home{Group: v.Group, Phase: control.Steady}
	commits := map[starferry.ClusterName]switchover.Found{}
	var knows []starferry.ClusterName
	for c, s := range v.On {
		commits[c] = s.Found
		if len(s.Found) > 0 || len(s.Group.Members) > 0 {
			knows = append(knows, c)
		}
	}
	h.Cluster, h.Epoch, _ = switchover.Truth(commits)
	if p := v.Placement; p != nil {
		h.Phase = p.Phase
		if h.Cluster == "" {
			h.Cluster, h.Epoch = p.Active, p.Epoch
		}
		if h.Cluster == p.Active && !p.Open() {
			h.Epoch, h.Token = max(h.Epoch, p.Epoch), p.Token
		}
	}
	for _, l := range v.Leases {
		if h.Cluster == "" {
			h.Cluster, h.Epoch = l.Home, l.HomeEpoch
		}
	}
	if h.Cluster == "" && len(knows) == 1 {
		h.Cluster = knows[0]
	}
	return h
}

// failed names the clusters that could not be read, and why; empty if all were.
func (v View) failed() string {
	var parts []string
	for c, s := range v.On {
		if s.Err != "" {
			parts = append(parts, fmt.Sprintf("%s cannot be read (%s)", c, s.Err))
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// unknown says why nobody can tell where the group lives.
func (v View) unknown() string {
	var parts []string
	for c, s := range v.On {
		switch {
		case s.Err != "":
			parts = append(parts, fmt.Sprintf("%s cannot be read (%s)", c, s.Err))
		case len(s.Found) == 0 && len(s.Group.Members) > 0:
			parts = append(parts, fmt.Sprintf("%s has %d members of it and no offset", c, len(s.Group.Members)))
		case len(s.Found) == 0:
			parts = append(parts, fmt.Sprintf("%s knows no offset of it", c))
		default:
			parts = append(parts, fmt.Sprintf("%s has %d offsets without a mark", c, len(s.Found)))
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}
