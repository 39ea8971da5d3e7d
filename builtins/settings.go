package builtins

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/scripting"
)

// LinkSettings are what a link does beside copying topics as they are.
type LinkSettings struct {
	// Match are patterns (RE2) of topics to copy, also of those to come.
	Match []string
	// Rename gives topics other names on the target; "*" is a template with
	// {topic} for all others.
	Rename map[string]string
	// From and Until say where each partition begins and ends: "earliest",
	// "latest", a time in RFC 3339, or "listed", with the offsets below.
	From, Until string
	Begin, Ends map[starferry.TopicPartition]starferry.Offset
	// Sample is the share of the records that is copied; 0: all.
	Sample float64
	// Scrub lists parts of records that are not to leave the source.
	Scrub []string
	// OnLoss is "stop" or "continue".
	OnLoss string
}

// listed means that offsets are given one by one.
const listed = "listed"

// settingParams are the parameters of replicate that make LinkSettings.
func settingParams(t typeSet) []scripting.Param {
	return []scripting.Param{
		{Name: "match", Type: patternType(), Doc: "patterns of topics (RE2, the whole name), also of those that are created later"},
		{Name: "rename", Type: renameType(), Doc: `names on the target: a template such as "dc2.{topic}", or {"orders": "orders_v2", "*": "dc2.{topic}"}`},
		{Name: "from_", Type: placeType("earliest, latest"), Doc: `where a copy begins: earliest (if left out), latest, a time, or {"orders/0": 17}`},
		{Name: "until", Type: placeType("latest"), Doc: `where it ends: latest, a time, or {"orders/0": 99}, which is not copied; nowhere if left out`},
		{Name: "sample", Type: scripting.FloatType(), Doc: "copy this share of the records, such as 0.05; all records of a key or none"},
		{Name: "scrub", Type: t.list, Doc: `for rehearsals: of "key" (hashed), "value" and "headers" (zeroed) nothing leaves the source`},
		{Name: "on_loss", Type: t.text, Default: "stop", Doc: "if the source deletes records before they are copied: stop, or continue without them"},
	}
}

// patternType keeps a pattern whole: commas belong to it.
func patternType() *scripting.Type {
	return &scripting.Type{Name: "patterns", Doc: "a pattern of topic names, or a list of them", Example: `orders\..*`, Parse: func(v any) (any, error) {
		list, ok := v.([]any)
		if s, one := v.(string); one {
			list, ok = []any{s}, true
		}
		for i, e := range list {
			if _, text := e.(string); !text {
				return nil, fmt.Errorf("element %d is no text; want patterns such as \"orders\\\\..*\"", i)
			}
		}
		if !ok || len(list) == 0 {
			return nil, fmt.Errorf("want a pattern such as \"orders\\\\..*\", or a list of patterns")
		}
		return list, nil
	}}
}

func renameType() *scripting.Type {
	return &scripting.Type{Name: "rename", Doc: "names of topics on the target", Example: "dc2.{topic}", Parse: func(v any) (any, error) {
		switch v := v.(type) {
		case string:
			return map[string]any{"*": v}, nil
		case map[string]any:
			for k, to := range v {
				if _, ok := to.(string); !ok {
					return nil, fmt.Errorf("the new name of %q is no text", k)
				}
			}
			return v, nil
		}
		return nil, fmt.Errorf(`want a template such as "dc2.{topic}", or {"orders": "orders_v2"}`)
	}}
}

// placeType takes a word, a time, or offsets by partition; a cut, as
// translate_offset gives it, is read by where it goes on.
func placeType(words string) *scripting.Type {
	want := fmt.Errorf(`want %s, a time such as "2026-01-31T18:00:00Z", or offsets such as {"orders/0": 17}`, words)
	return &scripting.Type{Name: "place", Doc: "a place in each partition", Example: "latest", Parse: func(v any) (any, error) {
		switch v := v.(type) {
		case string:
			_, err := time.Parse(time.RFC3339, v)
			if err != nil && !slices.Contains(strings.Split(words, ", "), v) {
				return nil, want
			}
			return v, nil
		case map[string]any:
			out := map[string]any{}
			for k, o := range v {
				if place, ok := o.(map[string]any); ok {
					o = place["next"]
				}
				n, ok := whole(o)
				if _, err := parsePartition(k); err != nil || !ok || n < 0 {
					return nil, fmt.Errorf("%q: %v: %w", k, o, want)
				}
				out[k] = n
			}
			if len(out) > 0 {
				return out, nil
			}
		}
		return nil, want
	}}
}

func whole(v any) (int64, bool) {
	switch n := v.(type) {
	case int64:
		return n, true
	case float64: // as JSON gives it
		return int64(n), n == math.Trunc(n) && math.Abs(n) < 1<<53
	}
	return 0, false
}

func parsePartition(s string) (tp starferry.TopicPartition, err error) {
	i := strings.LastIndexByte(s, '/')
	if i < 1 {
		return tp, fmt.Errorf("%q: want topic/partition", s)
	}
	n, err := strconv.ParseInt(s[i+1:], 10, 32)
	if err != nil || n < 0 {
		return tp, fmt.Errorf("%q: want topic/partition", s)
	}
	return starferry.TopicPartition{Topic: starferry.Topic(s[:i]), Partition: starferry.Partition(n)}, nil
}

