package fleet

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
)

// PauseOrder asks a group to hand out nothing, or nothing of one topic or
// partition. Its members stay members.
type PauseOrder struct {
	Group     starferry.Group
	Topic     starferry.Topic      // empty: all
	Partition *starferry.Partition // of Topic; nil: all of it
	For       time.Duration        // ends it by itself; 0 means until it is resumed
	By, Why   string
	Token     string
}

// ResumeOrder ends pauses: the one of an id, or all that are of just this topic
// or partition; without any of these, every pause of the group.
type ResumeOrder struct {
	Group     starferry.Group
	ID        string
	Topic     starferry.Topic
	Partition *starferry.Partition
	By, Why   string
	Token     string
}

// Pause holds a group, and returns when every instance knows it: from then on no
// record begins. What was in hand by then is finished.
func (f *Fleet) Pause(ctx context.Context, o PauseOrder) (Receipt, error) {
	if o.For < 0 || o.Partition != nil && o.Topic == "" {
		return Receipt{}, fmt.Errorf("pause %s: a partition needs its topic, and a time that is not below 0", o.Group)
	}
	h := control.Hold{ID: "pause-" + token(o.Token), Topic: o.Topic, Partition: o.Partition, By: o.By, Why: o.Why, At: f.c.Now().UnixMilli()}
	detail := fmt.Sprintf("%s as %s", heldText(h), h.ID)
	if o.For > 0 {
		h.Until = f.c.Now().Add(o.For).UnixMilli()
		detail += fmt.Sprintf(" for %v", o.For)
	}
	event := desired.Event{Group: o.Group, What: "pause", Who: o.By, Why: o.Why, Token: o.Token, Detail: detail}
	r, err := f.change(ctx, event, func(v *control.Settings) bool {
		if slices.ContainsFunc(v.Holds, func(x control.Hold) bool { return x.ID == h.ID }) {
			return false
		}
		now := f.c.Now().UnixMilli()
		v.Holds = slices.DeleteFunc(v.Holds, func(x control.Hold) bool { return x.Until != 0 && x.Until <= now })
		v.Holds = append(v.Holds, h)
		return true
	})
	r.ID = h.ID
	if err != nil {
		return r, fmt.Errorf("pause %s: %w", o.Group, err)
	}
	return r, nil
}

// Resume ends pauses, and returns when every instance knows it. Ending what is
// not paused is no error.
func (f *Fleet) Resume(ctx context.Context, o ResumeOrder) (Receipt, error) {
	meant := func(h control.Hold) bool {
		switch {
		case o.ID != "":
			return h.ID == o.ID
		case o.Topic == "":
			return true
		case o.Partition == nil:
			return h.Topic == o.Topic && h.Partition == nil
		}
		return h.Topic == o.Topic && h.Partition != nil && *h.Partition == *o.Partition
	}
	detail := heldText(control.Hold{Topic: o.Topic, Partition: o.Partition})
	if o.ID != "" {
		detail = o.ID
	}
	event := desired.Event{Group: o.Group, What: "resume", Who: o.By, Why: o.Why, Token: o.Token, Detail: detail}
	r, err := f.change(ctx, event, func(v *control.Settings) bool {
		n := len(v.Holds)
		v.Holds = slices.DeleteFunc(v.Holds, meant)
		return len(v.Holds) != n
	})
	r.ID = o.ID
	if err != nil {
		return r, fmt.Errorf("resume %s: %w", o.Group, err)
	}
	return r, nil
}

func heldText(h control.Hold) string {
	switch {
	case h.Topic == "":
		return "the whole group"
	case h.Partition == nil:
		return string(h.Topic)
	}
	return starferry.TopicPartition{Topic: h.Topic, Partition: *h.Partition}.String()
}
