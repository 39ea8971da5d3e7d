// Command orders is a service that reads topics with starferry's consumer
// library: it writes down each record it handles, as one line
// "nanos topic partition offset key value", where nanos is the time of writing in
// Unix nanoseconds. Run it as often as you like with the same group; a
// termination signal closes it gracefully.
//
// It names its group and topics. Which cluster they live on it is told by rules,
// or by the group's own commits; see docs/consumer.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/control/natsconn"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "orders:", err)
		os.Exit(1)
	}
}

// run is the service: from here on it works until ctx ends.
func run(ctx context.Context, args []string) (err error) {
	o, err := read(args)
	if err != nil {
		return err
	}
	if o.nats.URL != "" { // a service does not wait for NATS
		nc, err := natsconn.Dial(o.nats.Config, "orders", o.consumer.Logger)
		if err != nil {
			return err
		}
		defer nc.Close()
		o.consumer.NATS = nc
	}
	lines, err := os.OpenFile(o.out, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open file of lines: %w", err)
	}
	defer lines.Close()
	c, err := consumer.Open(ctx, o.consumer, func(ctx context.Context, r consumer.Record) error {
		if err := work(ctx, o.work); err != nil {
			return err // not handled: it is handed out again
		}
		_, err := fmt.Fprintf(lines, "%d %s %d %d %s %s\n", time.Now().UnixNano(), r.Topic, r.Partition, r.Offset, r.Key, r.Value)
		return err // one write a line, so lines of several partitions do not mix
	})
	if err != nil {
		return err
	}
	defer func() { // finish what is in hand, commit, leave
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.grace)
		defer cancel()
		err = errors.Join(err, c.Close(closing))
	}()
	if o.listen != "" {
		at, err := net.Listen("tcp", o.listen)
		if err != nil {
			return fmt.Errorf("listen for probes: %w", err)
		}
		return serve(ctx, at, c)
	}
	<-ctx.Done()
	return nil
}

// work stands for what a service does with a record. It minds its context: a
// handler that does not holds up rebalances, switches and Close.
func work(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
