// Command bench measures starferry against its bars, beside MirrorMaker 2 where
// that can do the same, and prints a table and one line `figure NAME VALUE UNIT`
// for each figure.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"syscall"

	"github.com/starferry/starferry/internal/bench"
	"github.com/starferry/starferry/internal/kafkatest"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 3 && args[0] == bench.RelayCommand {
		return bench.ServeRelay(args[1], args[2])
	}
	if len(args) == 3 && args[0] == bench.IdleCommand {
		return bench.ServeIdle(args[1], args[2])
	}
	o := bench.Options{Out: os.Stdout, Log: os.Stderr}
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	only := flags.String("only", "all", "parts to run, with commas between them; all, or list to see them")
	flags.StringVar(&o.Starferry, "starferry", "bin/starferry", "the program to measure")
	flags.StringVar(&o.Kafka, "kafka", "4.3.1", "version of the brokers and of MirrorMaker 2")
	flags.StringVar(&o.Jars, "jars", ".kafka", "where the jars are, a directory for each version")
	flags.StringVar(&o.Into, "into", "", "write the results as Markdown into this `FILE`, between its marks if it has them")
	flags.BoolVar(&o.Small, "small", false, "a tenth of everything, to see that the parts work; the figures mean nothing")
	profile := flags.String("cpuprofile", "", "write a processor profile of this program, which holds the instances of the part switch, into this `FILE`")
	flags.IntVar(&o.Load.Records, "records", 1_000_000, "records to copy")
	flags.IntVar(&o.Load.Size, "size", 1000, "bytes of each record's value")
	flags.IntVar(&o.Load.Partitions, "partitions", 4, "partitions of the topic")
	flags.IntVar(&o.Load.Batch, "batch", 100, "records in each batch")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch *only {
	case "list":
		return bench.List(os.Stdout)
	case "all", "":
	default:
		o.Only = strings.Split(*only, ",")
	}
	if o.Load.Size < 16 || o.Load.Partitions < 1 || o.Load.Batch < 1 || o.Load.Records < 1000 {
		return fmt.Errorf("want -size of 16 or more, -records of 1000 or more, and -partitions and -batch of 1 or more")
	}
	if !kafkatest.Fetched(o.Kafka, o.Jars) {
		return fmt.Errorf("there are no jars of Kafka %s in %s; run make kafka KAFKA=%s first", o.Kafka, o.Jars, o.Kafka)
	}
	for _, path := range []*string{&o.Jars, &o.Starferry} { // parts run in directories of their own
		abs, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = abs
	}
	var err error
	if o.Relay, err = os.Executable(); err != nil {
		return err
	}
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	return bench.Run(ctx, o)
}
