package demo

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Report is how the story ended.
type Report struct {
	Produced   int64 `json:"produced"` // acknowledged to the producer
	Copied     int64 `json:"copied"`   // data records on the target
	Handled    int64 `json:"handled"`  // calls of handlers
	Lost       int64 `json:"lost"`     // acknowledged and never handled
	Twice      int64 `json:"twice"`
	OutOfOrder int64 `json:"out_of_order"`
	Alien      int64 `json:"alien,omitempty"` // handled, and not the producer's

	Switches int      `json:"switches"`
	Pauses   []pauses `json:"pauses_ms"`
	// Spacing is the mean time between two records of a partition without a
	// switch, in milliseconds: a pause includes it.
	Spacing float64 `json:"spacing_ms"`
	// Exact is true if every translated position is that of the same record.
	Exact          bool    `json:"exact"`
	Positions      int     `json:"positions"`
	ExactPositions int     `json:"exact_positions"`
	Seconds        float64 `json:"seconds"`
}

// Clean reports whether nothing was lost, doubled or out of order.
func (r *Report) Clean() bool {
	return r.Lost == 0 && r.Twice == 0 && r.OutOfOrder == 0 && r.Alien == 0
}

// Print writes the table that the demo ends with.
func (r *Report) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', tabwriter.AlignRight)
	line := func(what string, value any, note string) { fmt.Fprintf(t, "%s\t%v\t%s\n", what, value, note) }
	line("records produced", r.Produced, "")
	line("copied", r.Copied, "")
	line("handled", r.Handled, "")
	line("lost", r.Lost, "")
	line("handled twice", r.Twice, "")
	line("out of order", r.OutOfOrder, "")
	line("positions translated", r.Positions, fmt.Sprintf("  %d exact", r.ExactPositions))
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print report: %w", err)
	}
	fmt.Fprintf(w, "\npause of each partition, ms (records of a partition are %.1f apart without a switch)\n", r.Spacing)
	t = tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "  SWITCH\tPARTITIONS\tP50\tWORST")
	for i, p := range r.Pauses {
		fmt.Fprintf(t, "  %d  %s → %s\t%d\t%.1f\t%.1f\n", i+1, p.From, p.To, p.Partitions, p.P50, p.Worst)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print report: %w", err)
	}
	verdict := "nothing lost, nothing handled twice, everything in order"
	if !r.Clean() {
		verdict = "NOT CLEAN: see above"
	}
	_, err := fmt.Fprintf(w, "\n%s  (%.1f s)\n", verdict, r.Seconds)
	return err
}