// settingsOf reads the settings of a call.
func settingsOf(c scripting.Call) (LinkSettings, error) {
	s := LinkSettings{Match: c.Args.Strings("match"), Scrub: c.Args.Strings("scrub"), OnLoss: c.Args.Text("on_loss")}
	if m, ok := c.Args["rename"].(map[string]any); ok && len(m) > 0 {
		s.Rename = map[string]string{}
		for k, v := range m {
			s.Rename[k], _ = v.(string)
		}
	}
	switch v := c.Args["sample"].(type) {
	case float64:
		s.Sample = v
	case int64:
		s.Sample = float64(v)
	}
	if c.Args.Has("sample") && !(s.Sample > 0 && s.Sample <= 1) {
		return s, fmt.Errorf("replicate: sample %v: want a share above 0 and up to 1, such as 0.05", s.Sample)
	}
	if s.OnLoss != "" && s.OnLoss != "stop" && s.OnLoss != "continue" {
		return s, fmt.Errorf(`replicate: on_loss %q: want "stop" or "continue"`, s.OnLoss)
	}
	for _, part := range s.Scrub {
		if part != "key" && part != "value" && part != "headers" {
			return s, fmt.Errorf(`replicate: scrub %q: want some of "key", "value" and "headers"`, part)
		}
	}
	s.From, s.Begin = placeOf(c.Args["from_"])
	s.Until, s.Ends = placeOf(c.Args["until"])
	if s.Until != "" && len(s.Match) > 0 {
		return s, fmt.Errorf("replicate: until does not go together with match, which looks for topics to come; name the topics")
	}
	return s, nil
}

func placeOf(v any) (string, map[starferry.TopicPartition]starferry.Offset) {
	switch v := v.(type) {
	case string:
		return v, nil
	case map[string]any:
		out := map[starferry.TopicPartition]starferry.Offset{}
		for k, o := range v {
			tp, err := parsePartition(k)
			if n, ok := whole(o); ok && err == nil {
				out[tp] = starferry.Offset(n)
			}
		}
		return listed, out
	}
	return "", nil
}

// args are the arguments that ask for the same settings again.
func (s LinkSettings) args() scripting.Args {
	out := scripting.Args{}
	if len(s.Match) > 0 {
		out["match"] = texts(s.Match)
	}
	if len(s.Rename) > 0 {
		m := map[string]any{}
		for k, v := range s.Rename {
			m[k] = v
		}
		out["rename"] = m
	}
	for name, p := range map[string]struct {
		word string
		at   map[starferry.TopicPartition]starferry.Offset
	}{"from_": {s.From, s.Begin}, "until": {s.Until, s.Ends}} {
		switch {
		case p.word == listed:
			m := map[string]any{}
			for tp, o := range p.at {
				m[tp.String()] = int64(o)
			}
			out[name] = m
		case p.word != "":
			out[name] = p.word
		}
	}
	if s.Sample > 0 {
		out["sample"] = s.Sample
	}
	if len(s.Scrub) > 0 {
		out["scrub"] = texts(s.Scrub)
	}
	if s.OnLoss != "" {
		out["on_loss"] = s.OnLoss
	}
	return out
}

func texts(list []string) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = s
	}
	return out
}

// differs names the first setting that is fixed when a link is made and is
// another one in next.
func (s LinkSettings) differs(next LinkSettings) error {
	all := func(v float64) string {
		if v == 0 || v == 1 {
			return "all"
		}
		return strconv.FormatFloat(v, 'g', -1, 64)
	}
	scrubbed := func(l []string) string { return cmp.Or(strings.Join(slices.Sorted(slices.Values(l)), ", "), "nothing") }
	for _, f := range []struct{ what, is, asked string }{
		{"rename", renames(s.Rename), renames(next.Rename)},
		{"from_", cmp.Or(s.From, "earliest"), cmp.Or(next.From, "earliest")},
		{"until", cmp.Or(s.Until, "nowhere"), cmp.Or(next.Until, "nowhere")},
		{"sample", all(s.Sample), all(next.Sample)},
		{"scrub", scrubbed(s.Scrub), scrubbed(next.Scrub)},
	} {
		if f.is != f.asked {
			return fmt.Errorf("it was made with %s %s, and %s is asked for; that is fixed when a link is made: ask for the same, or give another link = name", f.what, f.is, f.asked)
		}
	}
	return nil
}

func renames(m map[string]string) string {
	if len(m) == 0 {
		return "nothing"
	}
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+" to "+m[k])
	}
	return strings.Join(out, ", ")
}

// words say in a plan what the settings do.
func (s LinkSettings) words() string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if len(s.Match) > 0 {
		add("and what matches %s later on", strings.Join(s.Match, " or "))
	}
	if len(s.Rename) > 0 {
		add("renamed %s", renames(s.Rename))
	}
	if s.From != "" {
		add("from %s", offsetsOr(s.From))
	}
	if s.Until != "" {
		add("until %s", offsetsOr(s.Until))
	}
	if s.Sample > 0 && s.Sample < 1 {
		add("a sample of %v%%", s.Sample*100)
	}
	if len(s.Scrub) > 0 {
		add("without %s", strings.Join(s.Scrub, ", "))
	}
	if s.OnLoss == "continue" {
		add("leaving out what the source deletes before it is copied")
	}
	if len(out) == 0 {
		return ""
	}
	return "; " + strings.Join(out, "; ")
}

func offsetsOr(word string) string {
	if word == listed {
		return "the offsets given"
	}
	return word
}
