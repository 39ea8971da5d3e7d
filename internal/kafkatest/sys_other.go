//go:build !linux

package kafkatest

import "syscall"

// childAttr keeps the terminal's interrupt from a broker, so that it is stopped
// in order.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
