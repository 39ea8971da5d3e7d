package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/internal/wire"
)

// RewindOrder gives partitions of a running group other places, back or ahead.
type RewindOrder struct {
	Group  starferry.Group
	Places map[starferry.TopicPartition]starferry.Offset // on the group's home
	// Within bounds it: after that the order is void, wherever it has come to; 0
	// means a minute.
	Within  time.Duration
	By, Why string
	Token   string
}

// RewindReceipt says what a rewind did.
type RewindReceipt struct {
	Receipt
	Cluster starferry.ClusterName
	Before  map[starferry.TopicPartition]starferry.Offset // where the group stood
	After   map[starferry.TopicPartition]starferry.Offset
}

// rewound is what the audit trail keeps of a rewind for programs.
type rewound struct {
	Cluster starferry.ClusterName                         `json:"cluster"`
	Before  map[starferry.TopicPartition]starferry.Offset `json:"before"`
	After   map[starferry.TopicPartition]starferry.Offset `json:"after"`
}

// Rewind takes partitions to other places. They are held, their owners commit
// the places under their own membership, Kafka is read back, and only then they
// go on: whatever fails on the way, each stands either where it stood or where
// it was to stand, and what is handled twice is what lies between.
func (f *Fleet) Rewind(ctx context.Context, o RewindOrder) (RewindReceipt, error) {
	fail := func(err error) (RewindReceipt, error) {
		return RewindReceipt{}, fmt.Errorf("rewind %s: %w", o.Group, err)
	}
	if o.Within <= 0 {
		o.Within = time.Minute
	}
	if done, err := f.rewindOf(ctx, o); err != nil || done != nil {
		if err != nil {
			return fail(err)
		}
		return *done, nil
	}
	r, event, err := f.beginRewind(ctx, o)
	if r.ID == "" {
		return fail(err)
	}
	if err == nil {
		err = f.arrived(ctx, o, r)
	}
	event.What, event.When = "rewound", f.c.Now().UnixMilli()
	if err != nil {
		event.What, event.Detail = "rewind failed", err.Error()
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), ackLimit)
	defer cancel()
	last, lerr := f.change(late, event, func(v *control.Settings) bool {
		n := len(v.Rewinds)
		v.Rewinds = slices.DeleteFunc(v.Rewinds, func(x control.Rewind) bool { return x.ID == r.ID })
		return len(v.Rewinds) != n
	})
	if err = errors.Join(err, lerr); err != nil {
		return fail(err)
	}
	r.Revision, r.Instances = last.Revision, last.Instances
	return r, nil
}

// rewindOf finds a rewind of the same token that has been carried out.
func (f *Fleet) rewindOf(ctx context.Context, o RewindOrder) (*RewindReceipt, error) {
	if o.Token == "" {
		return nil, nil
	}
	events, err := f.c.Store.AuditLog(ctx, desired.AuditFilter{Group: o.Group})
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		if e.Token != o.Token || e.What != "rewound" {
			continue
		}
		var was rewound
		if err := json.Unmarshal(e.Data, &was); err != nil {
			return nil, fmt.Errorf("audit event %d: %w", e.Sequence, err)
		}
		return &RewindReceipt{Receipt{Group: o.Group, ID: "rewind-" + o.Token}, was.Cluster, was.Before, was.After}, nil
	}
	return nil, nil
}

// beginRewind checks the places and sets the order.
func (f *Fleet) beginRewind(ctx context.Context, o RewindOrder) (r RewindReceipt, event desired.Event, err error) {
	h, err := f.Home(ctx, o.Group)
	if err != nil {
		return r, event, err
	}
	if h.Phase != control.Steady {
		return r, event, fmt.Errorf("a switch is open (%s, epoch %d) and positions belong to it; wait until it has ended", h.Phase, h.Epoch)
	}
	if err := f.noOverflow(ctx, o.Group); err != nil {
		return r, event, err
	}
	epoch, err := f.liveEpoch(ctx, o.Group, h.Cluster)
	if err != nil {
		return r, event, err
	}
	if r.Before, err = f.placesBefore(ctx, h.Cluster, o); err != nil {
		return r, event, err
	}
	r.Cluster, r.After = h.Cluster, o.Places
	id := "rewind-" + token(o.Token)
	event = desired.Event{Group: o.Group, What: "rewind", Who: o.By, Why: o.Why, Token: o.Token, Detail: rewindText(id, r)}
	event.Data, _ = json.Marshal(rewound{r.Cluster, r.Before, r.After}) // plain data: it cannot fail
	r.Receipt, err = f.change(ctx, event, func(v *control.Settings) bool {
		now := f.c.Now()
		v.Rewinds = slices.DeleteFunc(v.Rewinds, func(x control.Rewind) bool { return x.ID == id || x.Until <= now.UnixMilli() })
		v.Rewinds = append(v.Rewinds, control.Rewind{ID: id, Cluster: h.Cluster, Epoch: epoch, Places: o.Places,
			Until: now.Add(o.Within).UnixMilli(), By: o.By, Why: o.Why, At: now.UnixMilli()})
		return true
	})
	r.ID = id // from here on there is something to take back
	return r, event, err
}

