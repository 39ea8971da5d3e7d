package replication

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/starferry/starferry"
)

// Rename says what topics are called on the target. A topic with an entry of
// its own takes that name; all others follow the entry EveryTopic, a template in
// which {topic} stands for the source's name, such as "dc2.{topic}"; without one
// they keep their names. A template is what patterns need, which meet topics that
// nobody has named yet; single names are for topics that would clash.
type Rename map[starferry.Topic]string

// EveryTopic is the key of the template. No topic can bear that name.
const EveryTopic starferry.Topic = "*"

// placeholder stands for the source's name in a template.
const placeholder = "{topic}"

// TargetOf is the name that a source topic's copy has on the target.
func (s LinkSpec) TargetOf(t starferry.Topic) starferry.Topic { return s.Rename.target(t) }

// SourceOf is the source topic whose copy bears a name on the target. It is
// false if the link gives that name to no topic; whether the link copies the
// topic is another question.
func (s LinkSpec) SourceOf(t starferry.Topic) (starferry.Topic, bool) {
	for from, to := range s.Rename {
		if from != EveryTopic && to == string(t) {
			return from, true
		}
	}
	before, after := s.Rename.template()
	name, ok := strings.CutPrefix(string(t), before)
	if ok {
		name, ok = strings.CutSuffix(name, after)
	}
	from := starferry.Topic(name)
	if !ok || from == "" || s.Rename.target(from) != t {
		return "", false
	}
	return from, true
}

// targets are the names of the topics on the target, in the order of Topics.
func (s LinkSpec) targets() []starferry.Topic {
	out := make([]starferry.Topic, len(s.Topics))
	for i, t := range s.Topics {
		out[i] = s.TargetOf(t)
	}
	return out
}

// targetPart is the partition on the target that a lane writes.
func (s LinkSpec) targetPart(tp starferry.TopicPartition) starferry.TopicPartition {
	tp.Topic = s.TargetOf(tp.Topic)
	return tp
}

// sourcePart is the partition on the source whose copy a target partition is.
func (s LinkSpec) sourcePart(to starferry.TopicPartition) (starferry.TopicPartition, bool) {
	t, ok := s.SourceOf(to.Topic)
	to.Topic = t
	return to, ok
}

// laneOf is the source partition that a partition of a question speaks of.
func (s LinkSpec) laneOf(d starferry.Direction, tp starferry.TopicPartition) (starferry.TopicPartition, bool) {
	if d == starferry.Back {
		return s.sourcePart(tp)
	}
	return tp, true
}

// answerOf is the partition that an answer about a lane speaks of.
func (s LinkSpec) answerOf(d starferry.Direction, tp starferry.TopicPartition) starferry.TopicPartition {
	if d == starferry.Back {
		return tp
	}
	return s.targetPart(tp)
}

// String is as in a script.
func (r Rename) String() string {
	if len(r) == 0 {
		return "none"
	}
	parts := make([]string, 0, len(r))
	for _, t := range slices.Sorted(maps.Keys(r)) {
		parts = append(parts, fmt.Sprintf("%s: %s", t, r[t]))
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

func (r Rename) target(t starferry.Topic) starferry.Topic {
	if to, ok := r[t]; ok {
		return starferry.Topic(to)
	}
	if len(r) == 0 {
		return t
	}
	before, after := r.template()
	return starferry.Topic(before + string(t) + after)
}

// template is what stands before and after the source's name.
func (r Rename) template() (before, after string) {
	before, after, _ = strings.Cut(r[EveryTopic], placeholder)
	return before, after
}

// check reports the first name that no topic can have, and two topics that
// would be copied into one.
func (r Rename) check(topics []starferry.Topic) error {
	if t, ok := r[EveryTopic]; ok {
		if strings.Count(t, placeholder) != 1 {
			return fmt.Errorf("rename %q: want %s in it, once, such as \"dc2.%s\"", t, placeholder, placeholder)
		}
		if err := checkTopicName(strings.Replace(t, placeholder, "x", 1)); err != nil {
			return fmt.Errorf("rename %q: %w", t, err)
		}
	}
	for _, from := range slices.Sorted(maps.Keys(r)) {
		if from == EveryTopic {
			continue
		}
		if err := checkTopicName(string(from)); err != nil {
			return fmt.Errorf("rename of topic %q: %w", from, err)
		}
		if err := checkTarget(from, starferry.Topic(r[from])); err != nil {
			return err
		}
	}
	return r.collide(topics)
}

// collide checks the target names of source topics.
func (r Rename) collide(topics []starferry.Topic) error {
	if len(r) == 0 {
		return nil
	}
	taken := make(map[starferry.Topic]starferry.Topic, len(topics))
	for _, t := range topics {
		to := r.target(t)
		if err := checkTarget(t, to); err != nil {
			return err
		}
		if other, ok := taken[to]; ok && other != t {
			return fmt.Errorf("topics %s and %s would both be copied into %s: give one of them a name of its own in rename", other, t, to)
		}
		taken[to] = t
	}
	return nil
}

func checkTarget(from, to starferry.Topic) error {
	if err := checkTopicName(string(to)); err != nil {
		return fmt.Errorf("topic %s would become %q on the target: %w", from, to, err)
	}
	if ownTopic(to) {
		return fmt.Errorf("topic %s would become %s on the target, which belongs to that cluster itself; choose another name", from, to)
	}
	return nil
}

// maxTopicName is the longest name that Kafka gives a topic.
const maxTopicName = 249

var topicForm = regexp.MustCompile(`^[a-zA-Z0-9._-]+$`)

// checkTopicName applies Kafka's rules (org.apache.kafka.common.internals.Topic).
func checkTopicName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("empty topic name")
	case name == "." || name == "..":
		return fmt.Errorf("%q is no topic name in Kafka", name)
	case len(name) > maxTopicName:
		return fmt.Errorf("a topic name has at most %d characters, not %d", maxTopicName, len(name))
	case !topicForm.MatchString(name):
		return fmt.Errorf("a topic name consists of letters, digits, '.', '_' and '-'")
	}
	return nil
}

// ownTopic reports whether a topic belongs to a cluster itself, or to starferry
// on that cluster: such are not copied.
func ownTopic(t starferry.Topic) bool {
	return t == stateTopic || t == "__consumer_offsets" || t == "__transaction_state" || t == "__share_group_state" || t == "__cluster_metadata"
}
