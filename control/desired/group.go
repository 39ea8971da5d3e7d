package desired

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// Placement reads the placement of a group and its revision. A group without
// one is ErrNotFound, revision 0.
func (s *Store) Placement(ctx context.Context, g starferry.Group) (control.Placement, uint64, error) {
	var p control.Placement
	rev, err := s.get(ctx, g, placementToken, &p)
	if err != nil {
		return control.Placement{}, rev, fmt.Errorf("read placement of %s: %w", g, err)
	}
	return p, rev, nil
}

// PutPlacement writes p if the stored revision is still expect (0: nothing is
// stored) and returns the new revision. A lost race is ErrConflict. After any
// other error the write may or may not have happened: read again.
func (s *Store) PutPlacement(ctx context.Context, p control.Placement, expect uint64) (uint64, error) {
	if p.Version == 0 {
		p.Version = control.ProtocolVersion
	}
	rev, err := s.put(ctx, p.Group, placementToken, p, expect)
	if err != nil {
		return 0, fmt.Errorf("write placement of %s: %w", p.Group, err)
	}
	return rev, nil
}

// Settings reads the settings of a group and their revision. A group without
// any is ErrNotFound, revision 0.
func (s *Store) Settings(ctx context.Context, g starferry.Group) (control.Settings, uint64, error) {
	var v control.Settings
	rev, err := s.get(ctx, g, settingsToken, &v)
	if err != nil {
		return control.Settings{}, rev, fmt.Errorf("read settings of %s: %w", g, err)
	}
	return v, rev, nil
}

// PutSettings writes v if the stored revision is still expect (0: nothing is
// stored) and returns the new revision. Errors are those of PutPlacement.
func (s *Store) PutSettings(ctx context.Context, v control.Settings, expect uint64) (uint64, error) {
	if v.Version == 0 {
		v.Version = control.ProtocolVersion
	}
	rev, err := s.put(ctx, v.Group, settingsToken, v, expect)
	if err != nil {
		return 0, fmt.Errorf("write settings of %s: %w", v.Group, err)
	}
	return rev, nil
}

// Groups lists the groups that have desired state, in order.
func (s *Store) Groups(ctx context.Context) ([]starferry.Group, error) {
	all, err := s.list(ctx, s.desired, "*.*")
	if err != nil {
		return nil, fmt.Errorf("list groups: %w", err)
	}
	return groupsOf(all)
}

// LiveGroups lists the groups that have at least one live instance, in order.
func (s *Store) LiveGroups(ctx context.Context) ([]starferry.Group, error) {
	all, err := s.list(ctx, s.live, "*.*")
	if err != nil {
		return nil, fmt.Errorf("list live groups: %w", err)
	}
	return groupsOf(all)
}

func groupsOf(all map[string]entry) ([]starferry.Group, error) {
	var groups []starferry.Group
	for key := range all {
		token, _, _ := strings.Cut(key, ".")
		name, err := DecodeKey(token)
		if err != nil {
			return nil, fmt.Errorf("list groups: %w; the key was not written by starferry", err)
		}
		groups = append(groups, starferry.Group(name))
	}
	slices.Sort(groups)
	return slices.Compact(groups), nil
}

func (s *Store) get(ctx context.Context, g starferry.Group, token string, into any) (uint64, error) {
	if err := checkGroup(g); err != nil {
		return 0, err
	}
	key := groupKey(g, token)
	e, err := s.desired.get(ctx, key)
	if err != nil {
		return 0, err
	}
	return e.revision, decode(DesiredBucket, key, e.value, into)
}

func (s *Store) put(ctx context.Context, g starferry.Group, token string, v any, expect uint64) (uint64, error) {
	if err := checkGroup(g); err != nil {
		return 0, err
	}
	data, err := json.Marshal(v)
	if err != nil {
		return 0, err
	}
	return s.putKey(ctx, groupKey(g, token), data, expect)
}

// putKey writes a value if the stored revision is still expect.
func (s *Store) putKey(ctx context.Context, key string, data []byte, expect uint64) (rev uint64, err error) {
	err = s.desired.do(ctx, func(kv jetstream.KeyValue) (err error) {
		if expect == 0 {
			rev, err = kv.Create(ctx, key, data)
		} else {
			rev, err = kv.Update(ctx, key, data, expect)
		}
		return err
	})
	if lostRace(err) {
		return 0, fmt.Errorf("%w (expected revision %d)", ErrConflict, expect)
	}
	return rev, err
}

func lostRace(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch) ||
		errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}

// decode reads a stored value and refuses what this program does not understand.
func decode(bucket, key string, data []byte, into any) error {
	what := bucket + " " + key
	var head struct {
		Version int `json:"v"`
	}
	if strings.HasPrefix(string(data[:min(len(data), 16)]), `{"v":`+strconv.Itoa(control.ProtocolVersion)+",") {
		head.Version = control.ProtocolVersion // as our own writers put it: nothing is read twice
	} else if err := json.Unmarshal(data, &head); err != nil {
		return fmt.Errorf("%s holds no JSON of ours (%w); delete the key or restore it", what, err)
	}
	if head.Version < 1 || head.Version > control.ProtocolVersion {
		return fmt.Errorf("%s is of protocol version %d and this program knows up to %d; upgrade it", what, head.Version, control.ProtocolVersion)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w; delete the key or restore it", what, err)
	}
	if err := fit(key, into); err != nil {
		return fmt.Errorf("%s: %w; delete the key or restore it", what, err)
	}
	return nil
}
