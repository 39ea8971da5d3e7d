package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/internal/wire"
)

// RedistributeOrder asks for the backlog of one hot partition to be spread over
// the instances of its group.
type RedistributeOrder struct {
	Group     starferry.Group
	Partition starferry.TopicPartition
	To        []starferry.InstanceID // empty: all instances
	Order     control.OverflowOrder  // empty: KeyOrder
	By, Why   string
	Token     string // makes it repeatable; empty for a new one
	// Stop moves no more of what is under way. What is moved is handled, and waited
	// for; the rest stays where it is.
	Stop bool
	// Progress, if set, is told what is waited for. It must not block.
	Progress func(string)
}

// Redistributed is what a redistribution has done.
type Redistributed struct {
	Group     starferry.Group          `json:"group"`
	Partition starferry.TopicPartition `json:"partition"`
	// Range is the backlog that was spread; empty if there was none.
	Range starferry.Range `json:"range"`
	// Stopped: not all of Range was moved; the rest stayed where it was.
	Stopped   bool     `json:"stopped,omitempty"`
	Instances []string `json:"instances"` // that were told
	Revision  uint64   `json:"revision"`  // of the settings
}

// The audit trail's words.
const (
	auditRedistribute  = "redistribute"
	auditMoves         = "redistribute moves"
	auditEnds          = "redistribute ends"
	auditRedistributed = "redistributed"
	auditStop          = "redistribute stops"
	auditNotMoved      = "redistribute failed"
)

// askEvery is how often a redistribution is looked at.
const askEvery = 300 * time.Millisecond

// Redistribute spreads a backlog, and returns when all of it is handled and the
// overflow topic is gone. If ctx ends before, it goes on without anybody
// waiting; given again, the order goes on where it stands.
func (f *Fleet) Redistribute(ctx context.Context, o RedistributeOrder) (Redistributed, error) {
	r, err := f.redistribute(ctx, o)
	if err != nil {
		return r, fmt.Errorf("redistribute %s of %s: %w", o.Partition, o.Group, err)
	}
	return r, nil
}

func (f *Fleet) redistribute(ctx context.Context, o RedistributeOrder) (Redistributed, error) {
	if o.Order == "" {
		o.Order = control.KeyOrder
	}
	if o.Order != control.KeyOrder && o.Order != control.NoOrder {
		return Redistributed{}, fmt.Errorf("order %q is unknown; use %q or %q", o.Order, control.KeyOrder, control.NoOrder)
	}
	o.Token = token(o.Token)
	if r, done, err := f.Redistributed(ctx, o.Group, o.Token); err != nil || done {
		return r, err
	}
	open, err := f.openOverflow(ctx, o)
	if err != nil {
		return Redistributed{}, err
	}
	if o.Stop && open == nil {
		return Redistributed{Group: o.Group, Partition: o.Partition}, nil
	}
	if open != nil && o.Stop {
		if err := f.stopOverflow(ctx, o, open); err != nil {
			return Redistributed{}, err
		}
	}
	if open == nil {
		if open, err = f.beginOverflow(ctx, o); err != nil || open == nil {
			return Redistributed{Group: o.Group, Partition: o.Partition}, err
		}
	}
	return f.followOverflow(ctx, o, *open)
}

// Redistributed finds the outcome of an order that was carried out before.
func (f *Fleet) Redistributed(ctx context.Context, g starferry.Group, token string) (r Redistributed, done bool, err error) {
	events, err := f.c.Store.AuditLog(ctx, desired.AuditFilter{Group: g})
	if err != nil {
		return r, false, err
	}
	for _, e := range events {
		if e.What == auditRedistributed && e.Token == token && json.Unmarshal(e.Data, &r) == nil {
			return r, true, nil
		}
	}
	return Redistributed{}, false, nil
}

// openOverflow is the redistribution under way, if it is the same; another one
// is waited for by whoever asked for it.
func (f *Fleet) openOverflow(ctx context.Context, o RedistributeOrder) (*control.Overflow, error) {
	v, _, err := f.Settings(ctx, o.Group)
	if err != nil {
		return nil, err
	}
	for _, r := range v.Rewinds {
		if _, ok := r.Places[o.Partition]; ok && (r.Until == 0 || r.Until > f.c.Now().UnixMilli()) {
			return nil, fmt.Errorf("it is being rewound (%s); ask again when that is over", r.ID)
		}
	}
	is := v.Overflow
	if is == nil {
		h, err := f.Home(ctx, o.Group)
		if err != nil {
			return nil, err
		}
		if is, err = f.recallOverflow(ctx, o, h.Cluster); err != nil || is == nil || o.Stop {
			return is, err
		}
		_, err = f.followOverflow(ctx, o, *is)
		return nil, err
	}
	if is.Phase == control.OverflowClose && !o.Stop { // over, and whoever saw to it has gone
		_, err := f.followOverflow(ctx, o, *is)
		return nil, err
	}
	if is.Partition == o.Partition && (is.Order == o.Order && is.Until > 0 || o.Stop) && (len(o.To) == 0 || slices.Equal(is.To, o.To)) {
		return is, nil
	}
	return nil, fmt.Errorf("%s; a group has one at a time: ask for that one again to wait for it, or to finish it if nobody does", f.describeOverflow(ctx, o.Group, is))
}

