package bench

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Report prints the table and the figures of a comparison.
func Report(w io.Writer, l Load, ours, mm2 Copy) error {
	fmt.Fprintf(w, "\n%d records of %d bytes, %d partitions, %d records a batch, uncompressed\n\n", l.Records, l.Size, l.Partitions, l.Batch)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "copier\trecords/s\tMB/s\tseconds\tCPU s\tCPU s/GB\t")
	for _, c := range []Copy{mm2, ours} {
		fmt.Fprintf(t, "%s\t%.0f\t%.1f\t%.2f\t%.2f\t%.2f\t\n", c.Who, c.PerSecond(), c.MBPerSecond(), c.Took.Seconds(), c.CPU.Seconds(), c.CPUPerGB())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, f := range []struct {
		name  string
		value float64
		unit  string
	}{
		{"copy_rps", ours.PerSecond(), "records/s"},
		{"copy_rps_mm2", mm2.PerSecond(), "records/s"},
		{"copy_rps_ratio_mm2", ours.PerSecond() / mm2.PerSecond(), "ratio"},
		{"copy_cpu_s_per_gb", ours.CPUPerGB(), "s/GB"},
		{"copy_cpu_s_per_gb_mm2", mm2.CPUPerGB(), "s/GB"},
		{"copy_cpu_ratio_mm2", mm2.CPUPerGB() / ours.CPUPerGB(), "ratio"},
	} {
		if _, err := fmt.Fprintf(w, "figure %s %.3f %s\n", f.name, f.value, f.unit); err != nil {
			return err
		}
	}
	return nil
}
