package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/switchover"
)

// ackLimit is how long everyone may take to acknowledge a setting, unless the
// caller's context ends earlier.
const ackLimit = 15 * time.Second

// SkipOrder asks to pass records [Range.From, Range.To) of one partition.
type SkipOrder struct {
	Group     starferry.Group
	Cluster   starferry.ClusterName // empty: the group's home
	Partition starferry.TopicPartition
	Range     starferry.Range
	// Keep is the topic where each record is put before it is passed; empty: the
	// group's dead-letter topic, or GROUP.skipped. It is made if it is missing.
	Keep starferry.Topic
	// Drop has the records passed without keeping them.
	Drop    bool
	By, Why string
	Token   string // makes it repeatable; empty for a new one
}

// ThrottleOrder limits a whole group, or one partition of it.
type ThrottleOrder struct {
	Group     starferry.Group
	Partition *starferry.TopicPartition // nil: the group
	// Limit replaces what was set there; its zero value lifts it. Until is set
	// from For.
	Limit   control.Throttle
	For     time.Duration // ends it by itself; 0 means until changed
	By, Why string
	Token   string
}

// Receipt says who acknowledged a setting.
type Receipt struct {
	Group     starferry.Group
	Revision  uint64          // of the settings
	ID        string          // of the skip, pause or rewind
	Keep      starferry.Topic // where a skip puts what it passes
	Instances []string
	Before    control.Settings // for an undo
}

// Settings reads what is set for a group, and the revision of it; 0 if nothing
// was ever set.
func (f *Fleet) Settings(ctx context.Context, g starferry.Group) (control.Settings, uint64, error) {
	v, rev, err := f.c.Store.Settings(ctx, g)
	if errors.Is(err, desired.ErrNotFound) {
		return control.Settings{Version: control.ProtocolVersion, Group: g}, 0, nil
	}
	return v, rev, err
}

// Skip passes a range of records, and returns when every instance knows it.
func (f *Fleet) Skip(ctx context.Context, o SkipOrder) (Receipt, error) {
	fail := func(err error) (Receipt, error) {
		return Receipt{}, fmt.Errorf("skip %s of %s [%d, %d): %w", o.Partition, o.Group, o.Range.From, o.Range.To, err)
	}
	if o.Range.From < 0 || o.Range.To <= o.Range.From {
		return fail(errors.New("that is no range of records; give an offset and a later one"))
	}
	h, err := f.Home(ctx, o.Group)
	if err != nil {
		return fail(err)
	}
	if h.Phase != control.Steady {
		return fail(fmt.Errorf("a switch is open (%s, epoch %d) and positions belong to it; wait until it has ended", h.Phase, h.Epoch))
	}
	if o.Cluster == "" {
		o.Cluster = h.Cluster
	}
	if _, err := f.cluster(o.Cluster); err != nil {
		return fail(err)
	}
	if err := f.keepsIn(ctx, &o); err != nil {
		return fail(err)
	}
	passed, err := f.found(ctx, o.Cluster, o.Group)
	if err != nil {
		return fail(err)
	}
	id := "skip-" + token(o.Token)
	event := desired.Event{Group: o.Group, What: "skip", Who: o.By, Why: o.Why, Token: o.Token,
		Detail: fmt.Sprintf("%s %s [%d, %d) as %s, %s", o.Cluster, o.Partition, o.Range.From, o.Range.To, id, keeping(o.Keep))}
	r, err := f.change(ctx, event, func(v *control.Settings) bool {
		if slices.ContainsFunc(v.Skips, func(s control.Skip) bool { return s.ID == id }) {
			return false
		}
		v.Skips = slices.DeleteFunc(v.Skips, func(s control.Skip) bool { return f.obsolete(s, o.Cluster, passed) })
		v.Skips = append(v.Skips, control.Skip{ID: id, Cluster: o.Cluster, Partition: o.Partition, Range: o.Range, Keep: o.Keep,
			By: o.By, Why: o.Why, At: f.c.Now().UnixMilli()})
		return true
	})
	r.ID, r.Keep = id, o.Keep
	if err != nil {
		_, err = fail(err)
	}
	return r, err
}