// describeOverflow says in words how a redistribution stands.
func (f *Fleet) describeOverflow(ctx context.Context, g starferry.Group, is *control.Overflow) string {
	until := fmt.Sprintf("up to offset %d", is.Until)
	if is.Until == 0 {
		until = "and to be stopped"
	}
	text := fmt.Sprintf("%s of %s is being redistributed %s (order %s, asked for by %s)", is.Partition, g, until, is.Order, is.By)
	if st, err := f.overflowLeft(ctx, g, is); err == nil {
		text += ", " + st.words()
	}
	return text
}

// noOverflow refuses what cannot be done while a backlog is in the overflow.
func (f *Fleet) noOverflow(ctx context.Context, g starferry.Group) error {
	v, _, err := f.Settings(ctx, g)
	if err != nil || v.Overflow == nil {
		return err
	}
	if v.Overflow.Phase == control.OverflowClose {
		_, err := f.followOverflow(ctx, RedistributeOrder{Group: g, By: v.Overflow.By, Why: v.Overflow.Why}, *v.Overflow)
		return err
	}
	return fmt.Errorf("%s, and its overflow topic belongs to offsets of %s alone; wait until that has ended (redistribute, given again, waits for it)",
		f.describeOverflow(ctx, g, v.Overflow), v.Overflow.Cluster)
}

// beginOverflow makes the topic and has all instances prepare; nil if there is
// no backlog.
func (f *Fleet) beginOverflow(ctx context.Context, o RedistributeOrder) (*control.Overflow, error) {
	h, err := f.steady(ctx, o.Group, o.Progress)
	if err != nil {
		return nil, err
	}
	readers, err := f.readers(ctx, o)
	if err != nil {
		return nil, err
	}
	w, err := f.cluster(h.Cluster)
	if err != nil {
		return nil, err
	}
	from, until, err := backlog(ctx, w, o)
	if err != nil || from >= until {
		return nil, err
	}
	id := strings.ToLower(token("")[2 : 2+control.OverflowIDs])
	is := &control.Overflow{
		ID: id, Cluster: h.Cluster, Partition: o.Partition, Until: until, Topic: control.OverflowTopic(o.Group, id), To: o.To, Order: o.Order,
		Phase: control.OverflowPrepare, By: o.By, Why: o.Why, Token: o.Token, At: f.c.Now().UnixMilli(),
	}
	event := desired.Event{Group: o.Group, What: auditRedistribute, Who: o.By, Why: o.Why, Token: o.Token,
		Detail: fmt.Sprintf("%s %s [%d, %d) over %d instances by %s, order %s", h.Cluster, o.Partition, from, until, readers, is.Topic, o.Order)}
	event.Data, _ = json.Marshal(starferry.Range{From: from, To: until}) // plain data: it cannot fail
	if err := f.makeOverflow(ctx, w, is, readers); err != nil {
		return nil, err
	}
	var taken *control.Overflow
	_, err = f.change(ctx, event, func(v *control.Settings) bool {
		if taken = v.Overflow; taken != nil {
			return false
		}
		v.Overflow = is
		return true
	})
	if err == nil && taken != nil {
		err = fmt.Errorf("somebody else has begun another one meanwhile: %s", f.describeOverflow(ctx, o.Group, taken))
	}
	if err != nil {
		return nil, f.giveUpOverflow(ctx, w, o, is, err)
	}
	return is, nil
}

