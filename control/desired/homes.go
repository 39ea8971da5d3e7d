package desired

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/starferry/starferry/control"
)

// homesKey belongs to no group: those have two tokens.
const homesKey = "homes"

// Homes reads what was stored of where topics and groups live that have never
// been moved, and its revision. Nothing stored is the zero value, revision 0.
func (s *Store) Homes(ctx context.Context) (control.Homes, uint64, error) {
	var h control.Homes
	rev := uint64(0)
	err := s.desired.do(ctx, func(kv jetstream.KeyValue) error {
		e, err := kv.Get(ctx, homesKey)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		rev = e.Revision()
		return decode(DesiredBucket, homesKey, e.Value(), &h)
	})
	if err != nil {
		return control.Homes{}, rev, fmt.Errorf("read homes: %w", err)
	}
	return h, rev, nil
}

// PutHomes writes h if the stored revision is still expect (0: nothing is
// stored) and returns the new revision. A lost race is ErrConflict.
func (s *Store) PutHomes(ctx context.Context, h control.Homes, expect uint64) (uint64, error) {
	h.Version = control.ProtocolVersion
	data, err := json.Marshal(h)
	if err != nil {
		return 0, fmt.Errorf("write homes: %w", err)
	}
	rev, err := s.putKey(ctx, homesKey, data, expect)
	if err != nil {
		return 0, fmt.Errorf("write homes: %w", err)
	}
	return rev, nil
}
