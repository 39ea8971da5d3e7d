package scripting

import (
	"fmt"
	"time"
)

// Args are the arguments of a call by parameter name, in the canonical form of
// each parameter's type: what JSON can hold. Absent parameters have no entry.
type Args map[string]any

// Has reports whether the argument was given or has a default.
func (a Args) Has(name string) bool { return a[name] != nil }

// Text returns a string-like argument (string, cluster, group, link, position,
// duration, rate, size), or "" if it is absent.
func (a Args) Text(name string) string {
	s, _ := a[name].(string)
	return s
}

// Int returns an int argument, or 0 if it is absent.
func (a Args) Int(name string) int64 {
	switch v := a[name].(type) {
	case int64:
		return v
	case int:
		return int64(v)
	case float64:
		return int64(v)
	}
	return 0
}

// Bool returns a bool argument, or false if it is absent.
func (a Args) Bool(name string) bool {
	b, _ := a[name].(bool)
	return b
}

// Duration returns a duration argument, or 0 if it is absent.
func (a Args) Duration(name string) time.Duration {
	d, _ := ParseDuration(a.Text(name))
	return d
}

// Rate returns a rate argument, or the zero rate if it is absent.
func (a Args) Rate(name string) Rate {
	r, _ := ParseRate(a.Text(name))
	return r
}

// Strings returns a list argument as strings.
func (a Args) Strings(name string) []string {
	var out []string
	switch v := a[name].(type) {
	case []string:
		return v
	case []any:
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				s = fmt.Sprint(e)
			}
			out = append(out, s)
		}
	}
	return out
}
