package bench

import (
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"text/tabwriter"
	"time"
)

// report is what a run found.
type report struct {
	figures []Figure
	parts   []string
	failed  []failure
	took    time.Duration
	machine []fact
	small   bool
}

// number writes a value with as many digits as say something.
func number(v float64) string {
	switch a := math.Abs(v); {
	case v == math.Trunc(v) || a >= 1000:
		return thousands(fmt.Sprintf("%.0f", v))
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// thousands puts commas into a whole number.
func thousands(digits string) string {
	sign := ""
	if strings.HasPrefix(digits, "-") {
		sign, digits = "-", digits[1:]
	}
	for at := len(digits) - 3; at > 0; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return sign + digits
}

func verdict(f Figure) string {
	switch {
	case f.Bar == nil:
		return ""
	case f.Met():
		return "met"
	}
	return "MISSED"
}

// print writes the table, a line for each figure, and the verdict.
func (r report) print(w io.Writer) error {
	for _, f := range r.machine {
		fmt.Fprintf(w, "%s: %s\n", f.name, f.text)
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "figure\tvalue\t\tbar\t\t")
	for _, f := range r.figures {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t\n", f.Text, number(f.Value), f.Unit, f.Bar, verdict(f))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, f := range r.figures {
		fmt.Fprintf(w, "figure %s %.3f %s\n", f.Name, f.Value, f.Unit)
	}
	_, err := fmt.Fprintf(w, "\n%s\n", r.summary())
	return err
}

// summary says which bars were met and which were not.
func (r report) summary() string {
	met := 0
	var missed []string
	for _, f := range r.figures {
		switch {
		case f.Bar == nil:
		case f.Met():
			met++
		default:
			missed = append(missed, fmt.Sprintf("%s is %s, the bar is %s", f.Name, number(f.Value), f.Bar))
		}
	}
	text := fmt.Sprintf("%d bars met, %d missed, %d parts could not run; %s in all.", met, len(missed), len(r.failed), r.took.Round(time.Second))
	for _, m := range missed {
		text += "\n  missed: " + m
	}
	for _, f := range r.failed {
		first, _, _ := strings.Cut(f.err.Error(), "\n")
		text += "\n  could not run: " + f.part + ": " + first
	}
	if r.small {
		text += "\n  This was a small run: its figures mean nothing."
	}
	return text
}

// markdown is the report for people who read documents.
func (r report) markdown() string {
	var s strings.Builder
	for _, f := range r.machine {
		fmt.Fprintf(&s, "- %s: %s\n", f.name, f.text)
	}
	fmt.Fprintf(&s, "- parts: %s; %s in all\n\n", strings.Join(r.parts, ", "), r.took.Round(time.Second))
	s.WriteString("| figure | value | bar | | name |\n|---|---:|---|---|---|\n")
	for _, f := range r.figures {
		fmt.Fprintf(&s, "| %s | %s %s | %s | %s | `%s` |\n", f.Text, number(f.Value), f.Unit, f.Bar, verdict(f), f.Name)
	}
	fmt.Fprintf(&s, "\n%s\n", strings.ReplaceAll(r.summary(), "\n  ", "\n- "))
	return s.String()
}

// The lines between which a document holds the results of a run.
const (
	beginMark = "<!-- results: begin -->"
	endMark   = "<!-- results: end -->"
)

// into writes the results into a file: between the marks if it has them, else as
// the whole file.
func (r report) into(path string) error {
	old, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("write results: %w", err)
	}
	text := r.markdown()
	if before, rest, ok := strings.Cut(string(old), beginMark); ok {
		_, after, ok := strings.Cut(rest, endMark)
		if !ok {
			return fmt.Errorf("write results: %s has %q and no %q behind it; put it where the results end", path, beginMark, endMark)
		}
		text = before + beginMark + "\n" + text + endMark + after
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}
