package desired

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/starferry/starferry/control"
)

// homesKey belongs to no group: those have two tokens.
const homesKey = "homes"

// Homes reads what was stored of where topics and groups live that have never
// been moved, and its revision. Nothing stored is the zero value, revision 0.
func (s *Store) Homes(ctx context.Context) (control.Homes, uint64, error) {
	var h control.Homes
	e, err := s.desired.get(ctx, homesKey)
	if errors.Is(err, ErrNotFound) {
		return h, 0, nil
	}
	if err == nil {
		err = decode(DesiredBucket, homesKey, e.value, &h)
	}
	if err != nil {
		return control.Homes{}, e.revision, fmt.Errorf("read homes: %w", err)
	}
	return h, e.revision, nil
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
