package scripting

import (
	"errors"
	"fmt"
	"strings"
)

// Row is one reason of a refusal.
type Row struct {
	Subject string `json:"subject"`       // partition, member, instance or group
	What    string `json:"what"`          // was found
	Why     string `json:"why,omitempty"` // that is in the way
	Do      string `json:"do,omitempty"`  // about it
}

// RefusedError says why an effect did not happen: what was expected, what was
// found instead row by row, what stands now and what to do.
type RefusedError struct {
	Op       string `json:"op"` // "switch billing: prepare"
	Expected string `json:"expected"`
	Rows     []Row  `json:"rows"`
	Stands   string `json:"stands,omitempty"`
	Do       string `json:"do,omitempty"`
	Err      error  `json:"-"` // what it stems from
}

// shownRows is how many rows the text shows; JSON has them all.
const shownRows = 20

// refusedWidth leaves room for the indentation that a stop gives its error.
const refusedWidth = Width - 14

// Headline is the refusal in one line.
func (e *RefusedError) Headline() string {
	s := fmt.Sprintf("%s: expected %s", e.Op, e.Expected)
	switch n := len(e.Rows); {
	case n == 1:
		r := e.Rows[0]
		s += "; found " + strings.TrimSpace(r.Subject+" "+r.What)
		if r.Why != "" {
			s += ": " + r.Why
		}
	case n > 1:
		s += fmt.Sprintf("; found %d reasons why not, the first is %s %s", n, e.Rows[0].Subject, e.Rows[0].What)
	}
	return s
}

// Error is the refusal as a table. What all rows have in common stands below it.
func (e *RefusedError) Error() string {
	var b strings.Builder
	writeWrapped(&b, "", fmt.Sprintf("%s: expected %s", e.Op, e.Expected))
	why, do := e.common(func(r Row) string { return r.Why }), e.common(func(r Row) string { return r.Do })
	if len(e.Rows) > 0 {
		headings, subject := []string{"found", "what"}, e.has(func(r Row) string { return r.Subject })
		if !subject {
			headings = []string{"found"}
		}
		if why == "" {
			headings = append(headings, "why")
		}
		if do == "" && e.has(func(r Row) string { return r.Do }) {
			headings = append(headings, "what to do")
		}
		var rows [][]string
		for _, r := range e.Rows[:min(len(e.Rows), shownRows)] {
			row := []string{r.Subject, r.What}
			if !subject {
				row = row[1:]
			}
			if why == "" {
				row = append(row, r.Why)
			}
			if len(headings) > len(row) {
				row = append(row, r.Do)
			}
			rows = append(rows, row)
		}
		b.WriteString("\n" + Table(refusedWidth, headings, rows))
		if n := len(e.Rows) - shownRows; n > 0 {
			fmt.Fprintf(&b, "\nand %d more; --json has them all", n)
		}
	}
	writeWrapped(&b, "why   ", why)
	writeWrapped(&b, "now   ", e.Stands)
	if do == "" {
		do = e.Do
	}
	writeWrapped(&b, "do    ", do)
	return b.String()
}

// Unwrap returns what the refusal stems from.
func (e *RefusedError) Unwrap() error { return e.Err }

// common is what a column says in every row; empty if the rows differ.
func (e *RefusedError) common(of func(Row) string) string {
	for _, r := range e.Rows {
		if of(r) != of(e.Rows[0]) {
			return ""
		}
	}
	if len(e.Rows) == 0 {
		return ""
	}
	return of(e.Rows[0])
}

func (e *RefusedError) has(of func(Row) string) bool {
	for _, r := range e.Rows {
		if of(r) != "" {
			return true
		}
	}
	return false
}

func writeWrapped(b *strings.Builder, head, text string) {
	if text == "" {
		return
	}
	for i, line := range wrap(text, refusedWidth-len(head)) {
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		if i > 0 {
			head = strings.Repeat(" ", len(head))
		}
		b.WriteString(head + line)
	}
}

// headline is an error in one line.
func headline(err error) string {
	var r *RefusedError
	if errors.As(err, &r) {
		return r.Headline()
	}
	return err.Error()
}
