package consumer

import (
	"context"
	"errors"
	"fmt"

	"github.com/starferry/starferry/control"
)

// State says how the instance stands: where the group lives as it knows it, its
// memberships, and of each of its partitions position, end and the record that
// is blocked. It is what its lease says, with NATS or without, and encodes as
// JSON.
func (c *Consumer) State(ctx context.Context) (control.Lease, error) {
	answer := make(chan control.Lease, 1)
	c.post(func() { answer <- c.compose() })
	select {
	case l := <-answer:
		return l, nil
	case <-c.ctx.Done():
		return control.Lease{}, fmt.Errorf("state of consumer %s: %w", c.cfg.Group, errClosed)
	case <-ctx.Done():
		return control.Lease{}, fmt.Errorf("state of consumer %s: %w", c.cfg.Group, context.Cause(ctx))
	}
}

// Health is nil while the instance does its work: it is a member of its group
// where the group lives, and refuses no partition. Otherwise it says what is
// wrong, each with what to do. A rebalance or a switch under way is no illness;
// a start that is not over is one, so that it serves as readiness too.
func (c *Consumer) Health(ctx context.Context) error {
	l, err := c.State(ctx)
	if err != nil {
		return err
	}
	var errs []error
	if l.Refusal != "" {
		errs = append(errs, errors.New(l.Refusal))
	}
	if l.Home == "" {
		errs = append(errs, fmt.Errorf("it does not know yet where the group lives: it reads the group's commits on %d clusters; are they reachable?", len(c.cfg.Clusters)))
	}
	if m := c.members[l.Home]; m != nil && !m.isAlive() {
		errs = append(errs, fmt.Errorf("the group's coordinator on %s, where the group lives, does not answer its heartbeats: is the cluster reachable, and may the principal read the group?", l.Home))
	}
	if len(errs) > 0 {
		return fmt.Errorf("consumer %s, instance %s: %w", c.cfg.Group, c.cfg.Instance, errors.Join(errs...))
	}
	return nil
}
