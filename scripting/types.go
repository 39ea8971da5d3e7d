package scripting

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Type is a type that parameters of builtins and of scripts can have. In
// scripts it is a value by its name, usable in param(duration, "10m") and as a
// function: duration("10m").
type Type struct {
	Name    string
	Doc     string
	Example string
	// Parse brings a plain value (nil, bool, int64, float64, string, []any,
	// map[string]any, or Typed) into the canonical form, which JSON can hold.
	// Text from a command line must parse too. Its error says what is wanted.
	Parse func(v any) (any, error)
	// Check says what is wrong with a well-formed value in the world at hand,
	// such as a cluster that is not configured. Nil: nothing can be. Defaults of
	// parameters are checked only when they are used.
	Check func(canonical any) error
	// Attrs gives the attributes of a value in scripts. Nil: the value is its
	// canonical form itself (a string, a number, a list).
	Attrs func(canonical any) map[string]any
}

// Typed is a value of a type with attributes, as it crosses JSON.
type Typed struct {
	Type string `json:"$type"`
	Text string `json:"text"`
}

// Types are the types that know nothing of Kafka. Package builtins adds its own.
func Types() []*Type {
	return []*Type{StringType(), IntType(), FloatType(), BoolType(), ListType(), AnyType(), DurationType(), RateType(), SizeType()}
}

// take parses and checks.
func (t *Type) take(v any) (any, error) {
	c, err := t.Parse(v)
	if err == nil && t.Check != nil {
		err = t.Check(c)
	}
	return c, err
}

func plainText(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case Typed:
		return v.Text, true
	}
	return "", false
}

func wrongType(want string, v any) error {
	return fmt.Errorf("want %s, got %s", want, describePlain(v))
}

func describePlain(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case string:
		return fmt.Sprintf("the string %q", v)
	case Typed:
		return fmt.Sprintf("the %s %s", v.Type, v.Text)
	case bool:
		if v {
			return "True"
		}
		return "False"
	case int64, float64:
		return fmt.Sprintf("the number %v", v)
	case []any:
		return "a list"
	case map[string]any:
		return "a struct or dict"
	}
	return fmt.Sprintf("%T", v)
}

// NamedType is a string-like type for things that scripts hold as structs with
// a name: either the name or anything with the attribute name is taken.
func NamedType(name, doc, example string) *Type {
	return &Type{Name: name, Doc: doc, Example: example, Parse: func(v any) (any, error) {
		if s, ok := plainText(v); ok && s != "" {
			return s, nil
		}
		if m, ok := v.(map[string]any); ok {
			if s, ok := plainText(m["name"]); ok && s != "" {
				return s, nil
			}
		}
		return nil, wrongType("the name of a "+name+", such as "+strconv.Quote(example), v)
	}}
}

// TextType is a type whose values are written as text and have attributes.
// Parse brings the text into its canonical form.
func TextType(name, doc, example string, parse func(string) (string, error), attrs func(string) map[string]any) *Type {
	t := &Type{Name: name, Doc: doc, Example: example}
	t.Parse = func(v any) (any, error) {
		s, ok := plainText(v)
		if !ok {
			return nil, wrongType("a "+name+" such as "+strconv.Quote(example), v)
		}
		return parse(s)
	}
	t.Attrs = func(c any) map[string]any { return attrs(c.(string)) }
	return t
}

// StringType is text.
func StringType() *Type {
	return &Type{Name: "string", Doc: "text", Example: "billing", Parse: func(v any) (any, error) {
		if s, ok := plainText(v); ok {
			return s, nil
		}
		return nil, wrongType("a string", v)
	}}
}

// IntType is a whole number.
func IntType() *Type {
	return &Type{Name: "int", Doc: "a whole number", Example: "500", Parse: func(v any) (any, error) {
		switch n := v.(type) {
		case int64:
			return n, nil
		case int:
			return int64(n), nil
		case float64:
			if n == math.Trunc(n) && math.Abs(n) < 1<<53 {
				return int64(n), nil
			}
		case string:
			if i, err := strconv.ParseInt(strings.ReplaceAll(n, "_", ""), 10, 64); err == nil {
				return i, nil
			}
		}
		return nil, wrongType("a whole number", v)
	}}
}

// FloatType is a number.
func FloatType() *Type {
	return &Type{Name: "float", Doc: "a number", Example: "0.5", Parse: func(v any) (any, error) {
		switch n := v.(type) {
		case float64:
			return n, nil
		case int64:
			return float64(n), nil
		case int:
			return float64(n), nil
		case string:
			if f, err := strconv.ParseFloat(n, 64); err == nil && !math.IsNaN(f) && !math.IsInf(f, 0) {
				return f, nil
			}
		}
		return nil, wrongType("a number", v)
	}}
}

// BoolType is True or False.
func BoolType() *Type {
	return &Type{Name: "bool", Doc: "True or False", Example: "True", Parse: func(v any) (any, error) {
		switch b := v.(type) {
		case bool:
			return b, nil
		case string:
			switch strings.ToLower(b) {
			case "true", "yes", "on":
				return true, nil
			case "false", "no", "off":
				return false, nil
			}
		}
		return nil, wrongType("True or False", v)
	}}
}

// ListType is a list of strings or of things with a name; text is split at commas.
func ListType() *Type {
	return &Type{Name: "list", Doc: "a list of names", Example: "orders,payments", Parse: func(v any) (any, error) {
		switch l := v.(type) {
		case string:
			out := []any{}
			for s := range strings.SplitSeq(l, ",") {
				if s = strings.TrimSpace(s); s != "" {
					out = append(out, s)
				}
			}
			return out, nil
		case []any:
			out := make([]any, 0, len(l))
			for i, e := range l {
				if m, ok := e.(map[string]any); ok {
					e = m["name"]
				}
				s, ok := plainText(e)
				if !ok {
					return nil, fmt.Errorf("element %d: %w", i, wrongType("a name", e))
				}
				out = append(out, s)
			}
			return out, nil
		}
		return nil, wrongType("a list", v)
	}}
}

