package scripting

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
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

// Error is the refusal as a table. Where rows are too long for columns, those
// with the same reason stand together above it.
func (e *RefusedError) Error() string {
	var b strings.Builder
	writeWrapped(&b, "", fmt.Sprintf("%s: expected %s", e.Op, e.Expected))
	groups, told := e.groups(), false
	for i, g := range groups {
		headings, rows := []string{"found", "what"}, [][]string{}
		if len(groups) == 1 && wide(g) {
			headings = append(headings, "why", "what to do")
		}
		for _, r := range g {
			rows = append(rows, []string{r.Subject, r.What, r.Why, r.Do}[:len(headings)])
		}
		columns := len(headings)
		if headings = trimmed(headings, rows); i > 0 {
			headings = nil
		}
		b.WriteString("\n" + Table(refusedWidth, headings, trimmedRows(rows)))
		if columns == 2 {
			writeWrapped(&b, "  why   ", g[0].Why)
			writeWrapped(&b, "  do    ", g[0].Do)
		}
		told = told || g[0].Do != ""
	}
	if n := len(e.Rows) - shownRows; n > 0 {
		fmt.Fprintf(&b, "\nand %d more; --json has them all", n)
	}
	writeWrapped(&b, "now   ", e.Stands)
	if !told {
		writeWrapped(&b, "do    ", e.Do)
	}
	return b.String()
}

// groups are the rows that are shown: all in one if they fit into columns and
// differ in their reasons, else by reason, in the order of their first rows.
func (e *RefusedError) groups() [][]Row {
	shown := e.Rows[:min(len(e.Rows), shownRows)]
	if wide(shown) {
		return [][]Row{shown}
	}
	var groups [][]Row
	at := map[[2]string]int{}
	for _, r := range shown {
		reason := [2]string{r.Why, r.Do}
		if _, ok := at[reason]; !ok {
			at[reason] = len(groups)
			groups = append(groups, nil)
		}
		groups[at[reason]] = append(groups[at[reason]], r)
	}
	return groups
}

// wide reports whether rows with different reasons fit into columns as they are.
func wide(rows []Row) bool {
	same := true
	var widths [4]int
	for _, r := range rows {
		same = same && r.Why == rows[0].Why && r.Do == rows[0].Do
		for i, cell := range []string{r.Subject, r.What, r.Why, r.Do} {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	return !same && widths[0]+widths[1]+widths[2]+widths[3]+3*gap <= refusedWidth
}

// trimmed leaves the first column out if no row has anything in it.
func trimmed(headings []string, rows [][]string) []string {
	if subjectless(rows) {
		return append([]string{headings[0]}, headings[2:]...)
	}
	return headings
}

func trimmedRows(rows [][]string) [][]string {
	if !subjectless(rows) {
		return rows
	}
	out := make([][]string, len(rows))
	for i, r := range rows {
		out[i] = r[1:]
	}
	return out
}

func subjectless(rows [][]string) bool {
	return !slices.ContainsFunc(rows, func(r []string) bool { return r[0] != "" })
}

// Unwrap returns what the refusal stems from.
func (e *RefusedError) Unwrap() error { return e.Err }

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
