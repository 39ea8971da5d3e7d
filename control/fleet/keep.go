package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/switchover"
	"github.com/starferry/starferry/internal/wire"
)

// keepsIn decides where a skip puts what it passes, and sees to it that the
// topic is there before anybody needs it.
func (f *Fleet) keepsIn(ctx context.Context, o *SkipOrder) error {
	if o.Drop {
		o.Keep = ""
		return nil
	}
	leases, err := f.c.Store.Leases(ctx, o.Group)
	if err != nil {
		return err
	}
	if o.Keep == "" {
		o.Keep = keepTopic(o.Group, leases)
	}
	reads := func(l control.Lease) bool { return slices.Contains(l.Topics, o.Keep) }
	if o.Keep == o.Partition.Topic || slices.ContainsFunc(leases, reads) {
		return fmt.Errorf("topic %s cannot keep what the group is to be spared: it reads that topic; name another", o.Keep)
	}
	return f.ensureKeep(ctx, o.Cluster, o.Keep, o.Partition.Topic)
}

// keepTopic is the dead-letter topic that the group's instances name, or one of
// its own.
func keepTopic(g starferry.Group, leases []control.Lease) starferry.Topic {
	for _, l := range leases {
		if l.DeadLetter != "" {
			return l.DeadLetter
		}
	}
	return starferry.Topic(g) + ".skipped"
}

// ensureKeep makes the topic if it is missing, with as many partitions as the
// one whose records it keeps, for as long as nobody deletes it.
func (f *Fleet) ensureKeep(ctx context.Context, c starferry.ClusterName, keep, of starferry.Topic) error {
	w, err := f.cluster(c)
	if err != nil {
		return err
	}
	meta, err := w.Metadata(ctx, keep, of)
	if err != nil {
		return fmt.Errorf("look for topic %s on %s: %w", keep, c, err)
	}
	if len(meta.Topics[keep].Partitions) > 0 {
		return nil
	}
	err = w.CreateTopic(ctx, wire.TopicSpec{
		Topic: keep, Partitions: max(1, len(meta.Topics[of].Partitions)), Replication: -1,
		Configs: map[string]string{"retention.ms": "-1"},
	})
	w.Forget(keep)
	if err != nil && !errors.Is(err, kafka.TopicAlreadyExists) {
		return fmt.Errorf("make topic %s on %s, where skipped records are kept: %w; create it, or name another, or drop the records", keep, c, err)
	}
	return nil
}

func keeping(t starferry.Topic) string {
	if t == "" {
		return "not kept"
	}
	return "kept in " + string(t)
}

// obsoleteAfter is how long a skip stays on record once the group has passed it:
// a run that is resumed looks for its own.
const obsoleteAfter = 24 * time.Hour

// obsolete reports whether a skip has nothing left to pass.
func (f *Fleet) obsolete(s control.Skip, c starferry.ClusterName, at switchover.Found) bool {
	x, ok := at[s.Partition]
	return ok && s.Cluster == c && s.Range.To <= x.Offset && f.c.Now().Sub(time.UnixMilli(s.At)) > obsoleteAfter
}