// AnyType is any value that JSON can hold.
func AnyType() *Type {
	return &Type{Name: "any", Doc: "any value", Parse: func(v any) (any, error) { return v, nil }}
}

// DurationType is a length of time.
func DurationType() *Type {
	return TextType("duration", "a length of time: ms, s, m, h, d", "10m", func(s string) (string, error) {
		d, err := ParseDuration(s)
		if err != nil {
			return "", err
		}
		return FormatDuration(d), nil
	}, func(s string) map[string]any {
		d, _ := ParseDuration(s)
		return map[string]any{"seconds": d.Seconds(), "ms": d.Milliseconds()}
	})
}

// ParseDuration reads "90s", "10m", "1h30m", "2d".
func ParseDuration(s string) (time.Duration, error) {
	bad := fmt.Errorf("parse duration %q: want a number with a unit (ms, s, m, h, d), such as 10m", s)
	rest := strings.TrimSpace(s)
	var days time.Duration
	if i := strings.IndexByte(rest, 'd'); i > 0 {
		n, err := strconv.ParseInt(rest[:i], 10, 32)
		if err != nil || n < 0 || n > 36500 {
			return 0, bad
		}
		days, rest = time.Duration(n)*24*time.Hour, rest[i+1:]
		if rest == "" {
			return days, nil
		}
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || days+d < 0 {
		return 0, bad
	}
	return days + d, nil
}

// FormatDuration writes a duration as short as ParseDuration can read it.
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Rate is an amount per second, of records or of bytes.
type Rate struct {
	PerSecond float64
	Bytes     bool
}

// String writes the rate as ParseRate reads it.
func (r Rate) String() string {
	if r.Bytes {
		return FormatSize(int64(r.PerSecond)) + "/s"
	}
	return strconv.FormatFloat(r.PerSecond, 'f', -1, 64) + "/s"
}

// RateType is an amount of records or bytes per second.
func RateType() *Type {
	t := TextType("rate", "records or bytes per second (or /m, /h); a number is records per second", "500/s", func(s string) (string, error) {
		r, err := ParseRate(s)
		if err != nil {
			return "", err
		}
		return r.String(), nil
	}, func(s string) map[string]any {
		r, _ := ParseRate(s)
		unit := "records"
		if r.Bytes {
			unit = "bytes"
		}
		return map[string]any{"per_second": r.PerSecond, "unit": unit}
	})
	text := t.Parse
	t.Parse = func(v any) (any, error) {
		switch n := v.(type) {
		case int, int64, float64:
			return text(fmt.Sprintf("%v/s", n))
		}
		return text(v)
	}
	return t
}

// ParseRate reads "500/s", "30/m", "40MB/s".
func ParseRate(s string) (Rate, error) {
	bad := fmt.Errorf("parse rate %q: want an amount per second, such as 500/s (records) or 40MB/s (bytes)", s)
	amount, per, ok := strings.Cut(strings.TrimSpace(s), "/")
	if !ok {
		return Rate{}, bad
	}
	var div float64
	switch strings.TrimSpace(per) {
	case "s":
		div = 1
	case "m", "min":
		div = 60
	case "h":
		div = 3600
	default:
		return Rate{}, bad
	}
	amount = strings.TrimSpace(amount)
	if n, err := strconv.ParseFloat(amount, 64); err == nil {
		if n < 0 || math.IsNaN(n) || math.IsInf(n, 0) {
			return Rate{}, bad
		}
		return Rate{PerSecond: n / div}, nil
	}
	n, err := ParseSize(amount)
	if err != nil {
		return Rate{}, bad
	}
	return Rate{PerSecond: float64(n) / div, Bytes: true}, nil
}

// SizeType is a number of bytes.
func SizeType() *Type {
	return TextType("size", "a number of bytes: B, kB, MB, GB, TB (1000) or KiB, MiB, GiB, TiB (1024)", "64MB", func(s string) (string, error) {
		n, err := ParseSize(s)
		if err != nil {
			return "", err
		}
		return FormatSize(n), nil
	}, func(s string) map[string]any {
		n, _ := ParseSize(s)
		return map[string]any{"bytes": n}
	})
}

type sizeUnit struct {
	name string
	n    int64
}

// sizeUnits lists the units, the longest names first where one ends another.
func sizeUnits() []sizeUnit {
	return []sizeUnit{
		{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
		{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"KB", 1e3}, {"B", 1},
	}
}

// ParseSize reads "64MB", "1.5GiB", "512B" into bytes.
func ParseSize(s string) (int64, error) {
	text := strings.TrimSpace(s)
	for _, u := range sizeUnits() {
		amount, ok := strings.CutSuffix(text, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(amount), 64)
		if err != nil || n < 0 || math.IsNaN(n) || n*float64(u.n) >= math.MaxInt64 {
			break
		}
		return int64(n * float64(u.n)), nil
	}
	return 0, fmt.Errorf("parse size %q: want a number with a unit, such as 64MB or 1GiB", s)
}

// FormatSize writes bytes in the largest unit that stays exact.
func FormatSize(n int64) string {
	best := sizeUnit{"B", 1}
	for _, u := range sizeUnits() {
		if u.name != "KB" && n != 0 && n%u.n == 0 && u.n > best.n {
			best = u
		}
	}
	return strconv.FormatInt(n/best.n, 10) + best.name
}
