// Command starferry moves live Kafka consumer groups between clusters, and
// back. See `starferry --help`.
package main

import (
	"context"
	"os"

	"github.com/starferry/starferry/agent/cli"
)

// version is stamped by the linker from git.
var version = "unknown (built without make)"

func main() {
	os.Exit(cli.Main(context.Background(), os.Args[1:], cli.IO{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv, Version: version,
	}))
}
