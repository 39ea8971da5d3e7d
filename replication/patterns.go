package replication

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

const (
	maxTopics   = 20_000 // of a link
	maxPatterns = 16
	maxPattern  = 1000 // characters
	// foundAtOnce bounds how many topics are taken up at a time, and listings
	// take at most one part in listShare of the time.
	foundAtOnce = 100
	listShare   = 200
	listAtLeast = time.Minute
)

// matchedBy marks in AddedBy the topics that a pattern brought later on.
const matchedBy = "match:"

// patterns match whole names of topics.
type patterns []*regexp.Regexp

// compile checks patterns (RE2, https://github.com/google/re2/wiki/Syntax).
func compile(texts []string) (patterns, error) {
	if len(texts) > maxPatterns {
		return nil, fmt.Errorf("%d patterns: want at most %d; join them with |", len(texts), maxPatterns)
	}
	out := make(patterns, len(texts))
	for i, text := range texts {
		if text == "" || len(text) > maxPattern || strings.ContainsFunc(text, unicode.IsControl) {
			return nil, fmt.Errorf("pattern %q: want 1 to %d characters, none of them a control character", text, maxPattern)
		}
		re, err := regexp.Compile(`^(?:` + text + `)$`)
		if err != nil {
			return nil, fmt.Errorf("pattern %q: %w", text, err)
		}
		out[i] = re
	}
	return out, nil
}

// which is the place of the first pattern that matches a topic, -1 if none does.
// What belongs to a cluster itself, or to the systems around it (__...), is only
// copied when it is named.
func (p patterns) which(t starferry.Topic) int {
	if ownTopic(t) || strings.HasPrefix(string(t), "__") {
		return -1
	}
	return slices.IndexFunc(p, func(re *regexp.Regexp) bool { return re.MatchString(string(t)) })
}

// checkPatterns reports the first thing that is wrong with a link's patterns.
func (s LinkSpec) checkPatterns() error {
	if _, err := compile(s.Patterns); err != nil {
		return err
	}
	if len(s.Patterns) > 0 && s.Until != "" {
		return errors.New("until does not go together with patterns, which look for topics to come: name the topics")
	}
	if len(s.Topics) > maxTopics {
		return fmt.Errorf("%d topics: a link takes up to %d; share them between several", len(s.Topics), maxTopics)
	}
	return nil
}

// expand adds the topics that match now to those that are named.
func (s LinkSpec) expand(ctx context.Context, src *wire.Cluster, others []LinkSpec) (LinkSpec, error) {
	if len(s.Patterns) == 0 {
		return s, nil
	}
	ps, err := compile(s.Patterns)
	if err != nil {
		return s, err
	}
	names, err := src.TopicNames(ctx)
	if err != nil {
		return s, err
	}
	s.matched = map[starferry.Topic]string{}
	named := s.Topics
	s.Topics = slices.Clone(s.Topics)
	for _, t := range names {
		if n := ps.which(t); n >= 0 && !slices.Contains(named, t) && !brought(others, s, t) {
			s.Topics = append(s.Topics, t)
			s.matched[t] = s.Patterns[n]
		}
	}
	return s, s.Check()
}

// by is what AddedBy says of a topic that a request added: its token, behind the
// pattern that brought the topic.
func (s LinkSpec) by(t starferry.Topic) string {
	if p, ok := s.matched[t]; ok {
		return matchedBy + p + "\n" + s.Token
	}
	return s.Token
}

// broughtBy is the pattern that brought a topic, according to AddedBy.
func broughtBy(by string) (pattern string, ok bool) {
	by, ok = strings.CutPrefix(by, matchedBy)
	pattern, _, _ = strings.Cut(by, "\n")
	return pattern, ok
}

// Matching lists the topics of a cluster that match a pattern now.
func (c *Client) Matching(ctx context.Context, on starferry.ClusterName, texts []string) ([]starferry.Topic, error) {
	ps, err := compile(texts)
	if err != nil {
		return nil, err
	}
	k, err := c.cluster(on)
	if err != nil {
		return nil, err
	}
	names, err := k.TopicNames(ctx)
	return slices.DeleteFunc(names, func(t starferry.Topic) bool { return ps.which(t) < 0 }), err
}

