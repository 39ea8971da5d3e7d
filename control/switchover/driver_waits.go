package switchover

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// Wait is one thing that the open barrier waits for: an instance, a member that
// is none, a partition, or a cluster, and what has to become of it.
type Wait struct {
	Instance  starferry.InstanceID     `json:"instance,omitempty"`
	Member    string                   `json:"member,omitempty"` // that is no live instance, as Kafka reports it
	Partition starferry.TopicPartition `json:"partition,omitzero"`
	Cluster   starferry.ClusterName    `json:"cluster,omitempty"`
	// What has to happen, as an infinitive: "to join new".
	What string `json:"what"`
	// Since is when this began, Unix milliseconds, if somebody has said so; else
	// whoever shows it knows since when it is waited for.
	Since int64 `json:"since,omitempty"`
}

// String is the wait in one clause, such as "i1 (orders/3) to finish 1201". It
// holds no times, so that it changes when the wait does.
func (w Wait) String() string {
	who := w.Who()
	if w.Partition != (starferry.TopicPartition{}) && who != w.Partition.String() {
		who += fmt.Sprintf(" (%s)", w.Partition)
	}
	return strings.TrimSpace(who + " " + w.What)
}

// Who is what is waited for: the instance, the member, or else the partition;
// empty for a group as a whole.
func (w Wait) Who() string {
	switch {
	case w.Instance != "":
		return string(w.Instance)
	case w.Member != "":
		return w.Member
	case w.Partition != (starferry.TopicPartition{}):
		return w.Partition.String()
	}
	return ""
}

// maxWaits is how many rows a Say carries at most.
const maxWaits = 100

func texts(waits []Wait) []string {
	out := make([]string, len(waits))
	for i, w := range waits {
		out[i] = w.String()
	}
	return out
}

// unread are reads that failed and are tried again.
func unread(failed []string) []Wait {
	waits := make([]Wait, len(failed))
	for i, f := range failed {
		waits[i] = thing("an answer: %s", f)
	}
	return waits
}

// partitions returns those with a commit, in order.
func (f Found) partitions() []starferry.TopicPartition {
	return slices.SortedFunc(maps.Keys(f), starferry.TopicPartition.Compare)
}

// someone waits for an instance.
func someone(i starferry.InstanceID, c starferry.ClusterName, format string, args ...any) Wait {
	return Wait{Instance: i, Cluster: c, What: strings.TrimSpace(fmt.Sprintf(format, args...))}
}

// lane waits for a partition.
func lane(tp starferry.TopicPartition, c starferry.ClusterName, format string, args ...any) Wait {
	return Wait{Partition: tp, Cluster: c, What: fmt.Sprintf(format, args...)}
}

// thing waits for the group as a whole.
func thing(format string, args ...any) Wait { return Wait{What: fmt.Sprintf(format, args...)} }

// inFlight are the partitions that keep an instance from being drained, and
// what of them is not finished.
func inFlight(l control.Lease, c starferry.ClusterName) []Wait {
	var waits []Wait
	for _, p := range l.Partitions {
		w := Wait{Instance: l.Instance, Partition: p.Partition, Cluster: c}
		switch {
		case p.Cluster != c || p.InFlight == 0:
			continue
		case p.Blocked != nil:
			w.What, w.Since = fmt.Sprintf("to finish record %d: its handler is busy", *p.Blocked), p.BlockedSince
		default:
			w.What = "to finish the records in flight"
		}
		waits = append(waits, w)
	}
	return waits
}
