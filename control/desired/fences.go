package desired

import (
	"context"
	"fmt"
	"strings"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

const fencesToken = "fences"

// Fences reads on which clusters a group is to be fenced, and the revision of
// that. A group that never was is ErrNotFound, revision 0.
func (s *Store) Fences(ctx context.Context, g starferry.Group) (control.Fences, uint64, error) {
	var v control.Fences
	rev, err := s.get(ctx, g, fencesToken, &v)
	if err != nil {
		return control.Fences{}, rev, fmt.Errorf("read fences of %s: %w", g, err)
	}
	return v, rev, nil
}

// PutFences writes v if the stored revision is still expect (0: nothing is
// stored) and returns the new revision. Errors are those of PutPlacement.
func (s *Store) PutFences(ctx context.Context, v control.Fences, expect uint64) (uint64, error) {
	if v.Version == 0 {
		v.Version = control.ProtocolVersion
	}
	rev, err := s.put(ctx, v.Group, fencesToken, v, expect)
	if err != nil {
		return 0, fmt.Errorf("write fences of %s: %w", v.Group, err)
	}
	return rev, nil
}

// AllFences reads the fences of all groups. One that cannot be read is left out
// and told by the error.
func (s *Store) AllFences(ctx context.Context) ([]control.Fences, error) {
	all, err := s.list(ctx, s.desired, "*."+fencesToken)
	if err != nil {
		return nil, fmt.Errorf("list fences: %w", err)
	}
	var out []control.Fences
	var bad []string
	for key, e := range all {
		var v control.Fences
		if err := decode(DesiredBucket, key, e.value, &v); err != nil {
			bad = append(bad, err.Error())
			continue
		}
		out = append(out, v)
	}
	if len(bad) > 0 {
		return out, fmt.Errorf("list fences: %s", strings.Join(bad, "; "))
	}
	return out, nil
}
