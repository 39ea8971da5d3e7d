package control

import (
	"errors"
	"fmt"
	"slices"

	"github.com/starferry/starferry"
)

// What is stored may have been written by any program. Check says what of a
// value cannot be obeyed: a word that is not known, or an order that lacks what
// it needs. Unknown fields are no error: a newer writer of the same version may
// have added them.

// Check says what is wrong with a placement.
func (p Placement) Check() error {
	switch {
	case !slices.Contains([]Phase{Steady, Prepare, Drain, Seed, Decide, Announce}, p.Phase):
		return fmt.Errorf("phase is %q; want steady, prepare, drain, seed, decide or announce", p.Phase)
	case p.Active == "":
		return errors.New("active is empty; want the cluster the group lives on")
	case p.Epoch < 0:
		return fmt.Errorf("epoch is %d; want 0 or more", p.Epoch)
	case p.Open() && (p.Target == "" || p.Target == p.Active):
		return fmt.Errorf("target is %q and active %q in phase %s; want the cluster the group is to go to", p.Target, p.Active, p.Phase)
	}
	if !p.External && (p.Phase == Seed || p.Phase == Decide) && (p.Actor == nil || len(p.Cut) == 0) {
		return fmt.Errorf("an order to %s without actor or cut; want both", p.Phase)
	}
	return errors.Join(checkCut("cut", p.Cut), checkCut("seeds", p.Seeds))
}

func checkCut(name string, c starferry.Cut) error {
	for tp, place := range c {
		if place.Next < 0 {
			return fmt.Errorf("%s says %d of %s; want an offset", name, place.Next, tp)
		}
		for _, r := range place.Handled {
			if err := checkRange(r); err != nil {
				return fmt.Errorf("%s of %s: %w", name, tp, err)
			}
		}
	}
	return nil
}

func checkRange(r starferry.Range) error {
	if r.From < 0 || r.To < r.From {
		return fmt.Errorf("range [%d, %d) ends before it begins", r.From, r.To)
	}
	return nil
}

// Check says what is wrong with settings.
func (s Settings) Check() error {
	var errs []error
	if s.Throttle != nil {
		errs = append(errs, s.Throttle.check("throttle"))
	}
	for tp, t := range s.Throttles {
		errs = append(errs, t.check("throttle of "+tp.String()))
	}
	for _, sk := range s.Skips {
		if err := checkRange(sk.Range); err != nil {
			errs = append(errs, fmt.Errorf("skip %s of %s: %w", sk.ID, sk.Partition, err))
		}
	}
	for _, h := range s.Holds {
		if h.Partition != nil && h.Topic == "" {
			errs = append(errs, fmt.Errorf("hold %s names partition %d of no topic", h.ID, *h.Partition))
		}
	}
	for _, r := range s.Rewinds {
		for tp, o := range r.Places {
			if o < 0 {
				errs = append(errs, fmt.Errorf("rewind %s takes %s to %d; want an offset", r.ID, tp, o))
			}
		}
	}
	return errors.Join(append(errs, s.Overflow.check())...)
}

func (t Throttle) check(what string) error {
	if t.Rate < 0 || t.Parallelism < 0 || t.DelayMS < 0 || t.QueueHigh < 0 || t.QueueLow < 0 {
		return fmt.Errorf("%s has a limit below 0; want 0 for none", what)
	}
	return nil
}

func (o *Overflow) check() error {
	switch {
	case o == nil:
		return nil
	case o.Order != KeyOrder && o.Order != NoOrder:
		return fmt.Errorf("overflow %s has order %q; want key or none", o.ID, o.Order)
	case o.Phase != OverflowPrepare && o.Phase != OverflowMove && o.Phase != OverflowClose:
		return fmt.Errorf("overflow %s has phase %q; want prepare, move or close", o.ID, o.Phase)
	case o.Topic == "":
		return fmt.Errorf("overflow %s has no topic", o.ID)
	}
	return nil
}

// Check says what is wrong with the placement of a topic's producers.
func (p TopicPlacement) Check() error {
	switch {
	case !slices.Contains([]Phase{Steady, Prepare, HoldSends, Announce}, p.Phase):
		return fmt.Errorf("phase is %q; want steady, prepare, hold or announce", p.Phase)
	case p.Active == "":
		return errors.New("active is empty; want the cluster they write to")
	case p.Open() && (p.Target == "" || p.Target == p.Active):
		return fmt.Errorf("target is %q and active %q in phase %s; want the cluster they are to go to", p.Target, p.Active, p.Phase)
	}
	return nil
}
