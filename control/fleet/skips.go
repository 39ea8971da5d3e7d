package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
)

// carrySkips gives the target cluster the skips of the source that lie beyond
// the cut. A skip is a cluster's own: without this the skipped records would be
// handed out after the switch. It may run twice.
func (s *run) carrySkips(ctx context.Context, cut starferry.Cut) error {
	store := s.f.c.Store
	for range 5 {
		v, rev, err := store.Settings(ctx, s.o.Group)
		if errors.Is(err, desired.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		moved, err := s.translateSkips(ctx, v.Skips, cut)
		if err != nil {
			return err
		}
		for _, sk := range moved {
			if sk.Keep == "" {
				continue
			}
			if err := s.f.ensureKeep(ctx, sk.Cluster, sk.Keep, sk.Partition.Topic); err != nil {
				return err
			}
		}
		changed := false
		for _, sk := range moved {
			i := slices.IndexFunc(v.Skips, func(x control.Skip) bool { return x.ID == sk.ID })
			switch {
			case i < 0:
				v.Skips, changed = append(v.Skips, sk), true
			case v.Skips[i].Range != sk.Range:
				v.Skips[i], changed = sk, true
			}
		}
		if !changed {
			return nil
		}
		v.By, v.Why, v.At = s.o.By, "skips carried over by the switch", s.f.c.Now().UnixMilli()
		if _, err = store.PutSettings(ctx, v, rev); !errors.Is(err, desired.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("the settings of %s change all the time", s.o.Group)
}

func (s *run) translateSkips(ctx context.Context, skips []control.Skip, cut starferry.Cut) ([]control.Skip, error) {
	var moved []control.Skip
	for _, sk := range skips {
		place, ok := cut[sk.Partition]
		if sk.Cluster != s.o.Source || !ok || sk.Range.To <= place.Next {
			continue // elsewhere, or passed already
		}
		from, err := s.translateOne(ctx, sk, max(sk.Range.From, place.Next))
		if err != nil {
			return nil, err
		}
		to, err := s.translateOne(ctx, sk, sk.Range.To)
		if err != nil {
			return nil, err
		}
		id := strings.TrimSuffix(sk.ID, "@"+string(s.o.Source)) + "@" + string(s.o.Target)
		sk.Cluster, sk.At = s.o.Target, s.f.c.Now().UnixMilli()
		for i, r := range beyond(from, to) {
			if sk.ID, sk.Range = id, r; i > 0 {
				sk.ID = fmt.Sprintf("%s.%d", id, i+1)
			}
			moved = append(moved, sk)
		}
	}
	return moved, nil
}

// beyond lists what b says is handled and a does not: the records between two
// positions, which lie apart where the target has records of its own.
func beyond(a, b starferry.Place) []starferry.Range {
	var out []starferry.Range
	covered := append([]starferry.Range{{To: a.Next}}, a.Handled...)
	for _, r := range append([]starferry.Range{{To: b.Next}}, b.Handled...) {
		for _, c := range covered {
			if c.To <= r.From || r.From >= r.To {
				continue
			}
			if c.From > r.From {
				out = append(out, starferry.Range{From: r.From, To: min(r.To, c.From)})
			}
			r.From = min(r.To, c.To)
		}
		if r.From < r.To {
			out = append(out, r)
		}
	}
	return out
}

func (s *run) translateOne(ctx context.Context, sk control.Skip, o starferry.Offset) (starferry.Place, error) {
	t, err := s.f.c.Copies.Translate(ctx, s.o.Link, s.dir, starferry.Cut{sk.Partition: {Next: o}}, 0)
	if err != nil {
		return starferry.Place{}, err
	}
	if n := t.Behind[sk.Partition]; n > 0 {
		return starferry.Place{}, fmt.Errorf("skip %s of %s [%d, %d) reaches %d records beyond the copy; wait for it, or shorten the skip", sk.ID, sk.Partition, sk.Range.From, sk.Range.To, n)
	}
	place, ok := t.Cut[sk.Partition]
	if why := t.Missing[sk.Partition]; why != "" || !ok {
		return starferry.Place{}, fmt.Errorf("skip %s of %s [%d, %d) has no place on %s: %s; take it back with unskip, or make it end at a record that is copied",
			sk.ID, sk.Partition, sk.Range.From, sk.Range.To, s.o.Target, why)
	}
	return place, nil
}
