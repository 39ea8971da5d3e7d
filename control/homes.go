package control

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/starferry/starferry"
)

// Homes says where groups and topics live that no commit tells of yet, so that
// services name groups and topics and never clusters. It is a default: as soon
// as a commit says where a group lives, that counts. The zero value says
// nothing.
type Homes struct {
	Version int `json:"v,omitempty"` // ProtocolVersion where it is stored
	// Topics is a plain map that was imported. It goes before all rules.
	Topics map[starferry.Topic]starferry.ClusterName `json:"topics,omitempty"`
	// Rules in order: the first that matches counts.
	Rules []HomeRule `json:"rules,omitempty"`
	// Labels are given to groups and topics by their names, beside what
	// instances say of themselves. All that match give theirs; the first to give
	// a label counts.
	Labels []LabelRule `json:"labels,omitempty"`
	By     string      `json:"by,omitempty"` // who wrote it
	At     int64       `json:"at,omitempty"` // Unix milliseconds
}

// Names chooses groups and topics by patterns: * stands for any text, ? for one
// character. With neither list it chooses everything; with one of them, groups
// or topics alone.
type Names struct {
	Groups []string `json:"groups,omitempty"`
	Topics []string `json:"topics,omitempty"`
}

// HomeRule is one rule: what it chooses lives on Cluster. Names and labels must
// both fit. A rule with neither is for the rest.
type HomeRule struct {
	Names
	Labels  map[string]string     `json:"labels,omitempty"` // all of these
	Cluster starferry.ClusterName `json:"cluster"`
}

// LabelRule gives labels to what it chooses.
type LabelRule struct {
	Names
	Labels map[string]string `json:"labels"`
}

// MixedHomesError says that a group would have several homes. It has to be one:
// its place is committed on one cluster.
type MixedHomesError struct {
	Group starferry.Group
	// On are the topics by the cluster they live on. A rule of the group itself
	// that contradicts them is Own.
	On  map[starferry.ClusterName][]starferry.Topic
	Own string
}

// Error implements error.
func (e *MixedHomesError) Error() string {
	var parts []string
	for _, c := range slices.Sorted(maps.Keys(e.On)) {
		names := make([]string, len(e.On[c]))
		for i, t := range e.On[c] {
			names[i] = string(t)
		}
		parts = append(parts, fmt.Sprintf("on %s: %s", c, strings.Join(names, ", ")))
	}
	text := fmt.Sprintf("group %s reads topics that live on different clusters (%s)", e.Group, strings.Join(parts, "; "))
	if e.Own != "" {
		text = fmt.Sprintf("group %s is said to live %s, and its topics do not (%s)", e.Group, e.Own, strings.Join(parts, "; "))
	}
	return text + "; a group has one home: bring its topics together with a link, divide the group, or mend the rules"
}

// With is what the configuration says (h) together with what is stored, which
// goes before it.
func (h Homes) With(stored Homes) Homes {
	out := Homes{Topics: maps.Clone(h.Topics), Rules: slices.Concat(stored.Rules, h.Rules), Labels: slices.Concat(stored.Labels, h.Labels)}
	if out.Topics == nil {
		out.Topics = map[starferry.Topic]starferry.ClusterName{}
	}
	maps.Copy(out.Topics, stored.Topics)
	return out
}

// OfTopic says where a topic lives and by what; an empty name: nothing is said
// of it.
func (h Homes) OfTopic(t starferry.Topic) (cluster starferry.ClusterName, why string) {
	cluster, why, _ = h.topic(t)
	return cluster, why
}

// OfGroup says where a group lives that reads the given topics, and by what.
// Labels are those its instances say of themselves. A group without a rule lives
// where its topics do. What is said of topics by name or label binds their
// groups: if that differs, the answer is a *MixedHomesError. An empty name:
// nothing is said of it.
func (h Homes) OfGroup(g starferry.Group, topics []starferry.Topic, labels map[string]string) (cluster starferry.ClusterName, why string, err error) {
	on, first := map[starferry.ClusterName][]starferry.Topic{}, ""
	for _, t := range topics {
		if c, by, binds := h.topic(t); binds {
			on[c] = append(on[c], t)
			if first == "" {
				cluster, first = c, fmt.Sprintf("its topic %s: %s", t, by)
			}
		}
	}
	labels = h.LabelsOfGroup(g, labels)
	own, why := h.match(func(r HomeRule) bool { return r.group(g) && fits(r.Labels, labels) })
	switch {
	case len(on) > 1:
		return "", "", &MixedHomesError{Group: g, On: on}
	case own == nil:
		return cluster, first, nil
	case len(on) == 1 && own.Cluster != cluster && own.bare():
		return cluster, first, nil // the rest of the rules says less than its topics
	case len(on) == 1 && own.Cluster != cluster:
		return "", "", &MixedHomesError{Group: g, On: on, Own: fmt.Sprintf("on %s (%s)", own.Cluster, why)}
	}
	return own.Cluster, why, nil
}

// LabelsOfGroup are a group's labels: those given by name, and those its
// instances say of themselves where no rule gives another.
func (h Homes) LabelsOfGroup(g starferry.Group, own map[string]string) map[string]string {
	return h.labels(own, func(n Names) bool { return n.group(g) })
}

