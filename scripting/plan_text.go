package scripting

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// String renders the plan for people: one line per call, the branches of a
// parallel together, a line of counts, and the longest wait.
func (p *Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Plan of %s (%s)\n", p.Name, p.File)
	var longest PlanLine
	for _, ph := range p.Phases {
		fmt.Fprintf(&b, "\n  %s  (undo: %s)\n", ph.Name, ph.Undo)
		for _, l := range ph.Lines {
			if l.AtMost > longest.AtMost {
				longest = l
			}
		}
		for _, l := range together(ph.Lines) {
			l.write(&b)
		}
	}
	var counts []string
	for _, v := range []Verdict{WillDo, NoChange, HoldsNow, FailsNow, UnknownUntilRun} {
		if n := p.Counts[v]; n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, v))
		}
	}
	fmt.Fprintf(&b, "\n%s", strings.Join(counts, ", "))
	if longest.AtMost > 0 {
		fmt.Fprintf(&b, "; longest: %s, at most %s", longest.Builtin, FormatDuration(longest.AtMost))
	}
	b.WriteString(". Nothing was changed.\n")
	return b.String()
}

func (l PlanLine) write(b *strings.Builder) {
	name := l.Builtin
	if name != "" {
		name += "  "
	}
	if l.Branch != "" {
		name = "· " + name
	}
	fmt.Fprintf(b, "    %-6s  %-17s  %s%s\n", l.Part, l.Verdict, name, strings.ReplaceAll(l.Text, "\n", " "))
	if len(l.Table) == 0 {
		return
	}
	w := tabwriter.NewWriter(b, 0, 4, 2, ' ', 0)
	for _, row := range l.Table {
		fmt.Fprintln(w, "            "+strings.Join(row, "\t"))
	}
	_ = w.Flush() // into memory
}

// together makes one line of what the branches of a parallel do alike. What
// fails now is told one by one.
func together(lines []PlanLine) []PlanLine {
	type kind struct {
		fork, where, builtin string
		verdict              Verdict
	}
	var out []PlanLine
	at, n := map[kind]int{}, map[int]int{}
	for _, l := range lines {
		if l.Branch == "" {
			out = append(out, l)
			continue
		}
		fork := l.Branch[:strings.LastIndexByte(l.Branch, '[')]
		k := kind{fork, l.Where, l.Builtin, l.Verdict}
		i, seen := at[k]
		if !seen || l.Verdict == FailsNow {
			at[k] = len(out)
			out = append(out, l)
			continue
		}
		n[i]++
	}
	for i, more := range n {
		out[i].Text += fmt.Sprintf(" … and %d more alike", more)
	}
	return out
}

// abbreviate lists the first few names.
func abbreviate(names []string, show int) string {
	if len(names) <= show {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s … and %d more", strings.Join(names[:show], ", "), len(names)-show)
}
