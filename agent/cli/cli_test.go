package cli_test

import (
	"context"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/starferry/starferry/agent/cli"
)

// The scripts below testdata call the command line as users do.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"starferry": func() {
			os.Exit(cli.Main(context.Background(), os.Args[1:], cli.IO{
				In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv, Version: "v1.2.3-test",
			}))
		},
	})
}

func TestCommandLine(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", RequireExplicitExec: true, RequireUniqueNames: true})
}