// LabelsOfTopic are a topic's labels.
func (h Homes) LabelsOfTopic(t starferry.Topic) map[string]string {
	return h.labels(nil, func(n Names) bool { return n.topic(t) })
}

func (h Homes) labels(own map[string]string, chosen func(Names) bool) map[string]string {
	out := map[string]string{}
	for _, r := range h.Labels {
		if !chosen(r.Names) {
			continue
		}
		for k, v := range r.Labels {
			if _, given := out[k]; !given {
				out[k] = v
			}
		}
	}
	for k, v := range own {
		if _, given := out[k]; !given {
			out[k] = v
		}
	}
	return out
}

// topic also tells whether the answer is said of this topic, and so binds the
// groups that read it, or only of the rest.
func (h Homes) topic(t starferry.Topic) (cluster starferry.ClusterName, why string, binds bool) {
	if c, ok := h.Topics[t]; ok {
		return c, "imported", true
	}
	labels := h.LabelsOfTopic(t)
	r, why := h.match(func(r HomeRule) bool { return r.topic(t) && fits(r.Labels, labels) })
	if r == nil {
		return "", "", false
	}
	return r.Cluster, why, !r.bare()
}

func (h Homes) match(fits func(HomeRule) bool) (*HomeRule, string) {
	for i := range h.Rules {
		if fits(h.Rules[i]) {
			return &h.Rules[i], fmt.Sprintf("rule %d, %s", i+1, h.Rules[i])
		}
	}
	return nil, ""
}

// bare reports whether the rule is for the rest.
func (r HomeRule) bare() bool { return len(r.Groups)+len(r.Topics)+len(r.Labels) == 0 }

// String tells what the rule chooses.
func (r HomeRule) String() string {
	var parts []string
	if len(r.Groups) > 0 {
		parts = append(parts, "groups "+strings.Join(r.Groups, ", "))
	}
	if len(r.Topics) > 0 {
		parts = append(parts, "topics "+strings.Join(r.Topics, ", "))
	}
	for _, k := range slices.Sorted(maps.Keys(r.Labels)) {
		parts = append(parts, k+"="+r.Labels[k])
	}
	if len(parts) == 0 {
		return "for the rest"
	}
	return strings.Join(parts, "; ")
}

func (n Names) group(g starferry.Group) bool { return n.choose(n.Groups, string(g)) }
func (n Names) topic(t starferry.Topic) bool { return n.choose(n.Topics, string(t)) }

func (n Names) choose(patterns []string, name string) bool {
	if len(n.Groups)+len(n.Topics) == 0 {
		return true
	}
	return slices.ContainsFunc(patterns, func(p string) bool { return Match(p, name) })
}

func fits(want, have map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || !Match(v, got) {
			return false
		}
	}
	return true
}

// Match reports whether a name fits a pattern in which * stands for any text,
// also an empty one, and ? for one character. There is no pattern that is wrong.
func Match(pattern, name string) bool {
	p, n := []rune(pattern), []rune(name)
	star, retry := -1, 0 // the last * and where the text that it stands for ends
	i, j := 0, 0
	for j < len(n) {
		switch {
		case i < len(p) && p[i] == '*':
			star, retry = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == n[j]):
			i, j = i+1, j+1
		case star >= 0:
			retry++
			i, j = star+1, retry
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}

// ParseHomes reads homes as JSON, the form in which they are stored and in which
// a service may be given them by its environment.
func ParseHomes(text []byte) (Homes, error) {
	var h Homes
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(&h); err != nil {
		return Homes{}, fmt.Errorf("read homes: %w; want JSON such as {\"rules\": [{\"groups\": [\"pay-*\"], \"cluster\": \"new\"}, {\"cluster\": \"old\"}]}", err)
	}
	if d.More() {
		return Homes{}, fmt.Errorf("read homes: more text after the JSON value; remove it")
	}
	if h.Version > ProtocolVersion {
		return Homes{}, fmt.Errorf("read homes: they are of protocol version %d and this program knows up to %d; upgrade it", h.Version, ProtocolVersion)
	}
	return h, h.Check(nil)
}

// Check says what is wrong with the rules: a rule without a cluster, one that is
// never reached, and, if clusters are given, a cluster that is none of them.
func (h Homes) Check(clusters []starferry.ClusterName) error {
	known := func(c starferry.ClusterName) error {
		switch {
		case c == "":
			return fmt.Errorf("no cluster: name the one it lives on")
		case len(clusters) > 0 && !slices.Contains(clusters, c):
			return fmt.Errorf("cluster %q is none of %v", c, clusters)
		}
		return nil
	}
	for i, r := range h.Rules {
		if err := known(r.Cluster); err != nil {
			return fmt.Errorf("homes: rule %d (%s): %w", i+1, r, err)
		}
		if r.bare() && i < len(h.Rules)-1 {
			return fmt.Errorf("homes: rule %d is for the rest, so that rule %d is never reached; put it last", i+1, i+2)
		}
	}
	for _, t := range slices.Sorted(maps.Keys(h.Topics)) {
		if err := known(h.Topics[t]); err != nil {
			return fmt.Errorf("homes: topic %s: %w", t, err)
		}
	}
	return nil
}
