package fleet

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// Listed is one group as a census finds it.
type Listed struct {
	Group starferry.Group
	Home  starferry.ClusterName
	// Topics are those its instances subscribe to; without instances those its
	// members subscribe to or it has commits for.
	Topics []starferry.Topic
	// Labels are what its instances say of themselves; where they differ, what
	// the first of them says.
	Labels    map[string]string
	Instances int // that use the library; 0: nobody tells
}

// censusReads is how many groups without instances are read at once.
const censusReads = 16

// Census lists the groups that live on a cluster and whose names fit a pattern
// (see control.Match), in order. Groups with instances are told by one read of
// their leases, so that hundreds cost no more than one; the others are asked for
// one by one, and those nobody can place are left out.
func (f *Fleet) Census(ctx context.Context, c starferry.ClusterName, pattern string) ([]Listed, error) {
	w, err := f.cluster(c)
	if err != nil {
		return nil, err
	}
	known, err := w.Groups(ctx)
	if err != nil {
		return nil, fmt.Errorf("list groups of %s: %w", c, err)
	}
	leases, err := f.c.Store.AllLeases(ctx)
	if err != nil {
		return nil, fmt.Errorf("list groups of %s: %w", c, err)
	}
	found := map[starferry.Group]Listed{}
	for g, ls := range leases {
		if l := fromLeases(g, ls); l.Home == c && control.Match(pattern, string(g)) {
			found[g] = l
		}
	}
	ones := make([]*Listed, len(known))
	var eg errgroup.Group
	eg.SetLimit(censusReads)
	for i, k := range known {
		if _, told := found[k.Group]; told || !control.Match(pattern, string(k.Group)) || homed(leases[k.Group]) || k.ProtocolType != "consumer" && k.ProtocolType != "" {
			continue
		}
		eg.Go(func() (err error) {
			ones[i], err = f.one(ctx, c, k.Group)
			return err
		})
	}
	if err := eg.Wait(); err != nil {
		return nil, fmt.Errorf("list groups of %s: %w", c, err)
	}
	for _, l := range ones {
		if l != nil {
			found[l.Group] = *l
		}
	}
	out := make([]Listed, 0, len(found))
	for _, g := range slices.Sorted(maps.Keys(found)) {
		out = append(out, found[g])
	}
	return out, nil
}

// homed reports whether the leases tell where their group lives.
func homed(ls []control.Lease) bool {
	return slices.ContainsFunc(ls, func(l control.Lease) bool { return l.Home != "" })
}

func fromLeases(g starferry.Group, ls []control.Lease) Listed {
	out := Listed{Group: g, Instances: len(ls), Labels: map[string]string{}}
	topics := map[starferry.Topic]bool{}
	var epoch starferry.Epoch = -1
	for _, l := range ls {
		if l.Home != "" && l.HomeEpoch > epoch { // the newest word counts
			out.Home, epoch = l.Home, l.HomeEpoch
		}
		for _, t := range l.Topics {
			topics[t] = true
		}
		for k, v := range l.Labels {
			if _, said := out.Labels[k]; !said {
				out.Labels[k] = v
			}
		}
	}
	out.Topics = slices.Sorted(maps.Keys(topics))
	return out
}

// one reads a group that no lease tells of; nil if it does not live there.
func (f *Fleet) one(ctx context.Context, c starferry.ClusterName, g starferry.Group) (*Listed, error) {
	v, err := f.Group(ctx, g)
	if err != nil || v.Home.Cluster != c {
		return nil, err
	}
	w, err := f.cluster(c)
	if err != nil {
		return nil, err
	}
	d, err := w.DescribeGroup(ctx, g)
	if err != nil {
		return nil, err
	}
	topics := map[starferry.Topic]bool{}
	for _, m := range d.Members {
		for _, t := range m.Topics {
			topics[t] = true
		}
	}
	for tp := range v.On[c].Committed {
		topics[tp.Topic] = true
	}
	if len(topics) == 0 {
		return nil, nil
	}
	return &Listed{Group: g, Home: c, Topics: slices.Sorted(maps.Keys(topics)), Labels: map[string]string{}}, nil
}
