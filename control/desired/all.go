package desired

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// AllLeases reads the leases of all live instances of all groups at once, in
// order of their ids. A group with a lease that cannot be read is in bad, with
// the reason, beside what can be read of it.
func (s *Store) AllLeases(ctx context.Context) (leases map[starferry.Group][]control.Lease, bad map[starferry.Group]error, err error) {
	leases = map[starferry.Group][]control.Lease{}
	bad, err = everything(ctx, s, s.live, "*.*", func(_ starferry.Group, l control.Lease) {
		leases[l.Group] = append(leases[l.Group], l)
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read all leases: %w", err)
	}
	for _, ls := range leases {
		slices.SortFunc(ls, func(a, b control.Lease) int { return strings.Compare(string(a.Instance), string(b.Instance)) })
	}
	return leases, bad, nil
}

// AllPlacements reads the placements of all groups at once. A group whose
// placement cannot be read is in bad, with the reason.
func (s *Store) AllPlacements(ctx context.Context) (placements map[starferry.Group]control.Placement, bad map[starferry.Group]error, err error) {
	placements = map[starferry.Group]control.Placement{}
	bad, err = everything(ctx, s, s.desired, "*."+placementToken, func(g starferry.Group, p control.Placement) { placements[g] = p })
	if err != nil {
		return nil, nil, fmt.Errorf("read all placements: %w", err)
	}
	return placements, bad, nil
}

// everything reads all values of one kind and hands them out with their groups.
func everything[T any](ctx context.Context, s *Store, b *bucket, filter string, hand func(starferry.Group, T)) (bad map[starferry.Group]error, err error) {
	all, err := s.list(ctx, b, filter)
	if err != nil {
		return nil, err
	}
	bad = map[starferry.Group]error{}
	for key, e := range all {
		token, _, _ := strings.Cut(key, ".")
		name, err := DecodeKey(token)
		if err != nil {
			return nil, fmt.Errorf("%w; the key was not written by starferry", err)
		}
		var v T
		if err := decode(b.cfg.Bucket, key, e.value, &v); err != nil {
			bad[starferry.Group(name)] = err
			continue
		}
		hand(starferry.Group(name), v)
	}
	return bad, nil
}
