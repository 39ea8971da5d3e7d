package kafkatest

import "syscall"

// childAttr makes a broker end with the process that started it, and keeps the
// terminal's interrupt from it, so that it is stopped in order.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
