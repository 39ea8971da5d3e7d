package consumer

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// Start says where a partition begins that has no commit anywhere.
type Start string

// The start policies. The zero value is Refuse: a partition is never started at
// its beginning or end by accident.
const (
	Refuse   Start = ""
	Earliest Start = "earliest"
	Latest   Start = "latest"
)

// Config is what Open needs to know.
type Config struct {
	Group  starferry.Group
	Topics []starferry.Topic
	// Clusters are all clusters the group may ever live on.
	Clusters []starferry.Cluster
	// Home is where the group lives as long as no commit says anything else.
	// Left empty, Homes say it; it is not needed if there is one cluster.
	Home starferry.ClusterName
	// Homes are the estate's rules, so that services name no clusters.
	Homes control.Homes
	// NATS connects the instance with the agent; nil works without. Its loss
	// stops nothing. The connection stays the caller's.
	NATS *nats.Conn
	// Instance names this process; it travels in Kafka's client id. Empty: a
	// random name.
	Instance starferry.InstanceID
	Labels   map[string]string
	// Static makes Instance the group.instance.id of a static member (KIP-345):
	// a process that ends and comes back within SessionTimeout gets its
	// partitions without a rebalance; nobody else gets them meanwhile. The name
	// must be one process's own: of two with one name the first is fenced, hands
	// out nothing more and says so in its log and Health.
	Static bool
	// Start says where partitions without a commit begin.
	Start Start

	// CommitInterval is how often low-water marks are committed; 0 means 200 ms.
	CommitInterval time.Duration
	// CommitEach commits each record, or batch, before the next of its partition
	// (with Parallelism, of its worker) is handed out: a kill repeats no more
	// than what was in hand. It costs a round trip each.
	CommitEach bool
	// SessionTimeout and HeartbeatInterval as Kafka's session.timeout.ms and
	// heartbeat.interval.ms; 0 means 10 s and 1 s.
	SessionTimeout    time.Duration
	HeartbeatInterval time.Duration
	// RebalanceTimeout is how long a rebalance waits for this instance to
	// finish what is in flight, as Kafka's max.poll.interval.ms; 0 means 60 s.
	RebalanceTimeout time.Duration
	// DrainDeadline is how long the instance stands still for a switch when no
	// agent says otherwise; 0 means 30 s.
	DrainDeadline time.Duration
	// QueueHigh and QueueLow bound the records waiting per partition: at high
	// its fetching stops, at low it goes on; 0 means 2000 and half of high.
	QueueHigh, QueueLow int
	// FetchWait is the longest a broker holds back an empty answer; 0 means
	// 500 ms.
	FetchWait time.Duration
	// Parallelism is how many records of one partition are handled at once. Those
	// of one key stay in order; what is handled ahead of the low-water mark is
	// committed with it. 0 and 1: one after the other.
	Parallelism int
	// BatchMax is how many records a BatchHandler gets at most; 0 means 500.
	BatchMax int
	// RetryMin and RetryMax bound the pause before a record whose handler
	// failed is handed out again; 0 means 100 ms and 10 s.
	RetryMin, RetryMax time.Duration
	// Failure says what becomes of a record whose handler keeps failing.
	Failure Failure
	// StayOnClose keeps the membership when the consumer closes, until its
	// session times out: for restarts that are faster than that. A static member
	// always stays.
	StayOnClose bool

	// Logger is told what happens; nil discards.
	Logger *slog.Logger
	Hooks  Hooks

	steps func(string) // told each step of a redistribution before it is taken; for tests
}

// Hooks are called on the consumer's own goroutine and must not block.
type Hooks struct {
	// Assigned is called when fetching begins, Revoked when nothing is in
	// flight any more.
	Assigned func(starferry.ClusterName, []starferry.TopicPartition)
	Revoked  func(starferry.ClusterName, []starferry.TopicPartition)
	// Committed is called after each commit of the group's progress that the
	// coordinator has accepted: what lies below is not handed out again.
	Committed func(starferry.ClusterName, starferry.Cut)
	// Deaf is called for each record whose handler has been told to stop, by the
	// end of its context, and goes on. Its partition cannot be given away
	// meanwhile.
	Deaf func(starferry.ClusterName, starferry.TopicPartition, starferry.Offset, time.Duration)
}

// Handler handles one record. An error makes it be called again with the same
// record, after a pause; the partition waits, or with Parallelism the record's
// key. The context ends when the record is skipped or the consumer can wait no
// longer; a handler that then returns an error has not handled the record. See
// Again and Hopeless for errors that say more.
type Handler func(ctx context.Context, r Record) error

// BatchHandler handles records of one partition, in order: what is there, at
// most Config.BatchMax. An error makes it be called again with the same records,
// but for those that were skipped meanwhile, or that a Partly says are handled.
type BatchHandler func(ctx context.Context, rs []Record) error

