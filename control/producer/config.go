package producer

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/segmentio/kafka-go/compress"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// Config is what Open needs to know.
type Config struct {
	// Topics are what is written. A record of another topic is refused.
	Topics []starferry.Topic
	// Clusters are all clusters the topics may ever live on.
	Clusters []starferry.Cluster
	// Home is where topics live as long as no move of them is known. Left empty,
	// Homes say it; it is not needed if there is one cluster.
	Home starferry.ClusterName
	// Homes are the estate's rules, so that services name no clusters.
	Homes control.Homes
	// NATS connects the producer with the agent; nil works without. Its loss
	// stops nothing. The connection stays the caller's.
	NATS *nats.Conn
	// Instance names this process; it travels in Kafka's client id. Empty: a
	// random name.
	Instance starferry.InstanceID

	// Linger is how long a record may wait for others to travel with; 0: not at
	// all, records that come while a batch is under way travel together anyway.
	Linger time.Duration
	// BatchBytes is the largest batch, uncompressed; 0 means 256 KiB. A single
	// record may be larger. Brokers take 1 MiB (max.message.bytes) by default.
	BatchBytes int
	// BufferBytes bounds all records that are not acknowledged yet; when they are
	// so many, Send waits. 0 means 32 MiB.
	BufferBytes int
	// Compression is none, gzip, snappy, lz4 or zstd; empty: none.
	Compression string
	// DeliveryTimeout is how long a record may wait to be acknowledged, holds
	// included; 0 means 2 minutes.
	DeliveryTimeout time.Duration
	// HoldDeadline is how long a line holds without a word of the agent before it
	// finds out by itself where to go on, if the order does not say; 0 means 10 s.
	HoldDeadline time.Duration

	// Logger is told what happens; nil discards.
	Logger *slog.Logger
	Hooks  Hooks
}

// Hooks are called on the producer's own goroutines and must not block.
type Hooks struct {
	// Acknowledged is called after each batch that was written.
	Acknowledged func(c starferry.ClusterName, tp starferry.TopicPartition, records int, took time.Duration)
	// Failed is called for each batch that was given up, with its records.
	Failed func(c starferry.ClusterName, tp starferry.TopicPartition, records int, err error)
	// Moved is called when a topic goes on at another cluster, with how long it held.
	Moved func(t starferry.Topic, from, to starferry.ClusterName, held time.Duration)
}

// Header is one header of a record.
type Header struct {
	Key   string
	Value []byte
}

// Record is one record to be written. Its bytes are copied by Send.
type Record struct {
	Topic starferry.Topic
	// Partition is where it goes; nil: by the hash of its key, as the Java client
	// does (murmur2), and without a key to any partition, batch by batch (KIP-480).
	Partition *starferry.Partition
	Key       []byte // nil is null
	Value     []byte // nil is null
	Headers   []Header
	Timestamp time.Time // zero: now
}

// Result is what became of a record.
type Result struct {
	Cluster   starferry.ClusterName
	Topic     starferry.Topic
	Partition starferry.Partition
	// Offset is NoOffset if the broker says that the record was written and does
	// not remember where.
	Offset starferry.Offset
	Err    error
}

// Errors of records.
var (
	// ErrClosed: the producer was closed before the record was acknowledged.
	ErrClosed = errors.New("producer is closed")
	// ErrTimeout: the record was not written within DeliveryTimeout, and will not be.
	ErrTimeout = errors.New("not written in time")
	// ErrInDoubt: the record may have been written, or not, and it cannot be
	// known any more. Sending it again may write it twice.
	ErrInDoubt = errors.New("it may have been written, or not")
)

func (c Config) checked() (Config, error) {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if len(c.Topics) == 0 {
		bad("topics is empty: name at least one topic")
	}
	topics := map[starferry.Topic]bool{}
	for i, t := range c.Topics {
		if t == "" || topics[t] {
			bad("topic %d is %q, empty or given twice: remove it", i, t)
		}
		topics[t] = true
	}
	clusters := map[starferry.ClusterName]bool{}
	for i, cl := range c.Clusters {
		switch {
		case cl.Name == "":
			bad("cluster %d has no name: name it", i)
		case clusters[cl.Name]:
			bad("cluster %q is given twice: remove one", cl.Name)
		case len(cl.Brokers) == 0:
			bad("cluster %q has no brokers: give at least one host:port", cl.Name)
		}
		clusters[cl.Name] = true
	}
	if len(c.Clusters) == 0 {
		bad("clusters is empty: name at least one cluster")
	}
	for _, t := range c.Topics {
		if home := c.homeOf(t); len(c.Clusters) > 0 && !clusters[home] {
			bad("home %q of topic %s is none of the clusters: set home to one of them, or give rules", home, t)
		}
	}
	if _, err := codec(c.Compression); err != nil {
		errs = append(errs, err)
	}
	if c.BatchBytes < 0 || c.BufferBytes < 0 || c.Linger < 0 || c.DeliveryTimeout < 0 || c.HoldDeadline < 0 {
		bad("a size or time is negative: leave it 0 for its default")
	}
	c.defaults()
	return c, errors.Join(errs...)
}

func (c *Config) defaults() {
	if c.BatchBytes == 0 {
		c.BatchBytes = 256 << 10
	}
	if c.BufferBytes == 0 {
		c.BufferBytes = 32 << 20
	}
	if c.DeliveryTimeout == 0 {
		c.DeliveryTimeout = 2 * time.Minute
	}
	if c.HoldDeadline == 0 {
		c.HoldDeadline = 10 * time.Second
	}
	if c.Instance == "" {
		c.Instance = starferry.InstanceID("producer-" + token(4))
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// homeOf is where a topic lives as far as the configuration says.
func (c Config) homeOf(t starferry.Topic) starferry.ClusterName {
	if c.Home != "" {
		return c.Home
	}
	home, _ := c.Homes.OfTopic(t)
	if home == "" && len(c.Clusters) == 1 {
		home = c.Clusters[0].Name
	}
	return home
}

func codec(name string) (compress.Compression, error) {
	switch name {
	case "", "none":
		return compress.None, nil
	case "gzip":
		return compress.Gzip, nil
	case "snappy":
		return compress.Snappy, nil
	case "lz4":
		return compress.Lz4, nil
	case "zstd":
		return compress.Zstd, nil
	}
	return 0, fmt.Errorf("compression %q is unknown: use none, gzip, snappy, lz4 or zstd", name)
}

// token returns n random bytes as hex.
func token(n int) string {
	b := make([]byte, n)
	rand.Read(b) //nolint:errcheck // crypto/rand.Read never returns an error
	return hex.EncodeToString(b)
}
