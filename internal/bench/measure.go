package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/process"
	"github.com/starferry/starferry/internal/wire"
)

// pollEvery is how often the target's end offsets are read. A run lasts
// seconds, so the error stays below one in a hundred.
const pollEvery = 20 * time.Millisecond

// Copy is what one copier did.
type Copy struct {
	Who     string
	Records int64 // from the first sight of records to the last
	Bytes   int64
	Took    time.Duration
	CPU     time.Duration // of the copier's process, user and system
	Broker  time.Duration // of the target broker's process
}

// PerSecond is records per second.
func (c Copy) PerSecond() float64 { return float64(c.Records) / c.Took.Seconds() }

// MBPerSecond is 10⁶ bytes of values per second.
func (c Copy) MBPerSecond() float64 { return float64(c.Bytes) / 1e6 / c.Took.Seconds() }

// CPUPerGB is processor seconds for each 10⁹ bytes of values.
func (c Copy) CPUPerGB() float64 { return c.CPU.Seconds() / (float64(c.Bytes) / 1e9) }

// PerCPUSecond is records per processor second.
func (c Copy) PerCPUSecond() float64 { return float64(c.Records) / c.CPU.Seconds() }

// BrokerPerGB is the target broker's processor seconds for each 10⁹ bytes.
func (c Copy) BrokerPerGB() float64 { return c.Broker.Seconds() / (float64(c.Bytes) / 1e9) }

// spent is the processor time of a copier and of the target's broker.
type spent struct{ copier, broker time.Duration }

func spentBy(copier *process.Process, target *side) (s spent, err error) {
	if s.copier, err = copier.CPU(); err != nil {
		return s, err
	}
	if s.broker, err = process.CPU(target.broker.Pid()); err != nil {
		return s, fmt.Errorf("processor time of the target broker: %w", err)
	}
	return s, nil
}

// watch waits until the partitions hold the load's records and measures from
// the first sight of any. Fences leave a marker or two in each partition, which
// count as records here: a handful in a million.
func watch(ctx context.Context, who string, target *side, lanes []starferry.TopicPartition, l Load, copier *process.Process) (Copy, error) {
	var began time.Time
	var first int64
	var before spent
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		sum, err := ends(ctx, target.cluster, lanes)
		now := time.Now()
		// Before the topic exists the answer is an error.
		if err == nil && began.IsZero() && sum > int64(2*len(lanes)) {
			began, first = now, sum
			if before, err = spentBy(copier, target); err != nil {
				return Copy{}, fmt.Errorf("measure %s: %w", who, err)
			}
		}
		if err == nil && sum >= int64(l.Records) {
			used, err := spentBy(copier, target)
			if err != nil {
				return Copy{}, fmt.Errorf("measure %s: %w", who, err)
			}
			n := int64(l.Records) - first
			if n <= 0 || !now.After(began) {
				return Copy{}, fmt.Errorf("measure %s: all %d records were there at first sight; take more with -records", who, l.Records)
			}
			return Copy{Who: who, Records: n, Bytes: n * int64(l.Size), Took: now.Sub(began),
				CPU: used.copier - before.copier, Broker: used.broker - before.broker}, nil
		}
		select {
		case <-ctx.Done():
			return Copy{}, fmt.Errorf("measure %s: %w with %d of %d records copied; it said:\n%s", who, context.Cause(ctx), sum, l.Records, copier.Tail())
		case <-copier.Done():
			return Copy{}, fmt.Errorf("measure %s: it ended with %d of %d records copied; it said:\n%s", who, sum, l.Records, copier.Tail())
		case <-tick.C:
		}
	}
}

// ends is the sum of the partitions' end offsets; a topic that does not exist
// yet has none.
func ends(ctx context.Context, c *wire.Cluster, tps []starferry.TopicPartition) (int64, error) {
	at, err := c.Offsets(ctx, tps, wire.Latest)
	if err != nil && len(at) == 0 {
		return 0, err
	}
	var sum int64
	for _, o := range at {
		sum += int64(o)
	}
	return sum, nil
}
