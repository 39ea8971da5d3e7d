//go:build !unix

package conformance

import (
	"os"
	"os/exec"
)

func detach(*exec.Cmd) {}

// end kills a process, or asks it to end.
func end(cmd *exec.Cmd, hard bool) {
	if hard || cmd.Process.Signal(os.Interrupt) != nil {
		_ = cmd.Process.Kill() // it may have ended already
	}
}
