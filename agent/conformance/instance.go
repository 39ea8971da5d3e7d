package conformance

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/starferry/starferry"
)

// endWithin is how long a client may take to end when it is asked to.
const endWithin = 15 * time.Second

// instance is one process of the client.
type instance struct {
	name            starferry.InstanceID
	cmd             *exec.Cmd
	done            chan struct{} // ended, and all its lines are read
	killed, stopped bool          // by us; of the scenario's goroutine

	mu    sync.Mutex
	lines []handled
	wrong []string // lines that are none
	said  tail
	err   error // of Wait, once done is closed
}

// launch starts a process.
func launch(command []string, a Assignment) (*instance, error) {
	i := &instance{name: a.Instance, done: make(chan struct{})}
	i.cmd = exec.Command(command[0], command[1:]...)
	i.cmd.Env = append(os.Environ(), a.environ()...)
	i.cmd.Stderr = &i.said
	detach(i.cmd)
	out, err := i.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start client %v: %w", command, err)
	}
	if err := i.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start client %v: %w; give the command that starts your client", command, err)
	}
	go func() {
		defer close(i.done)
		i.listen(out)
		err := i.cmd.Wait()
		i.mu.Lock()
		i.err = err
		i.mu.Unlock()
	}()
	return i, nil
}

// listen reads lines until the process has ended.
func (i *instance) listen(out io.Reader) {
	s := bufio.NewScanner(out)
	for s.Scan() {
		h, err := parseLine(s.Text())
		i.mu.Lock()
		if err != nil {
			i.wrong = append(i.wrong, err.Error())
		} else {
			i.lines = append(i.lines, h)
		}
		i.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, out) // a line too long for the scanner
}

// kill ends it as kill −9 does, with all it has started.
func (i *instance) kill() {
	i.killed = true
	end(i.cmd, true)
	<-i.done
}

// stop asks it to end. An error says that it did not, or how.
func (i *instance) stop() error {
	i.stopped = true
	end(i.cmd, false)
	select {
	case <-i.done:
		i.mu.Lock()
		defer i.mu.Unlock()
		return i.err
	case <-time.After(endWithin):
		i.kill()
		return fmt.Errorf("it had not ended %v after SIGTERM", endWithin)
	}
}

func (i *instance) running() bool {
	select {
	case <-i.done:
		return false
	default:
		return true
	}
}

// handled returns what it has handled so far, and its lines that are none.
func (i *instance) handled() ([]handled, []string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.lines[:len(i.lines):len(i.lines)], i.wrong
}

// tail keeps the end of what is written.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailBytes = 2 << 10

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if n := len(t.text) - tailBytes; n > 0 {
		t.text = bytes.Clone(t.text[n:])
	}
	return len(b), nil
}

// String is the end of it.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.text))
}