// Unskip takes a skip back, with what switches have carried over of it. Taking
// back what is not set is no error.
func (f *Fleet) Unskip(ctx context.Context, g starferry.Group, id, by, why string) (Receipt, error) {
	event := desired.Event{Group: g, What: "unskip", Who: by, Why: why, Detail: id}
	root, _, _ := strings.Cut(id, "@")
	r, err := f.change(ctx, event, func(v *control.Settings) bool {
		n := len(v.Skips)
		v.Skips = slices.DeleteFunc(v.Skips, func(s control.Skip) bool {
			return s.ID == root || strings.HasPrefix(s.ID, root+"@")
		})
		return len(v.Skips) != n
	})
	r.ID = id
	if err != nil {
		return r, fmt.Errorf("unskip %s of %s: %w", id, g, err)
	}
	return r, nil
}

// Throttle limits a group, or one partition, and returns when every instance
// knows it.
func (f *Fleet) Throttle(ctx context.Context, o ThrottleOrder) (Receipt, error) {
	t := o.Limit
	if t.Rate < 0 || t.Parallelism < 0 || t.DelayMS < 0 || t.QueueHigh < 0 || t.QueueLow < 0 || o.For < 0 {
		return Receipt{}, fmt.Errorf("throttle %s: nothing of a limit is below 0; give what it is to be, or nothing to lift it", o.Group)
	}
	if o.For > 0 {
		t.Until = f.c.Now().Add(o.For).UnixMilli()
	}
	lift := o.Limit == control.Throttle{}
	event := desired.Event{Group: o.Group, What: "throttle", Who: o.By, Why: o.Why, Token: o.Token, Detail: throttleText(o)}
	r, err := f.change(ctx, event, func(v *control.Settings) bool {
		switch {
		case o.Partition != nil && lift:
			_, was := v.Throttles[*o.Partition]
			delete(v.Throttles, *o.Partition)
			return was
		case o.Partition != nil:
			if v.Throttles == nil {
				v.Throttles = map[starferry.TopicPartition]control.Throttle{}
			}
			v.Throttles[*o.Partition] = t
		case lift:
			was := v.Throttle
			v.Throttle = nil
			return was != nil
		default:
			v.Throttle = &t
		}
		return true
	})
	if err != nil {
		return r, fmt.Errorf("throttle %s: %w", o.Group, err)
	}
	return r, nil
}

func throttleText(o ThrottleOrder) string {
	what := "group"
	if o.Partition != nil {
		what = o.Partition.String()
	}
	text := what + ": " + o.Limit.String()
	if o.For > 0 {
		text += fmt.Sprintf(" for %v", o.For)
	}
	return text
}

// change records, sets and waits for everyone's word. mutate reports whether it
// changed anything; it may run several times.
func (f *Fleet) change(ctx context.Context, event desired.Event, mutate func(*control.Settings) bool) (Receipt, error) {
	event.When = f.c.Now().UnixMilli()
	if err := f.c.Store.Audit(ctx, event); err != nil {
		return Receipt{}, err
	}
	r := Receipt{Group: event.Group}
	for attempt := 0; ; attempt++ {
		v, rev, err := f.Settings(ctx, event.Group)
		if err != nil {
			return r, err
		}
		if r.Before, err = clone(v); err != nil {
			return r, err
		}
		if r.Revision = rev; !mutate(&v) {
			break
		}
		v.By, v.Why, v.At = event.Who, event.Why, event.When
		if r.Revision, err = f.c.Store.PutSettings(ctx, v, rev); err == nil {
			break
		}
		if !errors.Is(err, desired.ErrConflict) || attempt == 20 {
			return r, err
		}
	}
	var err error
	r.Instances, err = f.acknowledged(ctx, event.Group, r.Revision)
	f.told(ctx, event, r, err)
	if err != nil {
		return r, fmt.Errorf("it is set as revision %d and will be obeyed by whoever reads it, but %w", r.Revision, err)
	}
	return r, nil
}