// find looks for topics that match, makes their targets and puts them on the
// link. One shard does it, the owner of the first bucket.
func (c *copier) find(ctx context.Context) {
	c.mu.Lock()
	spec, mine := c.now, c.buckets[0] != nil
	due := time.Now().After(c.listNext)
	c.mu.Unlock()
	if len(spec.Patterns) == 0 || !mine || !due {
		return
	}
	began := time.Now()
	short, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	names, err := c.src.TopicNames(short)
	took := time.Since(began)
	c.mu.Lock()
	c.listNext = time.Now().Add(min(listShare*took, listAtLeast))
	c.mu.Unlock()
	if err != nil {
		if ctx.Err() == nil {
			c.log.Warn("patterns not looked up", "link", c.spec.Name, "err", err)
		}
		return
	}
	found, problems := c.fresh(short, spec, names)
	c.mu.Lock()
	c.problems = problems
	c.mu.Unlock()
	if len(found) == 0 {
		return
	}
	if err := c.takeUp(short, found); err != nil && !errors.Is(err, errChanged) && ctx.Err() == nil {
		c.log.Warn("new topics not taken up", "link", c.spec.Name, "err", err)
		return
	}
	c.log.Info("new topics match", "link", c.spec.Name, "topics", slices.Sorted(maps.Keys(found)))
}

// doubts is for how many looks a topic is left alone that the link back may be
// about to put among its own: it makes the copy's topic first.
const doubts = 3

// fresh returns the topics that match and are not on the link yet, with the
// pattern that brought them, once their targets are there; and why others cannot
// be copied.
func (c *copier) fresh(ctx context.Context, spec LinkSpec, names []starferry.Topic) (found, problems map[starferry.Topic]string) {
	found, problems = map[starferry.Topic]string{}, map[starferry.Topic]string{}
	ps, err := compile(spec.Patterns)
	if err != nil {
		return found, problems // checked when the spec was read
	}
	others, err := c.store.Links(ctx)
	if err != nil {
		c.log.Warn("other links not read", "link", c.spec.Name, "err", err)
		return found, problems
	}
	doubted := map[starferry.Topic]int{}
	defer func() { c.doubted = doubted }()
	taken := map[starferry.Topic]starferry.Topic{}
	if len(spec.Rename) > 0 {
		for _, t := range spec.Topics {
			taken[spec.TargetOf(t)] = t
		}
	}
	for _, t := range names {
		n := ps.which(t)
		if n < 0 || spec.has(t) || len(found) == foundAtOnce || brought(others, spec, t) {
			continue
		}
		if c.doubted[t] < doubts && mayBring(others, spec, t) {
			doubted[t] = c.doubted[t] + 1
			continue
		}
		one := spec
		one.Topics = []starferry.Topic{t}
		err := one.Rename.collide(one.Topics)
		if other, ok := taken[spec.TargetOf(t)]; ok {
			err = fmt.Errorf("it would be copied into %s, as topic %s is: give one of them a name of its own, on another link", spec.TargetOf(t), other)
		}
		if len(spec.Topics)+len(found) >= maxTopics {
			err = fmt.Errorf("the link has %d topics already, and takes no more: make another one for the rest", maxTopics)
		}
		if err == nil {
			err = ring(others, one)
		}
		if err == nil {
			err = makeTopics(ctx, c.src, c.tgt, one)
		}
		if err != nil {
			problems[t] = err.Error()
			continue
		}
		found[t], taken[spec.TargetOf(t)] = spec.Patterns[n], t
	}
	return found, problems
}

// takeUp puts topics on the link, if its spec is still the one they were found
// by. The change comes back to all shards as any other.
func (c *copier) takeUp(ctx context.Context, found map[starferry.Topic]string) error {
	spec, err := c.store.Link(ctx, c.spec.Name)
	if err != nil {
		return err
	}
	next := spec
	next.AddedBy = maps.Clone(spec.AddedBy)
	next.Topics = slices.Clone(spec.Topics)
	for t, pattern := range found {
		if slices.Contains(spec.Patterns, pattern) && !spec.has(t) {
			next.AddedBy[t] = matchedBy + pattern
			next.Topics = append(next.Topics, t)
		}
	}
	_, err = c.store.PutLink(ctx, next.normal())
	return err
}