// Record is one record as a handler sees it.
type Record struct {
	Cluster   starferry.ClusterName
	Topic     starferry.Topic
	Partition starferry.Partition
	Offset    starferry.Offset
	Key       []byte
	Value     []byte
	Headers   []Header
	Timestamp time.Time
	// Attempts is how often it was handed out in the topics it went through
	// before, if it comes out of a retry topic; its coordinates are the original
	// ones.
	Attempts int
	// Tries is how often it was handed out before and failed, here and since its
	// partition was assigned.
	Tries int
}

// Header is one header of a record.
type Header struct {
	Key   string
	Value []byte
}

// TopicPartition names the record's partition.
func (r Record) TopicPartition() starferry.TopicPartition {
	return starferry.TopicPartition{Topic: r.Topic, Partition: r.Partition}
}

// groupInstance is what a broker takes as group.instance.id.
var groupInstance = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

func (c Config) checked() (Config, error) {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if c.Group == "" {
		bad("group is empty: name the consumer group")
	}
	if len(c.Topics) == 0 {
		bad("topics is empty: name at least one topic")
	}
	if len(c.Clusters) == 0 {
		bad("clusters is empty: name at least one cluster")
	}
	seen := map[starferry.ClusterName]bool{}
	for i, cl := range c.Clusters {
		switch {
		case cl.Name == "":
			bad("cluster %d has no name: name it", i)
		case seen[cl.Name]:
			bad("cluster %q is given twice: remove one", cl.Name)
		case len(cl.Brokers) == 0:
			bad("cluster %q has no brokers: give at least one host:port", cl.Name)
		}
		seen[cl.Name] = true
	}
	home, err := c.home()
	switch {
	case err != nil:
		bad("find home: %w", err)
	case home == "" && len(c.Clusters) > 0:
		bad("no home: neither homes nor home say where the group lives; set home to one of the clusters, or give rules")
	case len(c.Clusters) > 0 && !seen[home]:
		bad("home %q is none of the clusters: set it to one of them", home)
	}
	c.Home = home
	if !slices.Contains([]Start{Refuse, Earliest, Latest}, c.Start) {
		bad("start %q is unknown: use earliest, latest, or leave it empty to refuse", c.Start)
	}
	errs = append(errs, c.Failure.check(c.Topics)...)
	if c.Parallelism < 0 || c.Parallelism > maxAhead {
		bad("parallelism %d: want 0 to %d; what is handled ahead has to fit into a commit", c.Parallelism, maxAhead)
	}
	if c.BatchMax < 0 {
		bad("at most %d records in a batch: want 1 or more, or 0 for 500", c.BatchMax)
	}
	if c.Static && !groupInstance.MatchString(string(c.Instance)) {
		bad("static membership of instance %q: set Instance to a name that this process keeps when it restarts, of 1 to 249 letters, digits, '.', '_' and '-'", c.Instance)
	}
	c.Topics = slices.Concat(c.Topics, c.Failure.topics())
	c.defaults()
	if c.HeartbeatInterval*2 > c.SessionTimeout {
		bad("heartbeat interval %s is more than half the session timeout %s: lower it", c.HeartbeatInterval, c.SessionTimeout)
	}
	return c, errors.Join(errs...)
}

// home is where the group lives as far as the configuration says.
func (c Config) home() (starferry.ClusterName, error) {
	if c.Home != "" {
		return c.Home, nil
	}
	home, _, err := c.Homes.OfGroup(c.Group, c.Topics, c.Labels)
	if home == "" && len(c.Clusters) == 1 {
		home = c.Clusters[0].Name
	}
	return home, err
}

func (c *Config) defaults() {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&c.CommitInterval, 200*time.Millisecond)
	set(&c.SessionTimeout, 10*time.Second)
	set(&c.HeartbeatInterval, min(time.Second, c.SessionTimeout/3))
	set(&c.RebalanceTimeout, time.Minute)
	set(&c.DrainDeadline, 30*time.Second)
	set(&c.FetchWait, 500*time.Millisecond)
	set(&c.RetryMin, 100*time.Millisecond)
	set(&c.RetryMax, max(c.RetryMin, 10*time.Second))
	if c.QueueHigh <= 0 {
		c.QueueHigh = 2000
	}
	if c.QueueLow <= 0 || c.QueueLow >= c.QueueHigh {
		c.QueueLow = c.QueueHigh / 2
	}
	if c.Instance == "" {
		c.Instance = starferry.InstanceID("instance-" + token(4))
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// token returns n random bytes as hex.
func token(n int) string {
	b := make([]byte, n)
	rand.Read(b) //nolint:errcheck // crypto/rand.Read never returns an error
	return hex.EncodeToString(b)
}
