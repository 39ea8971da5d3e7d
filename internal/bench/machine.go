package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// fact is one thing a reader has to know about where the figures come from.
type fact struct{ name, text string }

// lookAround describes the machine and the programs. What cannot be found out is
// left out.
func lookAround(ctx context.Context, o Options) []fact {
	machine := fmt.Sprintf("%d cores", runtime.NumCPU())
	if model := procValue("/proc/cpuinfo", "model name"); model != "" {
		machine += " (" + model + ")"
	}
	if memory := procValue("/proc/meminfo", "MemTotal"); memory != "" {
		var kb float64
		if _, err := fmt.Sscan(memory, &kb); err == nil {
			machine += fmt.Sprintf(", %.0f GB of memory", kb/1e6)
		}
	}
	if kernel, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		machine += ", Linux " + strings.TrimSpace(string(kernel))
	}
	out := []fact{{"machine", machine + "; brokers, copiers and load all on it"}}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		if f := strings.Fields(string(load)); len(f) >= 3 {
			out = append(out, fact{"load average at the end", strings.Join(f[:3], " ")})
		}
	}
	versions := "Kafka and MirrorMaker 2 " + o.Kafka + ", " + runtime.Version()
	if java, err := exec.CommandContext(ctx, "java", "-version").CombinedOutput(); err == nil {
		first, _, _ := strings.Cut(string(java), "\n")
		versions += ", " + strings.TrimSpace(first)
	}
	if ours, err := exec.CommandContext(ctx, o.Starferry, "version").Output(); err == nil {
		first, _, _ := strings.Cut(string(ours), "\n")
		versions = strings.TrimSpace(first) + ", " + versions
	}
	out = append(out, fact{"versions", versions})
	return append(out, fact{"load", fmt.Sprintf("%s records of %d bytes, %d partitions, %d records a batch",
		number(float64(o.Load.Records)), o.Load.Size, o.Load.Partitions, o.Load.Batch)})
}

// procValue is the value of the first line with a key in a file of /proc.
func procValue(path, key string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
