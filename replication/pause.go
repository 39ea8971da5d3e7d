package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/starferry/starferry"
)

// pausedReason is what a lane says of itself.
func pausedReason(link starferry.LinkName) string {
	return fmt.Sprintf("the link is paused; it goes on with: starferry link %s resume", link)
}

// Pause stops the copy of a link and returns when nothing of it is written any
// more. The link stays, translations are answered, and Resume goes on where the
// copy stands. Source retention goes on meanwhile.
func (c *Client) Pause(ctx context.Context, name starferry.LinkName) (LinkStatus, error) {
	return c.turn(ctx, name, true)
}

// Resume lets a paused link copy again and returns when its lanes do.
func (c *Client) Resume(ctx context.Context, name starferry.LinkName) (LinkStatus, error) {
	return c.turn(ctx, name, false)
}

func (c *Client) turn(ctx context.Context, name starferry.LinkName, paused bool) (LinkStatus, error) {
	verb := map[bool]string{true: "pause", false: "resume"}[paused]
	spec, err := c.change(ctx, name, func(s *LinkSpec) (bool, error) {
		changed := s.Paused != paused
		s.Paused = paused
		return changed, nil
	})
	if err != nil {
		return LinkStatus{}, fmt.Errorf("%s %w", verb, err)
	}
	if !paused {
		return c.ready(ctx, spec)
	}
	var last LinkStatus
	for {
		status, err := c.Status(ctx, name)
		if err == nil {
			last = status
			if err = moving(status, spec.Revision); err == nil {
				return status, nil
			}
		}
		if wait(ctx, 50*time.Millisecond) != nil {
			return last, fmt.Errorf("link %s is to pause, and not all of it has: %w", name, err)
		}
	}
}

// moving names the first lane that may still be written.
func moving(s LinkStatus, revision uint64) error {
	if s.seen < revision {
		return errors.New("a shard has not taken it up yet")
	}
	for _, l := range s.Lanes {
		switch l.State {
		case Paused, Stopped, Done:
		case Unowned:
			if l.Owner != "" {
				return fmt.Errorf("%s: %s", l.Partition, l.Reason)
			}
		default:
			return fmt.Errorf("%s is %s", l.Partition, strings.TrimRight(string(l.State)+": "+l.Reason, ": "))
		}
	}
	return nil
}

// Drained is how far a drain has come.
type Drained struct {
	Lanes, Left int   // lanes, and those that are not at their end yet
	Records     int64 // source offsets still to be copied
	Worst       string
}

// Drain copies everything up to where the source's partitions end now, and then
// pauses the link. Progress, if not nil, is told how much is left. If the context
// ends first, or a lane cannot come to its end, the link goes on copying and the
// error says what is missing.
func (c *Client) Drain(ctx context.Context, name starferry.LinkName, progress func(Drained)) (LinkStatus, error) {
	first, err := c.Status(ctx, name)
	if err != nil {
		return first, fmt.Errorf("drain: %w", err)
	}
	if first.Spec.Paused {
		return first, fmt.Errorf("drain link %s: it is paused, so nothing is copied; resume it first", name)
	}
	ends := map[starferry.TopicPartition]starferry.Offset{}
	for _, l := range first.Lanes {
		if l.SourceEnd < 0 {
			return first, fmt.Errorf("drain link %s: the end of %s on %s is not known; is its partition offline?", name, l.Partition, first.Spec.Source)
		}
		ends[l.Partition] = l.SourceEnd
	}
	status := first
	for {
		left, stuck := drained(status, ends)
		if progress != nil {
			progress(left)
		}
		if stuck != nil {
			return status, fmt.Errorf("drain link %s: %w; the other lanes go on copying", name, stuck)
		}
		if left.Left == 0 {
			return c.Pause(ctx, name)
		}
		if wait(ctx, 100*time.Millisecond) != nil {
			return status, fmt.Errorf("drain link %s: %d of %d lanes are not at the end yet, %d offsets are left, worst %s: %w; it goes on copying",
				name, left.Left, left.Lanes, left.Records, left.Worst, context.Cause(ctx))
		}
		if s, err := c.Status(ctx, name); err == nil {
			status = s
		} else if errors.Is(err, errNoLink) {
			return status, fmt.Errorf("drain: %w: it was stopped meanwhile", err)
		}
	}
}

