package checker

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/starferry/starferry"
)

// ReadHandled reads the log that one boot of a service wrote: lines of
// `time topic partition offset key value`, separated by spaces, the time as
// Unix nanoseconds or RFC 3339 and the value a record's number. A seventh field
// is the cluster it was read from. A last line
// without an end is what kill −9 leaves and is not counted as handled.
func ReadHandled(boot string, r io.Reader) ([]Handling, error) {
	var lines []Handling
	in := bufio.NewReader(r)
	for n := 1; ; n++ {
		line, err := in.ReadString('\n')
		if err == io.EOF {
			return lines, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the log of %s, line %d: %w", boot, n, err)
		}
		h, err := parseHandling(strings.Fields(line))
		if err != nil {
			return nil, fmt.Errorf("read the log of %s, line %d: %w", boot, n, err)
		}
		h.Boot = boot
		lines = append(lines, h)
	}
}

func parseHandling(f []string) (Handling, error) {
	var cluster starferry.ClusterName
	if len(f) == 7 {
		cluster, f = starferry.ClusterName(f[6]), f[:6]
	}
	// A record without a key has one field less.
	if len(f) != 5 && len(f) != 6 {
		return Handling{}, fmt.Errorf("%d fields, want: time topic partition offset key value", len(f))
	}
	at, err := parseTime(f[0])
	if err != nil {
		return Handling{}, err
	}
	partition, err := strconv.ParseInt(f[2], 10, 32)
	if err != nil {
		return Handling{}, fmt.Errorf("partition %q is no number", f[2])
	}
	offset, err := strconv.ParseInt(f[3], 10, 64)
	if err != nil {
		return Handling{}, fmt.Errorf("offset %q is no number", f[3])
	}
	id, err := strconv.ParseInt(f[len(f)-1], 10, 64)
	if err != nil {
		return Handling{}, fmt.Errorf("value %q is no record number", f[len(f)-1])
	}
	return Handling{
		At:             at,
		Cluster:        cluster,
		TopicPartition: starferry.TopicPartition{Topic: starferry.Topic(f[1]), Partition: starferry.Partition(partition)},
		Offset:         starferry.Offset(offset),
		ID:             ID(id),
	}, nil
}

func parseTime(s string) (time.Time, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.Unix(0, n), nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("time %q is neither Unix nanoseconds nor RFC 3339", s)
	}
	return t, nil
}
