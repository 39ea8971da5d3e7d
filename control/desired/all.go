package desired

import (
	"context"
	"fmt"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// AllLeases reads the leases of all live instances of all groups at once, in
// order of their ids. A lease that cannot be read is an error beside those that
// can.
func (s *Store) AllLeases(ctx context.Context) (map[starferry.Group][]control.Lease, error) {
	all, err := s.list(ctx, s.live, "*.*")
	if err != nil {
		return nil, fmt.Errorf("read all leases: %w", err)
	}
	leases, err := decodeLeases(remembered[control.Lease]{}, all)
	out := map[starferry.Group][]control.Lease{}
	for _, l := range leases {
		out[l.Group] = append(out[l.Group], l)
	}
	return out, err
}
