package house

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/starferry/starferry/agent/cli"
	"github.com/starferry/starferry/internal/chaos"
	"github.com/starferry/starferry/internal/kafkatest"
)

// roleVariable says what this program is when a test has started it again.
const (
	roleVariable    = "STARFERRY_HOUSE_ROLE"
	serviceVariable = "STARFERRY_HOUSE_SERVICE"
	roleProgram     = "starferry"
	roleService     = "service"
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case roleProgram:
		os.Exit(cli.Main(context.Background(), os.Args[1:], cli.IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv, Version: "test"}))
	case roleService:
		os.Exit(serve())
	}
	// The stories wait more than they work.
	flag.Parse()
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	kafkatest.Main(m)
}

// serve is one process of a service.
func serve() int {
	var o chaos.ServiceOptions
	err := json.Unmarshal([]byte(os.Getenv(serviceVariable)), &o)
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		err = chaos.RunService(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