// told puts the instances' answers into the audit trail.
func (f *Fleet) told(ctx context.Context, order desired.Event, r Receipt, err error) {
	e := desired.Event{Group: order.Group, What: order.What + " acknowledged", Who: order.Who, When: f.c.Now().UnixMilli(), Token: order.Token,
		Detail: fmt.Sprintf("revision %d", r.Revision), Instances: map[starferry.InstanceID]string{}}
	for _, name := range r.Instances {
		e.Instances[starferry.InstanceID(name)] = fmt.Sprintf("has revision %d", r.Revision)
	}
	if err != nil {
		e.What, e.Detail = order.What+" not acknowledged", err.Error()
		var missing *missingError
		if errors.As(err, &missing) {
			for _, name := range missing.instances {
				e.Instances[name] = fmt.Sprintf("does not have revision %d", r.Revision)
			}
		}
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	if aerr := f.c.Store.Audit(late, e); aerr != nil {
		f.log.Warn("who acknowledged is not in the audit trail", "group", order.Group, "order", order.What, "error", aerr)
	}
}

// namedMissing is how many of those who have not acknowledged an error names.
const namedMissing = 20

// missingError says who has not acknowledged.
type missingError struct {
	what      []string
	instances []starferry.InstanceID
}

func (e *missingError) Error() string {
	what, more := e.what, ""
	if n := len(what) - namedMissing; n > 0 {
		what, more = what[:namedMissing], fmt.Sprintf(" and %d others, whom the audit trail names", n)
	}
	return fmt.Sprintf("not acknowledged by %s%s; restart those, or give them the library and NATS", strings.Join(what, ", "), more)
}

func clone(v control.Settings) (control.Settings, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return v, err
	}
	var c control.Settings
	return c, json.Unmarshal(data, &c)
}

// acknowledged waits until every live instance has the settings of a revision
// and every member that Kafka reports is one of them.
func (f *Fleet) acknowledged(ctx context.Context, g starferry.Group, rev uint64) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, ackLimit)
	defer cancel()
	var names, missing []string
	var found []string // strangers, when they could last be read
	var late []starferry.InstanceID
	done := false // a change that comes in while the watch ends is of no interest
	err := f.c.Store.WatchLeases(ctx, g, func(ls []control.Lease, err error) {
		if done {
			return
		}
		names, missing, late = nil, nil, nil
		if err != nil {
			missing = append(missing, err.Error())
		}
		for _, l := range ls {
			names = append(names, string(l.Instance))
			if l.SettingsRevision < rev {
				missing = append(missing, fmt.Sprintf("%s on %s (it has revision %d)", l.Instance, l.Host, l.SettingsRevision))
				late = append(late, l.Instance)
			}
		}
		if len(missing) > 0 {
			return
		}
		strangers := f.strangers(ctx, g, ls)
		if ctx.Err() != nil && len(found) > 0 {
			missing = found // what was seen last says more than a look that was broken off
			return
		}
		if missing, found = strangers, strangers; len(missing) == 0 {
			done = true
			cancel()
		}
	})
	if !done && len(missing) == 0 {
		missing = []string{"NATS, which has shown no lease: " + err.Error()}
	}
	if len(missing) > 0 {
		names = slices.DeleteFunc(names, func(n string) bool { return slices.Contains(late, starferry.InstanceID(n)) })
		return names, &missingError{missing, late}
	}
	return names, nil
}

// strangers names members that Kafka reports and that have no lease.
func (f *Fleet) strangers(ctx context.Context, g starferry.Group, ls []control.Lease) []string {
	live, named := map[string]bool{}, map[string]bool{}
	for _, l := range ls {
		named[string(l.Instance)] = true
		for _, m := range l.Memberships {
			live[m.Member] = true
		}
	}
	var found []string
	for c, s := range f.members(ctx, g) {
		if s.err != nil {
			found = append(found, fmt.Sprintf("the members on %s, which cannot be read: %v", c, s.err))
			continue
		}
		if fencing(s.seen) {
			continue // agents, who keep everybody out there
		}
		for _, m := range s.seen.Members {
			// While a rebalance waits, for a handler that is stuck perhaps, an
			// instance may not know its own member id yet, nor Kafka its user data.
			joining := s.seen.State != "Stable" && named[m.Client]
			if !live[m.ID] && !joining {
				found = append(found, fmt.Sprintf("member %s on %s, which has no lease", m, c))
			}
		}
	}
	slices.Sort(found)
	return found
}

type membersOf struct {
	seen switchover.GroupSeen
	err  error
}
