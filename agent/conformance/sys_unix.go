//go:build unix

package conformance

import (
	"os/exec"
	"syscall"
)

// detach gives a process a group of its own: a shell around the client ends with
// it, and an interrupt at the terminal reaches us alone.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// end kills a process and what it has started, or asks them to end.
func end(cmd *exec.Cmd, hard bool) {
	sig := syscall.SIGTERM
	if hard {
		sig = syscall.SIGKILL
	}
	_ = syscall.Kill(-cmd.Process.Pid, sig) // it may have ended already
}
