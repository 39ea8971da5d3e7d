// Command kafkaup fetches and runs real Kafka brokers for demos, benchmarks and
// chaos tests, without containers:
//
//	kafkaup fetch VERSION DIR        get the jars from Maven into DIR/VERSION
//	kafkaup run VERSION DIR [PORT]   run a broker on PORT, or a free one, until SIGTERM or SIGINT
//
// run prints the broker's address on a line of its own once it answers. The
// broker's files are in a temporary directory, removed at the end.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/starferry/starferry/internal/kafkatest"
)

const usage = "usage: kafkaup fetch VERSION DIR | kafkaup run VERSION DIR [PORT]"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := do(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "kafkaup:", err)
		os.Exit(1)
	}
}

func do(ctx context.Context, args []string) error {
	if len(args) != 3 && !(len(args) == 4 && args[0] == "run") {
		return errors.New(usage)
	}
	version, dir := args[1], args[2]
	switch args[0] {
	case "fetch":
		return kafkatest.Fetch(ctx, version, dir, os.Stderr)
	case "run":
		port := 0
		if len(args) == 4 {
			var err error
			if port, err = strconv.Atoi(args[3]); err != nil || port < 1 || port > 65535 {
				return fmt.Errorf("port %q: want a number from 1 to 65535", args[3])
			}
		}
		return run(ctx, version, dir, port)
	}
	return fmt.Errorf("%q: %s", args[0], usage)
}

func run(ctx context.Context, version, dir string, port int) (err error) {
	files, err := os.MkdirTemp("", "kafkaup-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(files)) }()
	b, err := kafkatest.StartBroker(ctx, kafkatest.BrokerOptions{Version: version, Jars: dir, Dir: files, Port: port})
	if err != nil {
		return err
	}
	fmt.Println(b.Addr)
	select {
	case <-ctx.Done():
		return b.Stop()
	case <-b.Exited():
		return errors.New("the broker ended by itself")
	}
}
