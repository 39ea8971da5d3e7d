package acl

import (
	"slices"
	"strings"
)

// Names are the real names that entries are for. A name that ends in * means all
// that begin so.
type Names struct {
	Topics []string // that groups read and links copy
	Groups []string
	Links  []string
	Retry  []string // retry topics of the groups: they are on the links as well
	Dead   []string // dead-letter topics; none: GROUP.skipped of each group
}

// Line is an entry for real names.
type Line struct {
	Part      Part      `json:"part"`
	On        Side      `json:"on,omitempty"` // empty: every cluster
	For       string    `json:"for"`
	Resource  Resource  `json:"resource"`
	Names     []string  `json:"names"`
	Prefixed  bool      `json:"prefixed,omitempty"`
	Operation Operation `json:"operation"`
	Requests  []string  `json:"requests"`
	Why       string    `json:"why"`
}

// Lines gives the entries of the list their names. Entries without a name, such
// as those about retry topics where there are none, are left out.
func Lines(entries []Entry, n Names) []Line {
	if len(n.Dead) == 0 {
		for _, g := range n.Groups {
			n.Dead = append(n.Dead, g+".skipped")
		}
	}
	var out []Line
	for _, e := range entries {
		line := Line{Part: e.Part, On: e.On, For: e.For, Resource: e.Resource, Prefixed: e.Prefixed, Operation: e.Operation, Requests: e.Requests, Why: e.Why}
		wide := line // the names that mean all that begin so
		wide.Prefixed = true
		for _, name := range e.names(n) {
			short, _, many := strings.Cut(name, "*")
			to := &line
			switch {
			case many && short != "":
				name, to = short, &wide
			case many:
				name, line.Prefixed = "*", false
			}
			if !slices.Contains(to.Names, name) {
				to.Names = append(to.Names, name)
			}
		}
		if line.Prefixed {
			line.Names, wide.Names = append(line.Names, wide.Names...), nil
		}
		for _, l := range []Line{line, wide} {
			if len(l.Names) > 0 {
				out = append(out, l)
			}
		}
	}
	return out
}

// names fills the placeholders of an entry's name.
func (e Entry) names(n Names) []string {
	topics := n.Topics
	if e.Part == Agent || e.Part == Shard {
		topics = append(slices.Clone(topics), n.Retry...) // links copy them too
	}
	for _, p := range []struct {
		holder string
		values []string
	}{{"{topic}", topics}, {"{group}", n.Groups}, {"{link}", n.Links}, {"{retry}", n.Retry}, {"{dead}", n.Dead}} {
		if !strings.Contains(e.Name, p.holder) {
			continue
		}
		var out []string
		for _, v := range p.values {
			out = append(out, strings.ReplaceAll(e.Name, p.holder, v))
		}
		return out
	}
	return []string{e.Name}
}

// Title says whose a line is, and where it holds.
func (l Line) Title() string {
	switch l.On {
	case Source:
		return string(l.Part) + ", on clusters that links read from"
	case Target:
		return string(l.Part) + ", on clusters that links write to"
	}
	return string(l.Part) + ", on every cluster"
}

// Command is the line as kafka-acls.sh takes it. Options come first, such as
// "--bootstrap-server kafka:9092".
func (l Line) Command(options, principal string) string {
	words := []string{"kafka-acls.sh"}
	if options != "" {
		words = append(words, options)
	}
	words = append(words, "--add", "--allow-principal", quoted(principal))
	if l.Resource == Cluster {
		words = append(words, "--cluster")
	} else {
		for _, n := range l.Names {
			words = append(words, "--"+string(l.Resource), quoted(n))
		}
		if l.Prefixed {
			words = append(words, "--resource-pattern-type", "prefixed")
		}
	}
	return strings.Join(append(words, "--operation", string(l.Operation)), " ")
}

// quoted makes one word for a shell.
func quoted(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-:/@+=,", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
