package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/chaos"
)

// What a hand is laid on by default: a backlog is to be worth spreading.
const (
	handRate = 600 // records per second
	handWork = 2 * time.Millisecond
)

// runHand lays hands on a group, moves its producers, and lets things fail.
func runHand(ctx context.Context, args []string) error {
	var s settings
	var h chaos.Hand
	flags := flag.NewFlagSet("chaos hand", flag.ExitOnError)
	s.common(flags)
	if err := flags.Set("rate", fmt.Sprint(handRate)); err != nil {
		return err
	}
	flags.IntVar(&h.Trials, "trials", 0, "valid trials to make; 0: as many as there is time for")
	flags.DurationVar(&h.For, "for", 2*time.Minute, "time for all of them; 0: no end")
	flags.Uint64Var(&h.Seed, "seed", uint64(time.Now().UnixNano()), "of acts and faults")
	flags.StringVar(&h.Only, "only", "", "the name of the only fault")
	flags.StringVar(&h.Act, "act", "", "the only act: redistribute, redistribute by key, switch, producers")
	flags.StringVar(&h.Beside, "beside", "", "the only act beside it: none, throttle, skip, pause, producers")
	flags.StringVar(&h.At, "at", "", "strike only at this phase of the act")
	flags.DurationVar(&s.world.Work, "work", handWork, "a record takes")
	if err := s.parse(flags, args); err != nil {
		return err
	}
	h.Out, s.world.Writers = os.Stderr, chaos.Writers
	return s.within(ctx, func(w *chaos.World) error {
		fmt.Fprintln(os.Stderr, "seed", h.Seed)
		sum, err := h.Run(ctx, w)
		sum.Report(os.Stdout)
		switch {
		case err != nil:
			return err
		case !sum.OK():
			return errors.New("the checker found what must not be: " + sum.First())
		case sum.Valid == 0:
			return errors.New("no trial was valid")
		}
		return nil
	})
}

func runWriter(ctx context.Context, args []string) error {
	o := chaos.WriterOptions{Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	flags := flag.NewFlagSet("writer", flag.ExitOnError)
	before := flags.String("old", "", "address of the cluster named old")
	after := flags.String("new", "", "address of the cluster named new")
	topic := flags.String("topic", "orders", "what it writes")
	instance := flags.String("instance", "", "name of this process")
	flags.IntVar(&o.Partitions, "partitions", 1, "of the topic")
	flags.StringVar(&o.NATS, "nats", "", "URL of NATS")
	flags.StringVar(&o.Boot, "boot", "", "prefix of its keys")
	flags.Int64Var(&o.First, "first", 0, "number of its first record")
	flags.IntVar(&o.Rate, "rate", 100, "records per second")
	flags.StringVar(&o.Out, "out", "", "file for what it sends")
	if err := flags.Parse(args); err != nil {
		return err
	}
	o.Topic, o.Instance = starferry.Topic(*topic), starferry.InstanceID(*instance)
	o.Clusters = []starferry.Cluster{{Name: "old", Brokers: []string{*before}}, {Name: "new", Brokers: []string{*after}}}
	return chaos.RunWriter(ctx, o)
}
