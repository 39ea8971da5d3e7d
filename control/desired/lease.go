package desired

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// PutLease renews the lease of an instance. It lives for LeaseTTL.
func (s *Store) PutLease(ctx context.Context, l control.Lease) error {
	data, err := encodeLease(&l)
	if err != nil {
		return err
	}
	if err = s.live.put(ctx, leaseKey(l.Group, l.Instance), data); err != nil {
		return fmt.Errorf("renew lease of %s in %s: %w", l.Instance, l.Group, err)
	}
	return nil
}

func encodeLease(l *control.Lease) ([]byte, error) {
	if err := checkGroup(l.Group); err != nil {
		return nil, err
	}
	if l.Instance == "" {
		return nil, fmt.Errorf("renew lease in %s: the instance has no id", l.Group)
	}
	if l.Version == 0 {
		l.Version = control.ProtocolVersion
	}
	data, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("renew lease of %s in %s: %w", l.Instance, l.Group, err)
	}
	return data, nil
}

// DeleteLease ends the lease of an instance that leaves in good order. Ending
// one that is gone already is no error.
func (s *Store) DeleteLease(ctx context.Context, g starferry.Group, i starferry.InstanceID) error {
	if err := s.live.delete(ctx, leaseKey(g, i)); err != nil {
		return fmt.Errorf("end lease of %s in %s: %w", i, g, err)
	}
	return nil
}

// Leases reads the leases of all live instances of a group, in order of their
// ids. A lease that cannot be read is an error beside those that can.
func (s *Store) Leases(ctx context.Context, g starferry.Group) ([]control.Lease, error) {
	if err := checkGroup(g); err != nil {
		return nil, err
	}
	all, err := s.list(ctx, s.live, groupKey(g, "*"))
	if err != nil {
		return nil, fmt.Errorf("read leases of %s: %w", g, err)
	}
	return decodeLeases(remembered[control.Lease]{}, all)
}

func decodeLeases(known remembered[control.Lease], all map[string]entry) ([]control.Lease, error) {
	var errs []error
	leases := make([]control.Lease, 0, len(all))
	read := func(key string, raw []byte) (l control.Lease, err error) {
		err = decode(LiveBucket, key, raw, &l)
		return l, err
	}
	for _, r := range known.read(all, read) {
		if r.err != nil {
			errs = append(errs, r.err)
			continue
		}
		leases = append(leases, r.value)
	}
	slices.SortFunc(leases, func(a, b control.Lease) int {
		return strings.Compare(string(a.Instance), string(b.Instance))
	})
	return leases, errors.Join(errs...)
}
