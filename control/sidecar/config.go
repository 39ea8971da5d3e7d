package sidecar

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/control/producer"
)

// Order is what stays in order.
type Order string

// The orders. The zero value is ByPartition.
const (
	// ByPartition: each record of a partition follows the one before.
	ByPartition Order = "partition"
	// ByKey: each record follows the one before of its key; up to
	// consumer.Config.Parallelism of a partition are under way at once.
	ByKey Order = "key"
)

// Encoding is how bytes of keys, values and headers stand in JSON.
type Encoding string

// The encodings. The zero value is Base64. What is no text in Text, or no JSON in
// JSON, stands in base64.
const (
	Base64 Encoding = "base64"
	Text   Encoding = "text" // UTF-8
	JSON   Encoding = "json" // values as they are; keys and headers as Text
)

// MaxBatch is how many records a delivery may hold. As many handled records with
// gaps between them fit into a commit.
const MaxBatch = 200

// MaxRetryAfter is how long a service may ask to be left alone at once.
const MaxRetryAfter = 5 * time.Minute

// Config is what Open needs to know.
type Config struct {
	// Consumer says which group it is, where it may live, and what becomes of
	// records that fail. Parallelism is for ByKey, 0 meaning 16. BatchMax bounds a
	// delivery, 0 meaning MaxBatch.
	Consumer consumer.Config
	// To is the address that deliveries are posted to.
	To string
	// Order is what stays in order.
	Order Order
	// Encoding is how bytes stand in deliveries, and in what is to be produced.
	Encoding Encoding
	// Requests is how many deliveries may be under way at once; 0 means 16.
	Requests int
	// Timeout is how long the service may take to answer; 0 means 30 s. A
	// rebalance and a switch wait for it.
	Timeout time.Duration
	// Listen is where the service asks for health, state and metrics and has
	// records produced: host:port, port 0 being any; empty: nowhere.
	Listen string
	// Beyond allows To and Listen to be beyond this machine. Nothing is encrypted
	// then, unless To is https, and nobody is asked who he is.
	Beyond bool
	// Produce are topics that the service may have records produced to; empty:
	// none. They follow their home as those of producer.Producer.
	Produce []starferry.Topic

	Logger *slog.Logger
}

func (c Config) checked() (Config, error) {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	c.defaults()
	switch u, err := url.Parse(c.To); {
	case c.To == "":
		bad("to is empty: give the address of the service, such as http://127.0.0.1:8080/records")
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		bad("to %q is no address: want http://HOST:PORT/PATH", c.To)
	case !c.Beyond && !local(u.Hostname()):
		bad("to %q is beyond this machine: use 127.0.0.1, or allow it", c.To)
	}
	if host, _, err := net.SplitHostPort(c.Listen); c.Listen != "" && err != nil {
		bad("listen %q: want HOST:PORT, such as 127.0.0.1:8090", c.Listen)
	} else if c.Listen != "" && !c.Beyond && !local(host) {
		bad("listen %q is open beyond this machine: use 127.0.0.1, or allow it", c.Listen)
	}
	switch {
	case c.Order == ByPartition && c.Consumer.Parallelism > 1:
		bad("parallelism %d with order by partition: records of a partition follow each other; order by key, or leave it out", c.Consumer.Parallelism)
	case c.Order != ByPartition && c.Order != ByKey:
		bad("order %q is unknown: use partition or key", c.Order)
	}
	if c.Encoding != Base64 && c.Encoding != Text && c.Encoding != JSON {
		bad("encoding %q is unknown: use base64, text or json", c.Encoding)
	}
	if n := c.Consumer.BatchMax; n < 1 || n > MaxBatch {
		bad("at most %d records in a delivery: want 1 to %d", n, MaxBatch)
	}
	if c.Requests < 1 {
		bad("%d deliveries at once: want 1 or more", c.Requests)
	}
	if wait := c.Consumer.RebalanceTimeout; c.Timeout < 0 || c.Timeout > wait*3/4 {
		bad("timeout %s: want more than 0 and at most three quarters of the rebalance timeout, which is %s", c.Timeout, wait)
	}
	if len(c.Produce) > 0 && c.Listen == "" {
		bad("topics to produce and no address to listen at: give one")
	}
	return c, errors.Join(errs...)
}

func (c *Config) defaults() {
	if c.Order == "" {
		c.Order = ByPartition
	}
	if c.Encoding == "" {
		c.Encoding = Base64
	}
	if c.Order == ByKey && c.Consumer.Parallelism == 0 {
		c.Consumer.Parallelism = 16
	}
	if c.Consumer.BatchMax == 0 {
		c.Consumer.BatchMax = MaxBatch
	}
	if c.Consumer.RebalanceTimeout == 0 {
		c.Consumer.RebalanceTimeout = time.Minute
	}
	if c.Requests == 0 {
		c.Requests = 16
	}
	if c.Timeout == 0 {
		c.Timeout = 30 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Consumer.Logger == nil {
		c.Consumer.Logger = c.Logger
	}
}

// producer is the configuration of what the service has produced.
func (c Config) producer(instance starferry.InstanceID, nc *nats.Conn) producer.Config {
	return producer.Config{
		Topics: c.Produce, Clusters: c.Consumer.Clusters, Home: c.Consumer.Home, Homes: c.Consumer.Homes,
		NATS: nc, Instance: instance, Logger: c.Consumer.Logger,
	}
}

// local reports whether a host is this machine.
func local(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}