// liveEpoch is the epoch at which the instances live on the home. Those that do
// not say the same are not ready for an order.
func (f *Fleet) liveEpoch(ctx context.Context, g starferry.Group, home starferry.ClusterName) (starferry.Epoch, error) {
	leases, err := f.c.Store.Leases(ctx, g)
	if err != nil {
		return 0, err
	}
	if len(leases) == 0 {
		return 0, errors.New("no instance of it is alive to carry it out; start the service, or, while nothing runs, set the offsets with Kafka's own tools")
	}
	for _, l := range leases {
		if l.Home != home || l.HomeEpoch != leases[0].HomeEpoch {
			return 0, fmt.Errorf("instance %s says it lives on %s at epoch %d, and %s on %s at epoch %d; wait until they agree",
				l.Instance, l.Home, l.HomeEpoch, leases[0].Instance, leases[0].Home, leases[0].HomeEpoch)
		}
	}
	return leases[0].HomeEpoch, nil
}

// placesBefore is where the group stands. Places that are not in the log are
// refused: instances would stand still there.
func (f *Fleet) placesBefore(ctx context.Context, c starferry.ClusterName, o RewindOrder) (map[starferry.TopicPartition]starferry.Offset, error) {
	if len(o.Places) == 0 {
		return nil, errors.New("no partition is named")
	}
	w, err := f.cluster(c)
	if err != nil {
		return nil, err
	}
	found, err := f.found(ctx, c, o.Group)
	if err != nil {
		return nil, err
	}
	tps := slices.Collect(maps.Keys(o.Places))
	starts, err := w.Offsets(ctx, tps, wire.Earliest)
	if err != nil {
		return nil, err
	}
	ends, err := w.Offsets(ctx, tps, wire.Latest)
	if err != nil {
		return nil, err
	}
	before := map[starferry.TopicPartition]starferry.Offset{}
	for tp, to := range o.Places {
		if to < starts[tp] || to > ends[tp] {
			return nil, fmt.Errorf("%s on %s begins at %d and ends at %d; %d is not in it", tp, c, starts[tp], ends[tp], to)
		}
		x, ok := found[tp]
		if !ok {
			return nil, fmt.Errorf("%s has no commit of %s on %s: does the group read it?", o.Group, tp, c)
		}
		before[tp] = x.Offset
	}
	return before, nil
}

// arrived waits until every partition stands, and is committed, at its place.
func (f *Fleet) arrived(ctx context.Context, o RewindOrder, r RewindReceipt) error {
	ctx, cancel := context.WithTimeout(ctx, o.Within)
	defer cancel()
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for {
		away, err := f.away(ctx, o, r)
		if err == nil && len(away) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			if err != nil {
				return err
			}
			return fmt.Errorf("after %v not yet there: %s; a handler that ignores the end of its context holds its partition back", o.Within, strings.Join(away, ", "))
		case <-look.C:
		}
	}
}

// away names the partitions that are not at their place.
func (f *Fleet) away(ctx context.Context, o RewindOrder, r RewindReceipt) ([]string, error) {
	found, err := f.found(ctx, r.Cluster, o.Group)
	if err != nil {
		return nil, err
	}
	leases, err := f.c.Store.Leases(ctx, o.Group)
	if err != nil {
		return nil, err
	}
	stands := map[starferry.TopicPartition]bool{}
	for _, l := range leases {
		for _, p := range l.Partitions {
			stands[p.Partition] = stands[p.Partition] || p.Rewound == r.ID && p.Cluster == r.Cluster
		}
	}
	var away []string
	for tp, to := range o.Places {
		switch {
		case !stands[tp]:
			away = append(away, tp.String()+" (no instance stands there)")
		case found[tp].Offset != to:
			away = append(away, fmt.Sprintf("%s (committed at %d)", tp, found[tp].Offset))
		}
	}
	slices.Sort(away)
	return away, nil
}

// rewindRows is how many partitions a rewind names in the audit trail's text.
const rewindRows = 8

func rewindText(id string, r RewindReceipt) string {
	var parts []string
	for tp, to := range r.After {
		parts = append(parts, fmt.Sprintf("%s from %d to %d", tp, r.Before[tp], to))
	}
	slices.Sort(parts)
	if n := len(parts); n > rewindRows {
		parts = append(parts[:rewindRows], fmt.Sprintf("and %d more partitions", n-rewindRows))
	}
	return fmt.Sprintf("on %s: %s, as %s", r.Cluster, strings.Join(parts, ", "), id)
}
