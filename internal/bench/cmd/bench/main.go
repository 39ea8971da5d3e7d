// Command bench compares starferry with its peers and prints a table and one
// line `figure NAME VALUE UNIT` for each figure.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/starferry/starferry/internal/bench"
	"github.com/starferry/starferry/internal/kafkatest"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	var o bench.Options
	only := flag.String("only", "copy", "which comparison to run: copy")
	flag.StringVar(&o.Starferry, "starferry", "bin/starferry", "the program to measure")
	flag.StringVar(&o.Kafka, "kafka", "4.3.1", "version of the brokers and of MirrorMaker 2")
	jars := flag.String("jars", ".kafka", "where the jars are, a directory for each version")
	flag.IntVar(&o.Load.Records, "records", 1_000_000, "records to copy")
	flag.IntVar(&o.Load.Size, "size", 1000, "bytes of each record's value")
	flag.IntVar(&o.Load.Partitions, "partitions", 4, "partitions of the topic")
	flag.IntVar(&o.Load.Batch, "batch", 100, "records in each batch")
	flag.Parse()
	if *only != "copy" {
		return fmt.Errorf("there is no comparison %q; there is: copy", *only)
	}
	if o.Load.Size < 8 || o.Load.Partitions < 1 || o.Load.Batch < 1 || o.Load.Records < 1000 {
		return fmt.Errorf("want -size of 8 or more, -records of 1000 or more, and -partitions and -batch of 1 or more")
	}
	if !kafkatest.Fetched(o.Kafka, *jars) {
		return fmt.Errorf("there are no jars of Kafka %s in %s; run make kafka KAFKA=%s first", o.Kafka, *jars, o.Kafka)
	}
	jarDir, err := filepath.Abs(*jars)
	if err != nil {
		return err
	}
	o.Jars, o.Load.Topic, o.Out, o.Log = jarDir, "copy", os.Stdout, os.Stderr
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	return bench.Compare(ctx, o)
}
