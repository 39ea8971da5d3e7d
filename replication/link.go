package replication

import (
	"fmt"
	"hash/fnv"
	"maps"
	"regexp"
	"slices"

	"github.com/starferry/starferry"
)

// DefaultBuckets is how many buckets a link has unless its spec says otherwise.
const DefaultBuckets = 64

// maxBuckets bounds a table, which travels as one value.
const maxBuckets = 1024

// specVersion is of the specs that this version writes and understands.
const specVersion = 2

// LinkSpec is what is wanted of a link. It is stored in JetStream, under the
// link's name, and changed by compare-and-set.
//
// Rename, From, Until, Sample and Scrub decide what becomes of a source offset.
// They are fixed when the link is made: another answer later would contradict
// the map, which counts.
type LinkSpec struct {
	Version int                   `json:"v"`
	Name    starferry.LinkName    `json:"name"`
	Source  starferry.ClusterName `json:"source"`
	Target  starferry.ClusterName `json:"target"`
	Topics  []starferry.Topic     `json:"topics"` // in order, no duplicates
	// Rename says what they are called on the target.
	Rename Rename `json:"rename,omitempty"`
	// Buckets is fixed when the link is made: it decides which transactional id
	// stands behind a lane. 0 means DefaultBuckets.
	Buckets int `json:"buckets"`
	// RateBytes limits the copy of each shard, bytes per second; 0: no limit.
	RateBytes int64 `json:"rate_bytes,omitempty"`
	// VerifyBytes lets each shard compare the copies with their source all the
	// time, reading so many bytes per second from both clusters; 0: not.
	VerifyBytes int64 `json:"verify_bytes,omitempty"`
	// Paused keeps the link and copies nothing; translations are answered. It is
	// changed by Pause, Resume and Drain.
	Paused bool `json:"paused,omitempty"`
	// Attempt grows when somebody asks for the link again: lanes that have
	// stopped then try once more.
	Attempt int64 `json:"attempt,omitempty"`
	// Made is when the link was made, Unix milliseconds.
	Made int64 `json:"made,omitempty"`
	// Token is that of a request, so that a repeated one knows its own work again.
	Token string `json:"token,omitempty"`
	// AddedBy says by which token each topic was added; the entry of the empty
	// topic is the token of the request that made the link.
	AddedBy map[starferry.Topic]string `json:"added_by,omitempty"`
	// Revision is the KV revision the spec was read at.
	Revision uint64 `json:"-"`

	// What Ensure did to it.
	made, changed bool
	fresh         map[starferry.Topic]bool
}

// Names become part of transactional ids, NATS subjects and KV keys.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// Check reports the first thing that is wrong with a spec.
func (s LinkSpec) Check() error {
	switch {
	case !nameForm.MatchString(string(s.Name)):
		return fmt.Errorf("link name %q: want 1 to 64 letters, digits, - or _", s.Name)
	case s.Source == "" || s.Target == "":
		return fmt.Errorf("link %s: want a source and a target cluster", s.Name)
	case s.Source == s.Target:
		return fmt.Errorf("link %s: source and target are both %s; a link leads to another cluster", s.Name, s.Source)
	case len(s.Topics) == 0:
		return fmt.Errorf("link %s: want at least one topic", s.Name)
	case s.Buckets < 0 || s.Buckets > maxBuckets:
		return fmt.Errorf("link %s: %d buckets: want 1 to %d", s.Name, s.Buckets, maxBuckets)
	case s.RateBytes < 0:
		return fmt.Errorf("link %s: rate %d: want bytes per second, or 0 for no limit", s.Name, s.RateBytes)
	case s.VerifyBytes < 0:
		return fmt.Errorf("link %s: verify at %d: want bytes per second, or 0 to compare nothing", s.Name, s.VerifyBytes)
	}
	for _, t := range s.Topics {
		if ownTopic(t) {
			return fmt.Errorf("link %s: topic %s belongs to a cluster itself and is not copied; take it out", s.Name, t)
		}
		if err := checkTopicName(string(t)); err != nil {
			return fmt.Errorf("link %s: topic %q: %w", s.Name, t, err)
		}
	}
	if err := s.Rename.check(s.Topics); err != nil {
		return fmt.Errorf("link %s: %w", s.Name, err)
	}
	return nil
}

// normal returns the spec with defaults filled in and topics in order.
func (s LinkSpec) normal() LinkSpec {
	s.Version = specVersion
	if s.Buckets == 0 {
		s.Buckets = DefaultBuckets
	}
	s.Topics = slices.Clone(s.Topics)
	slices.Sort(s.Topics)
	s.Topics = slices.Compact(s.Topics)
	return s
}

// has reports whether a source topic is on the link.
func (s LinkSpec) has(t starferry.Topic) bool {
	_, ok := slices.BinarySearch(s.Topics, t)
	return ok
}

// follows reports whether a shard that runs s can go over to next without
// beginning anew.
func (s LinkSpec) follows(next LinkSpec) bool {
	return s.Made == next.Made && s.Source == next.Source && s.Target == next.Target && s.Buckets == next.Buckets &&
		s.RateBytes == next.RateBytes && maps.Equal(s.Rename, next.Rename)
}

// BucketOf says which bucket a lane belongs to. The partitions of one topic
// follow each other through the buckets, so a topic's load spreads evenly.
func (s LinkSpec) BucketOf(tp starferry.TopicPartition) int {
	h := fnv.New32a()
	h.Write([]byte(tp.Topic))
	return int((uint64(h.Sum32()) + uint64(tp.Partition)) % uint64(max(s.Buckets, 1)))
}

// txid is the transactional id of a bucket: the fence between its owners.
func (s LinkSpec) txid(bucket int) string {
	return fmt.Sprintf("starferry.%s.%d", s.Name, bucket)
}
