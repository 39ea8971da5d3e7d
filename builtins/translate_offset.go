package builtins

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/scripting"
)

func translateOffsetEntry(p Ports, t typeSet) *scripting.Builtin {
	run := func(ctx context.Context, c scripting.Call) (any, error) {
		q, err := translateArgs(c)
		if err != nil {
			return nil, err
		}
		a, err := p.Translate(ctx, q)
		if err != nil {
			return nil, err
		}
		return fields(a, map[string]any{"missing": filledMap(a.Missing), "behind": filledMap(a.Behind)}) // there also when they are empty
	}
	return &scripting.Builtin{
		Name: "translate_offset", Class: scripting.Read, Rev: 1,
		Returns: "struct(asked, places, cut, answers, missing, behind, exact, inexact)",
		Doc: `Translates over a link where a group stands, where a time begins, or single offsets.
Give one of group, at and offsets. asked is the place on the side that was asked, cut its translation; places tell each
partition's from, to and status: exact, in_hole (the offset has no copy, for the reason given; the place is that of the next record that has one), at_end
(the copy has to go on, by behind offsets), before_start or unknown (never a guess). exact is True if every partition has a place
that will not move; inexact names the others and why.`,
		Example: `at = translate_offset(m.out.copy.link, "billing")
expect(at.exact, "exact places", found = at.inexact)
noon = translate_offset(m.out.copy.link, at = "2026-01-02T12:00:00Z", topics = ["orders"])
one = translate_offset(m.out.copy.link, offsets = ["orders/7@184223"], back = True)`,
		Params: []scripting.Param{
			{Name: "link", Type: t.link, Required: true, Doc: "the link", Complete: "links"},
			{Name: "group", Type: t.group, Doc: "the group whose committed place is translated", Complete: "groups"},
			{Name: "at", Type: timeType(), Doc: "the first records that are as old as this or newer"},
			{Name: "offsets", Type: t.list, Doc: "single places, as topic/partition@offset"},
			{Name: "topics", Type: t.list, Doc: "with group or at: only these topics; left out: all of the link, or of the group", Complete: "topics"},
			{Name: "back", Type: t.yes, Default: false, Doc: "True: from the link's target to its source; topics and offsets are then the target's"},
		},
		Run: run,
		Plan: func(ctx context.Context, c scripting.Call) (scripting.Prediction, error) {
			v, err := run(ctx, c)
			if errors.Is(err, ErrNotFound) && len(c.Earlier) > 0 {
				return scripting.Prediction{Verdict: scripting.UnknownUntilRun,
					Result: unknownFields("asked", "places", "cut", "answers", "missing", "behind", "exact", "inexact")}, nil
			}
			return scripting.Prediction{Verdict: scripting.HoldsNow, Result: v}, err
		},
	}
}

// timeType is a moment: RFC 3339 text, or Unix milliseconds.
func timeType() *scripting.Type {
	const example = "2026-01-02T03:04:05Z"
	return &scripting.Type{
		Name: "time", Doc: "a moment: RFC 3339, or milliseconds since 1970", Example: example,
		Parse: func(v any) (any, error) {
			switch v := v.(type) {
			case int64:
				return canonicalTime(strconv.FormatInt(v, 10))
			case string:
				return canonicalTime(v)
			case scripting.Typed:
				return canonicalTime(v.Text)
			}
			return nil, fmt.Errorf("want a time such as %q, or milliseconds since 1970", example)
		},
	}
}

func canonicalTime(s string) (any, error) {
	t, err := ParseTime(s)
	if err != nil {
		return nil, err
	}
	return t.UTC().Format(time.RFC3339Nano), nil
}

