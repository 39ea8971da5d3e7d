package consumer

import (
	"context"
	"time"

	"github.com/starferry/starferry/control/desired"
)

// homesWithin is how long NATS may take to tell what is stored of homes. A
// service does not wait for it: without an answer its configuration counts.
const homesWithin = 2 * time.Second

// withStored adds to the configured homes those that are stored in NATS. They
// matter for a group that has never committed anything.
func (c Config) withStored(ctx context.Context) Config {
	if c.NATS == nil || c.Home != "" || len(c.Clusters) < 2 {
		return c
	}
	ctx, cancel := context.WithTimeout(ctx, homesWithin)
	defer cancel()
	store, err := desired.OpenService(ctx, c.NATS, desired.Options{Logger: c.Logger})
	if err == nil {
		stored, _, herr := store.Homes(ctx)
		if err = herr; err == nil {
			c.Homes = c.Homes.With(stored)
			return c
		}
	}
	if c.Logger != nil {
		c.Logger.Warn("homes stored in NATS cannot be read; where a group without commits lives is what the configuration says", "group", c.Group, "error", err)
	}
	return c
}
