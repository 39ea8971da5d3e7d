package replication

import (
	"fmt"
	"hash/fnv"
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
	// Patterns bring all topics whose whole name matches one of them (RE2), also
	// those that are created later. They never match what belongs to a cluster
	// itself, nor names that begin with __.
	Patterns []string `json:"patterns,omitempty"`
	// Rename says what they are called on the target.
	Rename Rename `json:"rename,omitempty"`
	// From says where the copy of each partition begins: Earliest (or empty),
	// Latest (where it ends when the topic is asked for), a time in RFC 3339 (the
	// first record with it or a later one), or Listed: at its entry in Begin.
	// Partitions that come later begin at their start, or at the time.
	From string `json:"from,omitempty"`
	// Begin are the offsets that Listed asks for, or that Latest stood for.
	Begin map[starferry.TopicPartition]starferry.Offset `json:"begin,omitempty"`
	// Until says where the copy ends: empty for nowhere, Latest, a time (before
	// the first record with it or a later one, as it is when asked for), or
	// Listed: before its entry in Ends. Of partitions that come later nothing is
	// copied.
	Until string `json:"until,omitempty"`
	// Ends are the offsets that Listed asks for, or that the others stood for.
	Ends map[starferry.TopicPartition]starferry.Offset `json:"ends,omitempty"`
	// Sample is the share of the records that is copied, above 0 and below 1; 0
	// or 1: all. All records of a key are in it or none; those without a key are
	// taken by their place.
	Sample float64 `json:"sample,omitempty"`
	// Scrub lists parts of the records that are not to leave the source: the
	// constants Scrub*.
	Scrub []string `json:"scrub,omitempty"`
	// OnLoss says what happens when the source drops records before they were
	// copied; it may be changed.
	OnLoss OnLoss `json:"on_loss,omitempty"`
	// Buckets is fixed when the link is made: it decides which transactional id
	// stands behind a lane. 0 means DefaultBuckets.
	Buckets int `json:"buckets"`
	// RateBytes limits the copy of each shard, bytes per second; 0: no limit.
	RateBytes int64 `json:"rate_bytes,omitempty"`
	// VerifyBytes lets each shard compare the copies with their source all the
	// time, reading so many bytes per second from both clusters; 0: not.
	VerifyBytes int64 `json:"verify_bytes,omitempty"`
	// RateRecords limits the copy of each shard, records per second; 0: no limit.
	RateRecords int64 `json:"rate_records,omitempty"`
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
	matched       map[starferry.Topic]string // by which pattern
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
	case len(s.Topics) == 0 && len(s.Patterns) == 0:
		return fmt.Errorf("link %s: want at least one topic, or a pattern", s.Name)
	case s.Buckets < 0 || s.Buckets > maxBuckets:
		return fmt.Errorf("link %s: %d buckets: want 1 to %d", s.Name, s.Buckets, maxBuckets)
	case s.RateBytes < 0:
		return fmt.Errorf("link %s: rate %d: want bytes per second, or 0 for no limit", s.Name, s.RateBytes)
	case s.VerifyBytes < 0:
		return fmt.Errorf("link %s: verify at %d: want bytes per second, or 0 to compare nothing", s.Name, s.VerifyBytes)
	case s.RateRecords < 0:
		return fmt.Errorf("link %s: rate %d: want records per second, or 0 for no limit", s.Name, s.RateRecords)
	}
	for _, t := range s.Topics {
		if ownTopic(t) {
			return fmt.Errorf("link %s: topic %s belongs to a cluster itself and is not copied; take it out", s.Name, t)
		}
		if err := checkTopicName(string(t)); err != nil {
			return fmt.Errorf("link %s: topic %q: %w", s.Name, t, err)
		}
	}
	for _, check := range []func() error{func() error { return s.Rename.check(s.Topics) }, s.checkEdits, s.checkPlaces, s.checkPatterns} {
		if err := check(); err != nil {
			return fmt.Errorf("link %s: %w", s.Name, err)
		}
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
	s.Patterns = slices.Clone(s.Patterns)
	slices.Sort(s.Patterns)
	s.Patterns = slices.Compact(s.Patterns)
	return s.plain()
}

// plain returns the spec with the settings that mean the same written the same.
func (s LinkSpec) plain() LinkSpec {
	if s.Sample == 1 {
		s.Sample = 0
	}
	if s.From == Earliest {
		s.From = ""
	}
	if s.OnLoss == StopOnLoss {
		s.OnLoss = ""
	}
	s.Scrub = slices.Clone(s.Scrub)
	slices.Sort(s.Scrub)
	s.Scrub = slices.Compact(s.Scrub)
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
		s.differs(next) == nil
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