// readers counts the instances that are to read the overflow.
func (f *Fleet) readers(ctx context.Context, o RedistributeOrder) (int, error) {
	leases, err := f.c.Store.Leases(ctx, o.Group)
	if err != nil {
		return 0, err
	}
	var live []starferry.InstanceID
	subscribed := false
	for _, l := range leases {
		live = append(live, l.Instance)
		subscribed = subscribed || slices.Contains(l.Topics, o.Partition.Topic)
	}
	if len(live) == 0 {
		return 0, errors.New("no instance of it lives: start the service, with the library and NATS")
	}
	if !subscribed {
		return 0, fmt.Errorf("none of its instances reads topic %s; name a partition that the group reads", o.Partition.Topic)
	}
	for _, i := range o.To {
		if !slices.Contains(live, i) {
			return 0, fmt.Errorf("instance %s does not live; those that do are %s", i, join(live))
		}
	}
	if len(o.To) > 0 {
		return len(o.To), nil
	}
	return len(live), nil
}

func join[T ~string](list []T) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = string(s)
	}
	return strings.Join(out, ", ")
}

// backlog is what the group has not handled of a partition now.
func backlog(ctx context.Context, w *wire.Cluster, o RedistributeOrder) (from, until starferry.Offset, err error) {
	tps := []starferry.TopicPartition{o.Partition}
	ends, err := w.Offsets(ctx, tps, wire.LatestStable)
	if err != nil {
		return 0, 0, err
	}
	commits, err := w.Committed(ctx, o.Group, tps)
	if err != nil {
		return 0, 0, err
	}
	at, ok := commits[o.Partition]
	if !ok {
		return 0, 0, fmt.Errorf("the group has no position in %s yet; ask again when it has handled some of it", o.Partition)
	}
	return at.Offset, ends[o.Partition], nil
}

// The partitions of an overflow topic: some for each instance, so that keys
// spread evenly.
const (
	overflowShare = 4
	overflowMost  = 64
)

// makeOverflow creates the topic. What it holds is removed by nobody but us.
func (f *Fleet) makeOverflow(ctx context.Context, w *wire.Cluster, is *control.Overflow, readers int) error {
	configs := map[string]string{"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
	hot, err := w.TopicConfigs(ctx, is.Partition.Topic)
	if err != nil {
		return err
	}
	for _, k := range []string{"max.message.bytes", "min.insync.replicas"} {
		if e, ok := hot[is.Partition.Topic][k]; ok && !e.Default && e.Value != "" {
			configs[k] = e.Value
		}
	}
	md, err := w.Metadata(ctx, is.Partition.Topic)
	if err != nil {
		return err
	}
	spec := wire.TopicSpec{Topic: is.Topic, Partitions: min(overflowMost, overflowShare*readers), Configs: configs}
	if parts := md.Topics[is.Partition.Topic].Partitions; len(parts) > 0 {
		spec.Replication = int16(len(parts[0].Replicas))
	}
	if err := w.CreateTopic(ctx, spec); err != nil {
		return fmt.Errorf("%w; nothing was changed", err)
	}
	return nil
}

// giveUpOverflow takes back what only was prepared: nothing has moved yet.
func (f *Fleet) giveUpOverflow(ctx context.Context, w *wire.Cluster, o RedistributeOrder, is *control.Overflow, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ackLimit)
	defer cancel()
	event := desired.Event{Group: o.Group, What: auditNotMoved, Who: o.By, Why: o.Why, Token: o.Token, Detail: why.Error()}
	moved := false
	_, err := f.change(ctx, event, func(v *control.Settings) bool {
		if v.Overflow == nil || v.Overflow.ID != is.ID {
			return false
		}
		if moved = v.Overflow.Phase != control.OverflowPrepare; moved {
			return false
		}
		v.Overflow = nil
		return true
	})
	if moved {
		return fmt.Errorf("%w; the backlog is moved all the same: ask again to wait for it", why)
	}
	if err != nil { // instances that have not heard of it may still read the topic, which is empty
		f.log.Warn("not everybody has acknowledged that a redistribution is given up", "group", o.Group, "error", err)
	}
	if err := w.DeleteTopics(ctx, is.Topic); err != nil && !errors.Is(err, kafka.UnknownTopicOrPartition) {
		f.log.Warn("an empty overflow topic is left; delete it", "topic", is.Topic, "error", err)
	}
	return fmt.Errorf("%w; nothing was moved", why)
}

