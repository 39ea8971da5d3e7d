package conformance

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/starferry/starferry"
)

// The variables a client is started with.
const (
	envNATS      = "STARFERRY_NATS"
	envGroup     = "STARFERRY_GROUP"
	envTopics    = "STARFERRY_TOPICS"
	envInstance  = "STARFERRY_INSTANCE"
	envClusters  = "STARFERRY_CLUSTERS"
	envHome      = "STARFERRY_HOME"
	envStart     = "STARFERRY_START"
	envSession   = "STARFERRY_SESSION_MS"
	envHeartbeat = "STARFERRY_HEARTBEAT_MS"
	envRebalance = "STARFERRY_REBALANCE_MS"
	envCommit    = "STARFERRY_COMMIT_MS"
)

// block is the value of a record that is never handled.
const block = "block"

// Assignment is what a client is told by its environment.
type Assignment struct {
	NATS                                  string
	Group                                 starferry.Group
	Topics                                []starferry.Topic
	Instance                              starferry.InstanceID
	Clusters                              []starferry.Cluster
	Home                                  starferry.ClusterName
	Session, Heartbeat, Rebalance, Commit time.Duration
}

// environ is the assignment as variables.
func (a Assignment) environ() []string {
	var topics, clusters []string
	for _, t := range a.Topics {
		topics = append(topics, string(t))
	}
	for _, c := range a.Clusters {
		clusters = append(clusters, string(c.Name)+"="+strings.Join(c.Brokers, ","))
	}
	ms := func(name string, d time.Duration) string { return name + "=" + strconv.FormatInt(d.Milliseconds(), 10) }
	return []string{
		envNATS + "=" + a.NATS, envGroup + "=" + string(a.Group), envTopics + "=" + strings.Join(topics, ","),
		envInstance + "=" + string(a.Instance), envClusters + "=" + strings.Join(clusters, ";"), envHome + "=" + string(a.Home), envStart + "=earliest",
		ms(envSession, a.Session), ms(envHeartbeat, a.Heartbeat), ms(envRebalance, a.Rebalance), ms(envCommit, a.Commit),
	}
}

// ReadAssignment reads what a client was told.
func ReadAssignment(getenv func(string) string) (Assignment, error) {
	a := Assignment{NATS: getenv(envNATS), Group: starferry.Group(getenv(envGroup)), Instance: starferry.InstanceID(getenv(envInstance)), Home: starferry.ClusterName(getenv(envHome))}
	var errs []error
	for _, name := range []string{envNATS, envGroup, envTopics, envInstance, envClusters, envHome} {
		if getenv(name) == "" {
			errs = append(errs, fmt.Errorf("%s is not set", name))
		}
	}
	for _, t := range strings.Split(getenv(envTopics), ",") {
		a.Topics = append(a.Topics, starferry.Topic(t))
	}
	for _, c := range strings.Split(getenv(envClusters), ";") {
		name, brokers, _ := strings.Cut(c, "=")
		a.Clusters = append(a.Clusters, starferry.Cluster{Name: starferry.ClusterName(name), Brokers: strings.Split(brokers, ",")})
	}
	for name, into := range map[string]*time.Duration{envSession: &a.Session, envHeartbeat: &a.Heartbeat, envRebalance: &a.Rebalance, envCommit: &a.Commit} {
		if v := getenv(name); v != "" {
			ms, err := strconv.ParseInt(v, 10, 64)
			if err != nil || ms <= 0 {
				errs = append(errs, fmt.Errorf("%s is %q; want milliseconds", name, v))
			}
			*into = time.Duration(ms) * time.Millisecond
		}
	}
	if len(errs) > 0 {
		return a, fmt.Errorf("read assignment: %w; a client is started by starferry conformance, see docs/protocol.md", errors.Join(errs...))
	}
	return a, nil
}

// handled is one line.
type handled struct {
	partition starferry.TopicPartition
	offset    starferry.Offset
	cluster   starferry.ClusterName
}

// String is the line.
func (h handled) String() string {
	return fmt.Sprintf("%s %d %d %s", h.partition.Topic, h.partition.Partition, h.offset, h.cluster)
}

func parseLine(text string) (handled, error) {
	w := strings.Fields(text)
	if len(w) != 4 {
		return handled{}, fmt.Errorf("line %q: want TOPIC PARTITION OFFSET CLUSTER", text)
	}
	p, err1 := strconv.ParseInt(w[1], 10, 32)
	o, err2 := strconv.ParseInt(w[2], 10, 64)
	if err := errors.Join(err1, err2); err != nil || slices.Min([]int64{p, o}) < 0 {
		return handled{}, fmt.Errorf("line %q: want TOPIC PARTITION OFFSET CLUSTER, with numbers for the second and third", text)
	}
	return handled{starferry.TopicPartition{Topic: starferry.Topic(w[0]), Partition: starferry.Partition(p)}, starferry.Offset(o), starferry.ClusterName(w[3])}, nil
}
