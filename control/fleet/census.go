package fleet

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

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
	// Unknown, if not empty, is why the group could not be read: it may live on
	// the cluster or not. Nothing else is known of it then.
	Unknown string
}

const (
	// censusReads is how many groups are read at once.
	censusReads = 16
	// A census reads what does not answer again and again: for so long, and so
	// much longer for each group that is asked for one by one.
	censusPatience = 15 * time.Second
	censusPerGroup = 60 * time.Millisecond
	censusPause    = 300 * time.Millisecond
)

// Census lists the groups that live on a cluster and whose names fit a pattern
// (see control.Match), in order. Groups with instances are told by one read of
// their leases, so that hundreds cost no more than one; the others are asked for
// one by one. What does not answer is asked again, more patiently each time and
// for longer the more groups there are; what cannot be read then is listed as
// unknown. Groups that no cluster has anything of are left out.
func (f *Fleet) Census(ctx context.Context, c starferry.ClusterName, pattern string) ([]Listed, error) {
	if _, err := f.cluster(c); err != nil {
		return nil, err
	}
	x := &census{f: f, cluster: c, pattern: pattern, began: f.c.Now(), told: map[starferry.Group]*Listed{}}
	for round := 1; ; round++ {
		err := x.look(ctx, time.Duration(round)*readTimeout)
		switch over := f.c.Now().Sub(x.began) > x.patience(); {
		case ctx.Err() != nil:
			return nil, fmt.Errorf("list groups of %s: %w", c, context.Cause(ctx))
		case err == nil && len(x.left) == 0, err == nil && over:
			return x.list(), nil
		case over:
			return nil, fmt.Errorf("list groups of %s: %w", c, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(censusPause):
		}
	}
}

// census is one under way.
type census struct {
	f       *Fleet
	cluster starferry.ClusterName
	pattern string
	began   time.Time

	told map[starferry.Group]*Listed // nil: it does not live there
	left map[starferry.Group]string  // not told yet, and why
	most int                         // groups that were asked for one by one
}

func (x *census) patience() time.Duration {
	return censusPatience + time.Duration(x.most)*censusPerGroup
}

// look goes once through all groups that are not told yet. An error is of what
// concerns them all.
func (x *census) look(ctx context.Context, within time.Duration) error {
	common, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	w, err := x.f.cluster(x.cluster)
	if err != nil {
		return err
	}
	known, err := w.Groups(common)
	if err != nil {
		return err
	}
	leases, garbled, err := x.f.c.Store.AllLeases(common)
	if err != nil {
		return err
	}
	placements, bad, err := x.f.c.Store.AllPlacements(common)
	if err != nil {
		return err
	}
	x.left = map[starferry.Group]string{}
	for g, why := range garbled {
		if control.Match(x.pattern, string(g)) {
			x.left[g] = why.Error()
		}
	}
	for g, ls := range leases {
		if _, wrong := x.left[g]; !wrong && homed(ls) && control.Match(x.pattern, string(g)) {
			x.told[g] = fromLeases(g, ls)
		}
	}
	var open []View
	for _, k := range known {
		_, told := x.told[k.Group]
		_, wrong := x.left[k.Group]
		if told || wrong || !control.Match(x.pattern, string(k.Group)) || k.ProtocolType != "consumer" && k.ProtocolType != "" {
			continue
		}
		if why := bad[k.Group]; why != nil {
			x.left[k.Group] = why.Error()
			continue
		}
		v := View{Group: k.Group, Leases: leases[k.Group]}
		if p, ok := placements[k.Group]; ok {
			v.Placement = &p
		}
		open = append(open, v)
	}
	x.most = max(x.most, len(open))
	x.each(ctx, open, within)
	return nil
}

// each reads groups that no lease tells of and keeps what it finds.
func (x *census) each(ctx context.Context, open []View, within time.Duration) {
	var eg errgroup.Group
	eg.SetLimit(censusReads)
	var mu sync.Mutex
	for _, v := range open {
		eg.Go(func() error {
			l, err := x.read(ctx, v, within)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				x.left[v.Group] = err.Error()
			} else {
				x.told[v.Group] = l
			}
			return nil // what goes wrong with one is kept beside the others
		})
	}
	_ = eg.Wait()
}

// read asks the clusters about a group; nil if it does not live there.
func (x *census) read(ctx context.Context, v View, within time.Duration) (*Listed, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	v.On = x.f.sides(ctx, func(ctx context.Context, c starferry.ClusterName) (Side, error) { return x.f.standing(ctx, c, v.Group) })
	v.Home = v.home()
	here := v.On[x.cluster]
	switch {
	case here.Err != "":
		return nil, fmt.Errorf("read it on %s: %s", x.cluster, here.Err)
	case v.Home.Cluster == "" && v.failed() != "" && len(here.Found)+len(here.Group.Members) > 0:
		return nil, fmt.Errorf("where it lives cannot be told: %s", v.failed())
	case v.Home.Cluster != x.cluster:
		return nil, nil
	}
	// Instances whose leases have run out for a moment, since NATS or they are
	// slow, are back soon, and with them their labels; a group that rebalances
	// tells nothing of its members. Services without NATS have no leases.
	members := len(here.Group.Members)
	rebalances := members > 0 && here.Group.State != "Stable"
	if len(v.Leases) == 0 && (here.library() || rebalances) && x.f.c.Now().Sub(x.began) < x.f.c.Store.LeaseTTL() {
		return nil, fmt.Errorf("none of its %d members has a lease, and the group is in state %s", members, here.Group.State)
	}
	return x.f.withoutLeases(ctx, x.cluster, v)
}

// withoutLeases lists a group by its members and commits on the cluster where it
// lives; nil if there are neither.
func (f *Fleet) withoutLeases(ctx context.Context, c starferry.ClusterName, v View) (*Listed, error) {
	w, err := f.cluster(c)
	if err != nil {
		return nil, err
	}
	d, err := w.AnyGroup(ctx, v.Group)
	if err != nil {
		return nil, err
	}
	topics := map[starferry.Topic]bool{}
	for _, m := range d.Members {
		for _, t := range m.Topics {
			topics[t] = true
		}
	}
	for tp := range v.On[c].Found {
		topics[tp.Topic] = true
	}
	if len(topics) == 0 {
		return nil, nil
	}
	return &Listed{Group: v.Group, Home: c, Topics: slices.Sorted(maps.Keys(topics)), Labels: map[string]string{}}, nil
}

// list is what the census found, in order.
func (x *census) list() []Listed {
	for g, why := range x.left {
		x.told[g] = &Listed{Group: g, Unknown: why}
	}
	out := make([]Listed, 0, len(x.told))
	for _, g := range slices.Sorted(maps.Keys(x.told)) {
		if l := x.told[g]; l != nil && (l.Home == x.cluster || l.Unknown != "") {
			out = append(out, *l)
		}
	}
	return out
}

// homed reports whether the leases tell where their group lives.
func homed(ls []control.Lease) bool {
	return slices.ContainsFunc(ls, func(l control.Lease) bool { return l.Home != "" })
}

func fromLeases(g starferry.Group, ls []control.Lease) *Listed {
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
	return &out
}