// ParseTime reads RFC 3339 text, or Unix milliseconds.
func ParseTime(s string) (time.Time, error) {
	if ms, err := strconv.ParseInt(s, 10, 64); err == nil && ms >= 0 && ms < 1<<53 {
		return time.UnixMilli(ms).UTC(), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil || t.UnixMilli() < 0 {
		return time.Time{}, fmt.Errorf("%q is no time: want one such as 2026-01-02T03:04:05Z, with its zone, or milliseconds since 1970", s)
	}
	return t, nil
}

func translateArgs(c scripting.Call) (TranslateRequest, error) {
	q := TranslateRequest{Link: starferry.LinkName(c.Args.Text("link")), Group: groupArg(c), Topics: topicsArg(c), Back: c.Args.Bool("back")}
	if s := c.Args.Text("at"); s != "" {
		at, err := ParseTime(s)
		if err != nil {
			return q, err
		}
		q.At = at
	}
	for _, s := range c.Args.Strings("offsets") {
		p, err := starferry.ParsePosition(s)
		if err != nil {
			return q, err
		}
		q.Offsets = append(q.Offsets, p)
	}
	return q, nil
}

// TranslateRequest asks for a translation over a link: of a group's committed
// place, of a time, or of single offsets. Exactly one of the three is set.
type TranslateRequest struct {
	Link    starferry.LinkName
	Group   starferry.Group
	At      time.Time
	Offsets []starferry.Position
	// Topics restricts group and time to some topics of the side that is asked.
	Topics []starferry.Topic
	// Back asks from the link's target to its source.
	Back bool
}

// TranslateAnswer is a translation with what was asked.
type TranslateAnswer struct {
	starferry.Translation
	Asked starferry.Cut `json:"asked"`
	// Places say the same partition by partition, in order.
	Places []TranslatedPlace `json:"places"`
	// Exact: every partition has a place that will not move. Inexact names the
	// others and why.
	Exact   bool     `json:"exact"`
	Inexact []string `json:"inexact"`
}

// Translate answers a request. It changes nothing.
func (p Ports) Translate(ctx context.Context, q TranslateRequest) (TranslateAnswer, error) {
	set := 0
	for _, given := range []bool{q.Group != "", !q.At.IsZero(), len(q.Offsets) > 0} {
		if given {
			set++
		}
	}
	if set != 1 {
		return TranslateAnswer{}, &scripting.UsageError{Text: "translate: give one of a group, a time and offsets"}
	}
	info, err := p.Copier.Link(ctx, q.Link)
	if err != nil {
		return TranslateAnswer{}, fmt.Errorf("look at link %s: %w", q.Link, err)
	}
	from, direction := info.Source, starferry.Forward
	if q.Back {
		from, direction = info.Target, starferry.Back
	}
	cut, err := p.asked(ctx, q, info, from)
	if err != nil {
		return TranslateAnswer{}, err
	}
	tr, err := p.Copier.Translate(ctx, q.Link, direction, cut)
	if err != nil {
		return TranslateAnswer{}, fmt.Errorf("translate over link %s: %w", q.Link, err)
	}
	inexact := inexactPlaces(tr)
	a := TranslateAnswer{Translation: tr, Asked: cut, Exact: len(cut) > 0 && len(inexact) == 0, Inexact: inexact, Places: []TranslatedPlace{}}
	for _, tp := range cut.Partitions() {
		place := TranslatedPlace{Partition: tp, From: cut[tp], Status: tr.Answers[tp].Status, Reason: tr.Answers[tp].Reason, Behind: tr.Behind[tp], Missing: tr.Missing[tp]}
		other := starferry.TopicPartition{Topic: info.across(tp.Topic, q.Back), Partition: tp.Partition}
		if to, ok := tr.Cut[other]; ok && place.Missing == "" {
			place.Across, place.To = &other, &to
		}
		a.Places = append(a.Places, place)
	}
	return a, nil
}

// TranslatedPlace is the translation of one partition's place.
type TranslatedPlace struct {
	Partition starferry.TopicPartition  `json:"partition"`
	From      starferry.Place           `json:"from"`
	Across    *starferry.TopicPartition `json:"across,omitempty"` // the partition on the other side
	To        *starferry.Place          `json:"to,omitempty"`     // absent if it is not known
	Status    starferry.Status          `json:"status,omitempty"`
	Reason    starferry.Reason          `json:"reason,omitempty"`  // of a hole
	Behind    int64                     `json:"behind,omitempty"`  // offsets that the copy has to pass first
	Missing   string                    `json:"missing,omitempty"` // why there is no place
}

// across is a topic's name on the other side of the link.
func (l LinkInfo) across(t starferry.Topic, back bool) starferry.Topic {
	from, to := l.Topics, l.TargetTopics
	if back {
		from, to = to, from
	}
	if i := slices.Index(from, t); i >= 0 && i < len(to) {
		return to[i]
	}
	return t
}

// asked is the cut that is to be translated.
func (p Ports) asked(ctx context.Context, q TranslateRequest, info LinkInfo, from starferry.ClusterName) (starferry.Cut, error) {
	switch {
	case q.Group != "":
		cut, err := p.Clusters.Committed(ctx, from, q.Group)
		if err != nil {
			return nil, fmt.Errorf("read place of group %s on %s: %w", q.Group, from, err)
		}
		cut = maps.Clone(cut)
		maps.DeleteFunc(cut, func(tp starferry.TopicPartition, _ starferry.Place) bool {
			return len(q.Topics) > 0 && !slices.Contains(q.Topics, tp.Topic)
		})
		return cut, nil
	case !q.At.IsZero():
		topics := q.Topics
		if len(topics) == 0 {
			topics = info.Topics
			if q.Back && len(info.TargetTopics) > 0 {
				topics = info.TargetTopics
			}
		}
		cut, err := p.Times.OffsetsAt(ctx, from, topics, q.At)
		if err != nil {
			return nil, fmt.Errorf("find records of %s on %s: %w", q.At.Format(time.RFC3339Nano), from, err)
		}
		return cut, nil
	}
	if len(q.Topics) > 0 {
		return nil, &scripting.UsageError{Text: "translate: offsets name their topics themselves; leave topics out"}
	}
	cut := starferry.Cut{}
	for _, o := range q.Offsets {
		if _, twice := cut[o.TopicPartition]; twice {
			return nil, &scripting.UsageError{Text: fmt.Sprintf("translate: partition %s is asked for twice; ask once for each of its offsets", o.TopicPartition)}
		}
		cut[o.TopicPartition] = starferry.Place{Next: o.Offset}
	}
	return cut, nil
}

// inexactPlaces says for each partition without a final place why not.
func inexactPlaces(tr starferry.Translation) []string {
	out := []string{}
	for _, tp := range slices.SortedFunc(maps.Keys(tr.Missing), starferry.TopicPartition.Compare) {
		out = append(out, fmt.Sprintf("%s: %s", tp, tr.Missing[tp]))
	}
	for _, tp := range slices.SortedFunc(maps.Keys(tr.Behind), starferry.TopicPartition.Compare) {
		out = append(out, fmt.Sprintf("%s: the copy is %d offsets short of it", tp, tr.Behind[tp]))
	}
	return out
}
