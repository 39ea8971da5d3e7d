// Package process runs the programs that harnesses drive: it starts them with
// their output in a file, kills them the hard way or asks them to end, and
// tells what processor time they took.
//
// # Rules
//
//   - Every process belongs to a [Set]; closing the set ends them all, by their
//     own ids.
//   - What a process said stays in its log file, for whoever has to find out.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// stopPatience is how long a process may take to end when asked to.
const stopPatience = 20 * time.Second

// Spec says what to run.
type Spec struct {
	Name string // of the log file, and in errors
	Path string
	Args []string
	Env  []string // beside the caller's own
	Dir  string
}

// Set is processes that end together.
type Set struct {
	logs string

	mu  sync.Mutex
	all []*Process
}

// NewSet makes a set whose processes write their logs below the directory.
func NewSet(logs string) *Set { return &Set{logs: logs} }

// Process is one running program.
type Process struct {
	spec Spec
	log  string
	cmd  *exec.Cmd
	done chan struct{}
	err  error // of Wait, once done is closed
}

// Start runs a program. A log of the same name is appended to.
func (s *Set) Start(spec Spec) (*Process, error) {
	path := filepath.Join(s.logs, spec.Name+".log")
	out, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	defer out.Close() // the child has its own
	cmd := exec.Command(spec.Path, spec.Args...)
	cmd.Env = append(os.Environ(), spec.Env...)
	cmd.Dir = spec.Dir
	cmd.Stdout, cmd.Stderr = out, out
	// A group of its own, so that an interrupt at the terminal reaches the
	// harness alone, which then ends its processes in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	p := &Process{spec: spec, log: path, cmd: cmd, done: make(chan struct{})}
	go func() { p.err = cmd.Wait(); close(p.done) }()
	s.mu.Lock()
	s.all = append(s.all, p)
	s.mu.Unlock()
	return p, nil
}

// Close ends all processes, the last started first, and waits for them.
func (s *Set) Close() {
	s.mu.Lock()
	all := s.all
	s.all = nil
	s.mu.Unlock()
	for i := len(all) - 1; i >= 0; i-- {
		all[i].Stop()
	}
}

// Name is the name the process was started under.
func (p *Process) Name() string { return p.spec.Name }

// PID is its process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Running reports whether it has not ended yet.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Signal sends it a signal, such as SIGSTOP and SIGCONT, which freeze and thaw it.
func (p *Process) Signal(s os.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("signal %s: %w", p.spec.Name, err)
	}
	return nil
}

// Kill ends it as kill −9 does, and waits.
func (p *Process) Kill() { KillAll(p) }

// KillAll ends several at the same time, and waits.
func KillAll(all ...*Process) {
	for _, p := range all {
		_ = p.cmd.Process.Kill() // it may have ended already
	}
	for _, p := range all {
		<-p.done
	}
}

// Stop asks it to end, waits, and kills it if it takes too long.
func (p *Process) Stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-p.done:
	case <-time.After(stopPatience):
		p.Kill()
	}
}

// Wait waits until it ends by itself. An exit code other than 0 is an error
// with the end of its log.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w; it said:\n%s", p.spec.Name, context.Cause(ctx), p.Tail())
	case <-p.done:
	}
	if p.err != nil {
		return fmt.Errorf("%s ended: %w; it said:\n%s", p.spec.Name, p.err, p.Tail())
	}
	return nil
}

// ExitCode is the code it ended with, −1 while it runs or if it was killed.
func (p *Process) ExitCode() int {
	if p.Running() {
		return -1
	}
	return p.cmd.ProcessState.ExitCode()
}

// tailBytes is how much of a log an error quotes.
const tailBytes = 4 << 10

// Tail is the end of its log.
func (p *Process) Tail() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-tailBytes):])
}

// clockTick is what /proc counts processor time in; Linux has used 100 a second
// on every platform Go runs on.
const clockTick = time.Second / 100

// CPU is the processor time a running process has taken, of all its threads.
func (p *Process) CPU() (time.Duration, error) {
	d, err := CPU(p.PID())
	if err != nil {
		return 0, fmt.Errorf("processor time of %s: %w", p.spec.Name, err)
	}
	return d, nil
}

// CPU is the processor time that the running process of an id has taken.
func CPU(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseStat(b)
}

// Memory is what a running process holds in memory now and held at its peak, in
// bytes, as the kernel counts it: mapped files included.
func (p *Process) Memory() (now, peak int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err == nil {
		now, peak, err = parseStatus(b)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("memory of %s: %w", p.spec.Name, err)
	}
	return now, peak, nil
}

// parseStatus reads VmRSS and VmHWM of /proc/PID/status, proc(5).
func parseStatus(b []byte) (now, peak int64, err error) {
	for line := range bytes.Lines(b) {
		name, rest, _ := bytes.Cut(line, []byte(":"))
		var into *int64
		switch string(name) {
		case "VmRSS":
			into = &now
		case "VmHWM":
			into = &peak
		default:
			continue
		}
		f := bytes.Fields(rest)
		if len(f) != 2 || string(f[1]) != "kB" {
			return 0, 0, fmt.Errorf("the kernel's line %q is not in kB", bytes.TrimSpace(line))
		}
		n, err := strconv.ParseInt(string(f[0]), 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("the kernel's line %q: %w", bytes.TrimSpace(line), err)
		}
		*into = n << 10
	}
	if now == 0 || peak == 0 {
		return 0, 0, errors.New("the kernel tells no VmRSS and VmHWM")
	}
	return now, peak, nil
}

// parseStat adds user and system time of a line of /proc/PID/stat, proc(5). The
// command's name, in parentheses, may contain anything.
func parseStat(b []byte) (time.Duration, error) {
	const userField, systemField = 11, 12 // counted from the one behind the name
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) <= systemField {
		return 0, errors.New("the kernel's line has too few fields")
	}
	var sum time.Duration
	for _, i := range []int{userField, systemField} {
		n, err := strconv.ParseInt(string(f[i]), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("field %d is no number: %w", i, err)
		}
		sum += time.Duration(n) * clockTick
	}
	return sum, nil
}
