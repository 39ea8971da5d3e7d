package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/internal/records"
)

// What NATS forgets of a redistribution its topic still says: whose it is by its
// name, and of which partition by each of its records.

// lookEvery is how often agents look for redistributions that the settings have
// lost. To look is to list all topics of a cluster.
const lookEvery = time.Minute

// auditRecalled is the audit trail's word for one that was found.
const auditRecalled = "redistribute found again"

// KeepOverflows looks for redistributions that the settings have lost, now and
// from time to time until ctx ends, and takes them to their end. Any number of
// agents may do so.
func (f *Fleet) KeepOverflows(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if err := f.lookForOverflows(ctx); err != nil && ctx.Err() == nil {
			f.log.Warn("cannot look for redistributed backlogs that the settings have lost", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (f *Fleet) lookForOverflows(ctx context.Context) error {
	leases, _, err := f.c.Store.AllLeases(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range f.names() {
		w, err := f.cluster(c)
		if err != nil {
			return err
		}
		names, err := w.TopicNames(ctx)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		names = slices.DeleteFunc(names, func(t starferry.Topic) bool { return !strings.Contains(string(t), ".overflow-") })
		for g, ls := range leases {
			if len(names) == 0 || !slices.ContainsFunc(ls, func(l control.Lease) bool { return l.Home == c }) {
				continue
			}
			o := RedistributeOrder{Group: g, By: "starferry agent", Why: "the settings had lost it"}
			if is, err := f.recallOf(ctx, o, c, names); err != nil {
				errs = append(errs, err)
			} else if is != nil {
				_, err := f.followOverflow(ctx, o, *is)
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// recallOverflow finds a redistribution on a group's home of which the settings
// know nothing, though records of it are there, and puts it back into them: what
// was moved is handled, and no more is moved. Nil: there is none.
func (f *Fleet) recallOverflow(ctx context.Context, o RedistributeOrder, home starferry.ClusterName) (*control.Overflow, error) {
	w, err := f.cluster(home)
	if err != nil {
		return nil, err
	}
	names, err := w.TopicNames(ctx)
	if err != nil {
		return nil, err
	}
	return f.recallOf(ctx, o, home, names)
}

func (f *Fleet) recallOf(ctx context.Context, o RedistributeOrder, home starferry.ClusterName, names []starferry.Topic) (*control.Overflow, error) {
	for _, t := range names {
		id := control.OverflowOf(o.Group, t)
		if id == "" {
			continue
		}
		from, found, err := f.spilledFrom(ctx, home, t)
		if err != nil {
			return nil, fmt.Errorf("look into %s on %s for a backlog of %s that the settings have lost: %w", t, home, o.Group, err)
		}
		if !found {
			continue
		}
		is := &control.Overflow{ID: id, Cluster: home, Partition: from, Topic: t, Order: control.KeyOrder, Phase: control.OverflowMove,
			By: o.By, Why: o.Why, Token: token(""), At: f.c.Now().UnixMilli()}
		f.log.Warn("the settings have lost a redistribution; what was moved is handled now", "group", o.Group, "partition", from, "topic", t)
		event := desired.Event{Group: o.Group, What: auditRecalled, Who: o.By, Why: o.Why, Token: is.Token, Detail: fmt.Sprintf("%s by %s", from, t)}
		known := false
		_, err = f.change(ctx, event, func(v *control.Settings) bool {
			if known = v.Overflow != nil; !known {
				v.Overflow = is
			}
			return !known
		})
		if known { // somebody else has found it, or has begun another
			return nil, err
		}
		return is, err
	}
	return nil, nil
}

// spilledFrom reads from which partition the records of an overflow topic are;
// false if there is none.
func (f *Fleet) spilledFrom(ctx context.Context, c starferry.ClusterName, t starferry.Topic) (from starferry.TopicPartition, found bool, err error) {
	w, err := f.cluster(c)
	if err != nil {
		return from, false, err
	}
	md, err := w.Metadata(ctx, t)
	if err != nil {
		return from, false, err
	}
	for _, p := range md.Topics[t].Partitions {
		err := f.scan(ctx, c, starferry.TopicPartition{Topic: t, Partition: p.Partition}, 0, 0, func(rs []records.Record) (bool, error) {
			for _, r := range rs {
				if n := len(r.Headers); n > 0 && r.Headers[n-1].Key == control.OverflowHeader {
					origin, _, _ := strings.Cut(string(r.Headers[n-1].Value), " ")
					if at, err := starferry.ParsePosition(origin); err == nil {
						from, found = at.TopicPartition, true
					}
				}
			}
			return !found, nil
		})
		if found || err != nil && !errors.Is(err, kafka.UnknownTopicOrPartition) {
			return from, found, err
		}
	}
	return from, false, nil
}