// followOverflow takes a redistribution to its end, from wherever it stands.
func (f *Fleet) followOverflow(ctx context.Context, o RedistributeOrder, is control.Overflow) (Redistributed, error) {
	w, err := f.cluster(is.Cluster)
	if err != nil {
		return Redistributed{}, err
	}
	r := Redistributed{Group: o.Group, Partition: is.Partition}
	r.Range.To = is.Until
	r.Range.From = f.beganAt(ctx, o.Group, is.Token, is.Until)
	if is.Phase == control.OverflowPrepare {
		if h, err := f.Home(ctx, o.Group); err != nil || h.Phase != control.Steady {
			return r, f.giveUpOverflow(ctx, w, o, &is, errors.Join(err, errors.New("a switch was begun meanwhile")))
		}
		receipt, err := f.turnOverflow(ctx, o, &is, auditMoves, control.OverflowMove)
		if err != nil && receipt.Revision == 0 {
			return r, f.giveUpOverflow(ctx, w, o, &is, err)
		}
	}
	for {
		if is.Phase == control.OverflowMove {
			if err := f.handledOverflow(ctx, o, &is); errors.Is(err, errEnded) {
				return f.endedOverflow(ctx, o.Group, &is)
			} else if err != nil {
				return r, fmt.Errorf("%w; it goes on without anybody waiting: ask again to wait for it and to have the overflow topic deleted", err)
			}
		}
		r.Stopped = is.Until == 0
		empty, err := f.leaveOverflow(ctx, o, &is, &r)
		switch {
		case errors.Is(err, errEnded):
			return f.endedOverflow(ctx, o.Group, &is)
		case err != nil:
			return r, fmt.Errorf("all of it is handled, but the overflow topic %s stays: %w; ask again to have it deleted", is.Topic, err)
		case empty:
			return f.endOverflow(ctx, w, o, &is, r)
		}
	}
}

// beganAt is where the backlog began, as the audit trail has it.
func (f *Fleet) beganAt(ctx context.Context, g starferry.Group, token string, until starferry.Offset) starferry.Offset {
	events, err := f.c.Store.AuditLog(ctx, desired.AuditFilter{Group: g})
	if err != nil {
		return until
	}
	for _, e := range events {
		var r starferry.Range
		if e.What == auditRedistribute && e.Token == token && json.Unmarshal(e.Data, &r) == nil {
			return r.From
		}
	}
	return until
}

// turnOverflow writes the next phase, if it is the same redistribution still.
func (f *Fleet) turnOverflow(ctx context.Context, o RedistributeOrder, is *control.Overflow, what string, to control.OverflowPhase) (Receipt, error) {
	event := desired.Event{Group: o.Group, What: what, Who: o.By, Why: o.Why, Token: is.Token, Detail: fmt.Sprintf("%s by %s", is.Partition, is.Topic)}
	gone := false
	r, err := f.change(ctx, event, func(v *control.Settings) bool {
		gone = v.Overflow == nil || v.Overflow.ID != is.ID
		if gone || v.Overflow.Phase == to {
			return false
		}
		v.Overflow.Phase = to
		return true
	})
	if gone {
		return Receipt{}, errEnded
	}
	is.Phase = to
	return r, err
}

// stopOverflow has the owner move no more.
func (f *Fleet) stopOverflow(ctx context.Context, o RedistributeOrder, is *control.Overflow) error {
	if is.Phase == control.OverflowPrepare { // it was left there: it goes on before it is stopped
		if _, err := f.turnOverflow(ctx, o, is, auditMoves, control.OverflowMove); err != nil {
			return err
		}
	}
	event := desired.Event{Group: o.Group, What: auditStop, Who: o.By, Why: o.Why, Token: o.Token, Detail: is.Partition.String()}
	_, err := f.change(ctx, event, func(v *control.Settings) bool {
		if v.Overflow == nil || v.Overflow.ID != is.ID || v.Overflow.Until == 0 {
			return false
		}
		v.Overflow.Until = 0
		return true
	})
	is.Until = 0
	return err
}

// overflowState is how much of a redistribution is left.
type overflowState struct {
	backlog  int64 // to be moved
	overflow int64 // moved and to be handled
}

func (s overflowState) words() string {
	return fmt.Sprintf("%d offsets are to be moved and %d of the overflow to be handled", s.backlog, s.overflow)
}

func (f *Fleet) overflowLeft(ctx context.Context, g starferry.Group, is *control.Overflow) (overflowState, error) {
	w, err := f.cluster(is.Cluster)
	if err != nil {
		return overflowState{}, err
	}
	// The backlog first: what is moved after that is found in the overflow.
	commits, err := w.Committed(ctx, g, []starferry.TopicPartition{is.Partition})
	if err != nil {
		return overflowState{}, err
	}
	left, err := w.Behind(ctx, g, is.Topic)
	return overflowState{backlog: max(0, int64(is.Until-commits[is.Partition].Offset)), overflow: left}, err
}

