package chaos

import (
	"context"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry/internal/chaos/ground"
	"github.com/starferry/starferry/internal/chaos/proxy"
)

// handDeck is everything that may happen while hands are laid on a group: what
// may happen in a switch, but for what has to be armed before it and for a lost
// memory of NATS, and more about owners of hot partitions and writers.
func handDeck(real bool, c *crew) []deed {
	d := slices.DeleteFunc(deck(real), func(d deed) bool {
		return d.arm != nil || d.name == "empty NATS" || d.name == "add partition" || d.name == "scale"
	})
	writers := []string{"writer-1", "writer-2"}
	owner := []string{"of the partition"}
	d = append(d,
		deed{name: "kill -9 the owner", weight: 5, takes: owner, run: onOwner(kill)},
		deed{name: "slow owner, then kill -9", weight: 5, takes: owner, run: onOwner(slowThenKill)},
		deed{name: "freeze the owner", weight: 3, takes: owner, run: onOwner(freeze)},
		deed{name: "cut link of the owner", weight: 3, takes: owner, run: onOwner(cut(proxy.Weather{Refused: true}))},
		deed{name: "slow copy", weight: 3, takes: []string{"shards"}, run: slowCopy},
		deed{name: "kill -9 writer", weight: 4, takes: writers, run: kill},
		deed{name: "freeze writer", weight: 2, takes: writers, run: freeze},
		deed{name: "cut link of writer", weight: 2, takes: writers, run: cut(proxy.Weather{Refused: true})},
		deed{name: "frozen link of writer", weight: 2, takes: writers, run: cut(proxy.Weather{Frozen: true})},
		deed{name: "slow link of writer", weight: 2, takes: writers, run: slow},
		deed{name: "writer cut from NATS", weight: 2, takes: writers, run: cutNATS},
		deed{name: "writer without answers", weight: 2, takes: writers, run: trick(proxy.Trick{Key: kmsg.Produce, Deed: proxy.LoseAnswer, Times: 3})},
	)
	for _, k := range []kmsg.Key{kmsg.InitProducerID, kmsg.AddPartitionsToTxn, kmsg.Produce, kmsg.AddOffsetsToTxn, kmsg.TxnOffsetCommit, kmsg.EndTxn} {
		d = append(d, deed{name: "owner: no answer to " + k.Name(), weight: 1, takes: owner, run: onOwner(trick(proxy.Trick{Key: k, Deed: proxy.LoseAnswer, Times: 2}))})
	}
	return d
}

// onOwner does a deed to whoever owns the hot partition.
func onOwner(f func(context.Context, *trial) error) func(context.Context, *trial) error {
	return func(ctx context.Context, t *trial) error {
		t.fault.What = t.owner(ctx)
		return f(ctx, t)
	}
}

// slowThenKill has a process die in the middle of whatever takes several round
// trips.
func slowThenKill(ctx context.Context, t *trial) error {
	for _, p := range t.w.ways[t.fault.What].kafka {
		p.Set(proxy.Weather{Delay: 80 * time.Millisecond})
	}
	ground.Pause(ctx, t.part(1500*time.Millisecond))
	return kill(ctx, t)
}

// slowCopy has both links lag behind.
func slowCopy(ctx context.Context, t *trial) error {
	if err := t.w.weather(proxy.Weather{Delay: t.part(200 * time.Millisecond)}, shardRoles()...); err != nil {
		return err
	}
	ground.Pause(ctx, 4*time.Second)
	return nil
}
