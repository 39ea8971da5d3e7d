package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/estate"
	"github.com/starferry/starferry/internal/process"
	"github.com/starferry/starferry/replication"
)

// ferry is starferry on the pair, as users run it: an agent, shards, command
// lines. Beside them stands a client for questions that come too often for a
// command line.
type ferry struct {
	*estate.Estate
	data   string // the processes' data directory
	agent  *process.Process
	nc     *nats.Conn
	client *replication.Client
}

// ferry starts an agent with everything below a directory.
func (b *bench) ferry(ctx context.Context, dir string, p *pair) (*ferry, error) {
	dir = filepath.Join(dir, "estate")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	e, err := estate.Open(estate.Plan{Dir: dir, Binary: b.Starferry, Old: p.source.address, New: p.target.address, Processes: b.processes})
	if err != nil {
		return nil, err
	}
	f := &ferry{Estate: e, data: filepath.Join(dir, "data")}
	if f.agent, err = e.Agent(); err != nil {
		return nil, err
	}
	if err := e.AwaitAgent(ctx); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if f.nc, err = nats.Connect(e.NATS()); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to the agent's NATS: %w", err), f.Close())
	}
	f.client = replication.NewClient(f.nc, map[starferry.ClusterName]starferry.Cluster{
		estate.Old: {Name: estate.Old, Brokers: []string{p.source.address}},
		estate.New: {Name: estate.New, Brokers: []string{p.target.address}},
	}, nil)
	return f, nil
}

// Close ends the agent; shards are their starters'.
func (f *ferry) Close() error {
	var err error
	if f.client != nil {
		err = f.client.Close()
	}
	if f.nc != nil {
		f.nc.Close()
	}
	f.agent.Stop()
	return err
}

// link is the name of the only link of a ferry.
const link = starferry.LinkName("bench")

// replicate asks for topics to be copied, as an operator would, and returns when
// their lanes are taken up.
func (f *ferry) replicate(ctx context.Context, topics ...starferry.Topic) error {
	var names []string
	for _, t := range topics {
		names = append(names, fmt.Sprintf("%q", t))
	}
	line := fmt.Sprintf("replicate([%s], source = cluster(%q), target = cluster(%q), link = %q)", strings.Join(names, ", "), estate.Old, estate.New, link)
	_, err := f.Command(ctx, "exec", "--auto-approve", "-c", line)
	return err
}

// store is the directory of a shard's offset maps.
func (f *ferry) store(shard string) string { return filepath.Join(f.data, "shards", shard) }

// lookCost is about what one look at a lane's status costs the shard and the
// source, times ten: looking takes a tenth of the processors at most.
const lookCost = 250 * time.Microsecond

// awaitCopied waits until every lane copies and has nothing left to copy, and
// returns when that was first seen. It looks less often at many lanes.
func (f *ferry) awaitCopied(ctx context.Context, lanes int, shard *process.Process) (time.Time, error) {
	tick := time.NewTicker(pollEvery + time.Duration(lanes)*lookCost)
	defer tick.Stop()
	var last string
	for {
		s, err := f.client.Status(ctx, link)
		now := time.Now()
		if err == nil {
			if last = laggard(s, lanes); last == "" {
				return now, nil
			}
		} else {
			last = err.Error()
		}
		select {
		case <-ctx.Done():
			return now, fmt.Errorf("wait for the copy: %w: %s; the shard said:\n%s", context.Cause(ctx), last, shard.Tail())
		case <-shard.Done():
			return now, fmt.Errorf("wait for the copy: the shard ended; it said:\n%s", shard.Tail())
		case <-tick.C:
		}
	}
}

// laggard names a lane that is not at the end of its source; empty: none.
func laggard(s replication.LinkStatus, lanes int) string {
	if len(s.Lanes) != lanes {
		return fmt.Sprintf("%d lanes of %d", len(s.Lanes), lanes)
	}
	for _, l := range s.Lanes {
		if l.State != replication.Copying || l.SourceEnd < 0 || l.Lag != 0 {
			return fmt.Sprintf("lane %s: %s %s, lag %d", l.Partition, l.State, l.Reason, l.Lag)
		}
	}
	return ""
}