// handledOverflow waits until everything is moved and handled.
func (f *Fleet) handledOverflow(ctx context.Context, o RedistributeOrder, is *control.Overflow) error {
	t := time.NewTicker(askEvery)
	defer t.Stop()
	said := ""
	for {
		rctx, cancel := context.WithTimeout(ctx, readTimeout)
		var st overflowState
		err := f.refreshOverflow(rctx, o.Group, is)
		if err == nil {
			st, err = f.overflowLeft(rctx, o.Group, is)
		}
		cancel()
		switch {
		case errors.Is(err, errEnded):
			return err
		case err == nil && st == overflowState{}:
			return nil
		case err != nil:
			f.log.Debug("look at a redistribution", "group", o.Group, "error", err)
		case o.Progress != nil && st.words() != said:
			said = st.words()
			o.Progress(said)
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-t.C:
		}
	}
}

// endedOverflow is the outcome of a redistribution that somebody else has ended.
func (f *Fleet) endedOverflow(ctx context.Context, g starferry.Group, is *control.Overflow) (Redistributed, error) {
	r, done, err := f.Redistributed(ctx, g, is.Token)
	if err == nil && !done {
		err = fmt.Errorf("%w, and its outcome is not in the audit trail", errEnded)
	}
	return r, err
}

// leaveOverflow has the instances leave the topic, and looks whether it is empty
// now: an owner that was told to stop may have moved another chunk meanwhile. In
// that case all go back to it.
func (f *Fleet) leaveOverflow(ctx context.Context, o RedistributeOrder, is *control.Overflow, r *Redistributed) (empty bool, err error) {
	receipt, err := f.turnOverflow(ctx, o, is, auditEnds, control.OverflowClose)
	r.Instances, r.Revision = receipt.Instances, receipt.Revision
	if err != nil {
		return false, err
	}
	if err := f.overflowLeftBy(ctx, o.Group, is.Topic); err != nil {
		return false, err
	}
	st, err := f.overflowLeft(ctx, o.Group, is)
	switch {
	case errors.Is(err, kafka.UnknownTopicOrPartition): // deleted already
		return true, nil
	case err != nil:
		return false, err
	case st.overflow == 0:
		return true, nil
	}
	_, err = f.turnOverflow(ctx, o, is, auditMoves, control.OverflowMove)
	return false, err
}

// endOverflow deletes the topic, which nobody reads any more, and says so.
func (f *Fleet) endOverflow(ctx context.Context, w *wire.Cluster, o RedistributeOrder, is *control.Overflow, r Redistributed) (Redistributed, error) {
	if err := w.DeleteTopics(ctx, is.Topic); err != nil && !errors.Is(err, kafka.UnknownTopicOrPartition) {
		return r, fmt.Errorf("all of it is handled: %w; ask again to have it deleted", err)
	}
	event := desired.Event{Group: o.Group, What: auditRedistributed, Who: o.By, Why: o.Why, Token: is.Token, Instances: map[starferry.InstanceID]string{},
		Detail: fmt.Sprintf("%s [%d, %d)", is.Partition, r.Range.From, r.Range.To)}
	for _, i := range r.Instances {
		event.Instances[starferry.InstanceID(i)] = "has left " + string(is.Topic)
	}
	event.Data, _ = json.Marshal(r) // plain data: it cannot fail
	_, err := f.change(ctx, event, func(v *control.Settings) bool {
		if v.Overflow == nil || v.Overflow.ID != is.ID {
			return false
		}
		v.Overflow = nil
		return true
	})
	return r, err
}

// overflowLeftBy waits until no instance has a partition of the topic any more:
// a commit after its deletion would be one for a topic that is not there.
func (f *Fleet) overflowLeftBy(ctx context.Context, g starferry.Group, t starferry.Topic) error {
	ctx, cancel := context.WithTimeout(ctx, ackLimit)
	defer cancel()
	var having []string
	done := false
	err := f.c.Store.WatchLeases(ctx, g, func(ls []control.Lease, err error) {
		having = nil
		for _, l := range ls {
			has := slices.Contains(l.Topics, t) || slices.ContainsFunc(l.Partitions, func(p control.PartitionState) bool { return p.Partition.Topic == t })
			for _, m := range l.Memberships {
				has = has || slices.ContainsFunc(m.Partitions, func(tp starferry.TopicPartition) bool { return tp.Topic == t })
			}
			if has {
				having = append(having, string(l.Instance))
			}
		}
		if done = done || err == nil && len(having) == 0; done {
			cancel()
		}
	})
	switch {
	case done:
		return nil
	case len(having) > 0:
		return fmt.Errorf("%s still reads it", strings.Join(having, ", "))
	}
	return err
}