// drained compares lanes with the ends they are to reach.
func drained(s LinkStatus, ends map[starferry.TopicPartition]starferry.Offset) (out Drained, stuck error) {
	out.Lanes = len(ends)
	worst := int64(-1)
	for _, l := range s.Lanes {
		end, asked := ends[l.Partition]
		if l.Until >= 0 {
			end = min(end, l.Until)
		}
		left := int64(end - l.SourceNext)
		if !asked || l.SourceNext >= 0 && left <= 0 {
			continue
		}
		if l.State == Stopped || l.State == Paused {
			return out, fmt.Errorf("lane %s is %s at %d, before its end %d: %s", l.Partition, l.State, l.SourceNext, end, l.Reason)
		}
		out.Left++
		if l.SourceNext >= 0 {
			out.Records += left
		}
		if left > worst {
			worst, out.Worst = left, fmt.Sprintf("%s (%s)", l.Partition, l.State)
		}
	}
	return out, nil
}

// Narrow takes topics and patterns off a link that goes on with the others; with
// a pattern go the topics that it brought later on. Their copies stay on the
// target. What is not on the link is no error. A link of which nothing is left
// ends, as by Stop.
func (c *Client) Narrow(ctx context.Context, name starferry.LinkName, topics []starferry.Topic, patterns ...string) error {
	there, err := c.existing(ctx, name, topics)
	if err != nil {
		return fmt.Errorf("narrow %w", err)
	}
	_, err = c.change(ctx, name, func(s *LinkSpec) (bool, error) {
		before := len(s.Topics) + len(s.Patterns)
		s.Patterns = slices.DeleteFunc(slices.Clone(s.Patterns), func(p string) bool { return slices.Contains(patterns, p) })
		left, err := compile(s.Patterns)
		if err != nil {
			return false, err
		}
		for _, t := range topics {
			if n := left.which(t); n >= 0 && there[t] && s.has(t) {
				return false, fmt.Errorf("topic %s matches its pattern %s and would be back in seconds; take the pattern off too", t, s.Patterns[n])
			}
		}
		s.Topics = slices.DeleteFunc(slices.Clone(s.Topics), func(t starferry.Topic) bool {
			by, matched := broughtBy(s.AddedBy[t])
			return slices.Contains(topics, t) || matched && slices.Contains(patterns, by)
		})
		return len(s.Topics)+len(s.Patterns) != before, nil
	})
	if err != nil {
		return fmt.Errorf("narrow %w", err)
	}
	return nil
}

// existing tells which topics a link's source has.
func (c *Client) existing(ctx context.Context, name starferry.LinkName, topics []starferry.Topic) (map[starferry.Topic]bool, error) {
	out := map[starferry.Topic]bool{}
	st, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	spec, err := st.Link(ctx, name)
	if err != nil || len(spec.Patterns) == 0 || len(topics) == 0 {
		return out, err
	}
	src, err := c.cluster(spec.Source)
	if err != nil {
		return nil, err
	}
	m, err := src.Metadata(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("look up topics on %s: %w", spec.Source, err)
	}
	for _, t := range topics {
		out[t] = len(m.Topics[t].Partitions) > 0
	}
	return out, nil
}

// change edits a spec by compare-and-set. Edit works on a copy and says whether
// it changed something. A spec that names nothing any more is dropped.
func (c *Client) change(ctx context.Context, name starferry.LinkName, edit func(*LinkSpec) (bool, error)) (LinkSpec, error) {
	st, err := c.open(ctx)
	if err != nil {
		return LinkSpec{}, err
	}
	for {
		spec, err := st.Link(ctx, name)
		if err != nil {
			return spec, err
		}
		changed, err := edit(&spec)
		if err != nil {
			return spec, fmt.Errorf("link %s: %w", name, err)
		}
		if !changed {
			return spec, nil
		}
		if len(spec.Topics)+len(spec.Patterns) == 0 {
			err = st.DropLink(ctx, name, spec.Revision)
		} else {
			spec.Revision, err = st.PutLink(ctx, spec)
		}
		if !errors.Is(err, errChanged) {
			return spec, err
		}
	}
}

// Stop ends a link; its target topics stay, and so does what the target's
// state topic knows: a link of the same name goes on where this one ended.
// Stopping an unknown link is no error.
func (c *Client) Stop(ctx context.Context, name starferry.LinkName) error {
	st, err := c.open(ctx)
	if err != nil {
		return err
	}
	return st.DropLink(ctx, name, 0)
}
