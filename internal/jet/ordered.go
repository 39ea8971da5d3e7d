package jet

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// orderedIdle is how long a server keeps an ordered consumer that nobody reads,
// where its reader could not delete it.
const orderedIdle = 30 * time.Second

// deleteWithin bounds how long deleting a consumer may take.
const deleteWithin = 2 * time.Second

// Ordered hands a new ordered consumer of a stream to read, and deletes it
// afterwards: closing its subscription leaves it with the server, which by
// default keeps it for five minutes and takes a limited number.
func Ordered(ctx context.Context, js jetstream.JetStream, stream string, cfg jetstream.OrderedConsumerConfig, read func(jetstream.Consumer) error) error {
	cfg.InactiveThreshold = orderedIdle
	c, err := js.OrderedConsumer(ctx, stream, cfg)
	if err != nil {
		return err
	}
	defer func() {
		info := c.CachedInfo() // of the last one: a consumer that was lost has been made again
		if info == nil {
			return
		}
		short, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteWithin)
		defer cancel()
		_ = js.DeleteConsumer(short, stream, info.Name) // or it is forgotten when idle
	}()
	return read(c)
}
