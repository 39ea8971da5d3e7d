// Package estate runs starferry as users do, for harnesses: a configuration
// file, an agent, shards and command lines, each a process of its own.
package estate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/starferry/starferry/internal/process"
)

// Old and New are the names of the two clusters in the configuration.
const (
	Old = "old"
	New = "new"
)

// Plan says what an estate is made of.
type Plan struct {
	Dir       string // of configuration and data; it exists
	Binary    string // the program starferry
	Old, New  string // addresses of the clusters
	NATS      string // URL of a NATS server; empty: the agent runs one
	Processes *process.Set
}

// Estate is starferry on one machine.
type Estate struct {
	plan   Plan
	config string
	nats   string
}

// Open writes the configuration. Nothing runs yet.
func Open(p Plan) (*Estate, error) {
	if _, err := os.Stat(p.Binary); err != nil {
		return nil, fmt.Errorf("open estate: %w; run make build first", err)
	}
	binary, err := filepath.Abs(p.Binary)
	if err != nil {
		return nil, fmt.Errorf("open estate: %w", err)
	}
	p.Binary = binary
	url, nats := p.NATS, "url: "+p.NATS
	if p.NATS == "" {
		address, err := FreeAddress()
		if err != nil {
			return nil, err
		}
		url, nats = "nats://"+address, "listen: "+address
	}
	text := fmt.Sprintf("clusters:\n  %s: {brokers: [%q]}\n  %s: {brokers: [%q]}\nnats: {%s}\ndata_dir: data\n", Old, p.Old, New, p.New, nats)
	e := &Estate{plan: p, config: filepath.Join(p.Dir, "starferry.yaml"), nats: url}
	if err := os.WriteFile(e.config, []byte(text), 0o644); err != nil {
		return nil, fmt.Errorf("open estate: %w", err)
	}
	return e, nil
}

// Config is the path of the configuration file.
func (e *Estate) Config() string { return e.config }

// NATS is the URL of the NATS server, the agent's own or the given one.
func (e *Estate) NATS() string { return e.nats }

// Agent starts the agent.
func (e *Estate) Agent() (*process.Process, error) { return e.start("agent", "agent") }

// agentWithin is how long an agent may take to answer.
const agentWithin = 20 * time.Second

// AwaitAgent waits until the agent answers. Command lines that come before give
// up.
func (e *Estate) AwaitAgent(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, agentWithin)
	defer cancel()
	for {
		_, err := e.Command(ctx, "runs")
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the agent does not answer within %s: %w", agentWithin, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Shard starts a shard. A shard started again under the same id finds its store.
func (e *Estate) Shard(id string) (*process.Process, error) {
	return e.start(id, "shard", "--id", id)
}

// Start runs a long command line of the program under a name.
func (e *Estate) start(name string, args ...string) (*process.Process, error) {
	return e.plan.Processes.Start(process.Spec{Name: name, Path: e.plan.Binary, Args: e.with(args)})
}

// Command runs a command line to its end and returns what it wrote to its
// standard output; an error quotes what it wrote elsewhere.
func (e *Estate) Command(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, e.plan.Binary, e.with(args)...)
	out, err := cmd.Output()
	if err == nil {
		return string(out), nil
	}
	said := ""
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		said = "\n" + string(exit.Stderr)
	}
	return string(out), fmt.Errorf("starferry %s: %w%s", strings.Join(args, " "), err, said)
}

// Run starts a command line that the caller waits for, or kills.
func (e *Estate) Run(name string, args ...string) (*process.Process, error) {
	return e.start(name, args...)
}

func (e *Estate) with(args []string) []string {
	return append(args[:len(args):len(args)], "--config", e.config)
}

// FreeAddress is an address of this machine that nobody listens on just now.
func FreeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}
