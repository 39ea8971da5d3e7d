package javatopic

import (
	"bufio"
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/starferry/starferry"
)

//go:embed java
var programs embed.FS

// Java runs the programs of this package from their source, which Java does
// since version 11 (JEP 330).
type Java struct {
	Jars string // directory with the Kafka client's jars
	Dir  string // for the programs' sources
}

// Written is what the maker says it wrote.
type Written struct {
	Written      int `json:"written"`   // records
	Committed    int `json:"committed"` // of them, among those outside transactions
	Aborted      int `json:"aborted"`
	Batches      int `json:"batches"`
	Transactions int `json:"transactions"`
}

// Seen is a record as a consumer saw it.
type Seen struct {
	Offset starferry.Offset
	Hash   string // of time, key, value, headers
}

// Reading is what a consumer saw of one partition.
type Reading struct {
	Records   []Seen
	Positions []starferry.Offset // that it would have committed
}

// Make lets the maker write a topic.
func (j Java) Make(ctx context.Context, bootstrap string, topic starferry.Topic, partitions, records, largest, seed int) (w Written, err error) {
	err = j.run(ctx, "Make.java", func(out io.Reader) error { return json.NewDecoder(out).Decode(&w) },
		bootstrap, string(topic), fmt.Sprint(partitions), fmt.Sprint(records), fmt.Sprint(largest), fmt.Sprint(seed))
	return w, err
}

// Read lets the reader read a topic.
func (j Java) Read(ctx context.Context, bootstrap string, topic starferry.Topic) (map[starferry.Partition]*Reading, error) {
	all := map[starferry.Partition]*Reading{}
	of := func(p starferry.Partition) *Reading {
		if all[p] == nil {
			all[p] = &Reading{}
		}
		return all[p]
	}
	err := j.run(ctx, "Read.java", func(out io.Reader) error {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var p starferry.Partition
			var s Seen
			if rest, ok := strings.CutPrefix(lines.Text(), "@ "); ok {
				if _, err := fmt.Sscan(rest, &p, &s.Offset); err != nil {
					return fmt.Errorf("read line %q: %w", lines.Text(), err)
				}
				r := of(p)
				r.Positions = append(r.Positions, s.Offset)
				continue
			}
			if _, err := fmt.Sscan(lines.Text(), &p, &s.Offset, &s.Hash); err != nil {
				return fmt.Errorf("read line %q: %w", lines.Text(), err)
			}
			r := of(p)
			r.Records = append(r.Records, s)
		}
		return lines.Err()
	}, bootstrap, string(topic))
	return all, err
}

// run runs a program and hands what it prints to take.
func (j Java) run(ctx context.Context, program string, take func(io.Reader) error, args ...string) error {
	source, err := programs.ReadFile("java/" + program)
	if err != nil {
		return err
	}
	file := filepath.Join(j.Dir, program)
	if err := os.WriteFile(file, source, 0o600); err != nil {
		return err
	}
	logging := filepath.Join(j.Dir, "log4j2.properties")
	if err := os.WriteFile(logging, []byte("status=error\nrootLogger.level=error\n"), 0o600); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "java", append([]string{"-Xmx384m", "-Dlog4j2.configurationFile=" + logging,
		"-cp", filepath.Join(j.Jars, "*"), file}, args...)...)
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run %s: %w", program, err)
	}
	taken := take(out)
	_, _ = io.Copy(io.Discard, out)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("run %s: %w: %s", program, err, strings.TrimSpace(problems.String()))
	}
	return taken
}
