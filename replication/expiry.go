package replication

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/starferry/starferry/internal/wire"
)

// renewEvery is how often an owner renews its transactional id at the latest.
const renewEvery = time.Hour

// expiry is how long a cluster remembers producers that are silent. Its brokers'
// settings say so; where they may not be read, Kafka's defaults stand.
type expiry struct {
	transactional time.Duration // of ids, at their coordinator
	producer      time.Duration // of producer ids, at each partition's leader
}

// The settings and their defaults.
const (
	transactionalSetting = "transactional.id.expiration.ms"
	transactionalDefault = 7 * 24 * time.Hour
	producerSetting      = "producer.id.expiration.ms"
	producerDefault      = 24 * time.Hour
)

// readExpiry asks all brokers, which may differ, and takes the shortest times.
func readExpiry(ctx context.Context, c *wire.Cluster) (expiry, error) {
	out := expiry{transactional: transactionalDefault, producer: producerDefault}
	m, err := c.Metadata(ctx)
	if err != nil {
		return out, fmt.Errorf("read how long producers are remembered: %w", err)
	}
	for _, b := range m.Brokers {
		got, err := c.BrokerSettings(ctx, b.ID, transactionalSetting, producerSetting)
		if err != nil {
			return out, fmt.Errorf("read how long producers are remembered: %w", err)
		}
		out.transactional = shorter(out.transactional, got[transactionalSetting])
		out.producer = shorter(out.producer, got[producerSetting])
	}
	return out, nil
}

// shorter reads a setting in milliseconds.
func shorter(d time.Duration, ms string) time.Duration {
	if n, err := strconv.ParseInt(ms, 10, 64); err == nil && n > 0 && n < d.Milliseconds() {
		return time.Duration(n) * time.Millisecond
	}
	return d
}

// expiring returns the target's times, asked for once.
func (c *copier) expiring(ctx context.Context) expiry {
	c.mu.Lock()
	known := c.expiry
	c.mu.Unlock()
	if known.producer > 0 {
		return known
	}
	short, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	got, err := readExpiry(short, c.tgt)
	if err != nil && !passing(err) {
		c.log.Info("taking Kafka's defaults for how long producers are remembered", "cluster", c.spec.Target, "err", err)
	}
	if err == nil || !passing(err) {
		c.mu.Lock()
		c.expiry = got
		c.mu.Unlock()
	}
	return got
}

// renewal is how often a bucket renews its transactional id.
func (c *copier) renewal(ctx context.Context) time.Duration {
	return min(c.renew, c.expiring(ctx).transactional/3)
}
