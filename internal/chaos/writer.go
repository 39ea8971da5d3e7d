package chaos

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/producer"
	"github.com/starferry/starferry/internal/chaos/checker"
)

// WriterOptions describe one process that produces with the library.
type WriterOptions struct {
	Topic      starferry.Topic
	Partitions int
	Clusters   []starferry.Cluster // the first is the topic's home to begin with
	NATS       string
	Instance   starferry.InstanceID
	Boot       string // prefix of its keys
	First      int64  // number of its first record
	Rate       int    // records per second
	Out        string // file that gets a line for each record sent, and for what became of it
	Log        *slog.Logger
}

// keysEach is how many keys a writer has in each partition.
const keysEach = 5

// RunWriter writes numbered records until ctx ends. Each is noted before it is
// sent, so that whatever a cluster may hold is known.
func RunWriter(ctx context.Context, o WriterOptions) (err error) {
	out, err := os.OpenFile(o.Out, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("writer: %w", err)
	}
	defer out.Close()
	conn, err := nats.Connect(o.NATS, nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true), nats.ReconnectWait(200*time.Millisecond))
	if err != nil {
		return fmt.Errorf("writer: %w", err)
	}
	defer conn.Close()
	p, err := producer.Open(ctx, producer.Config{Topics: []starferry.Topic{o.Topic}, Clusters: o.Clusters, Home: o.Clusters[0].Name,
		NATS: conn, Instance: o.Instance, Logger: o.Log})
	if err != nil {
		return fmt.Errorf("writer: %w", err)
	}
	tick := time.NewTicker(loadEvery)
	defer tick.Stop()
	began := time.Now()
	for sent := 0; ctx.Err() == nil; {
		select {
		case <-ctx.Done():
		case now := <-tick.C:
			for due := int(now.Sub(began).Seconds() * float64(o.Rate)); sent < due && ctx.Err() == nil; sent++ {
				if err := o.send(ctx, p, out, sent); err != nil {
					o.Log.Warn("not sent", "error", err)
				}
			}
		}
	}
	bounded, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	return p.Close(bounded)
}

func (o WriterOptions) send(ctx context.Context, p *producer.Producer, out io.Writer, n int) error {
	id := o.First + int64(n)
	part := starferry.Partition(n % o.Partitions)
	key := fmt.Sprintf("%s-%d", o.Boot, n%(o.Partitions*keysEach))
	// One write each, so that a kill leaves whole lines.
	if _, err := fmt.Fprintf(out, "sent %d %d %s\n", id, part, key); err != nil {
		return err
	}
	return p.Send(ctx, producer.Record{Topic: o.Topic, Partition: &part, Key: []byte(key), Value: strconv.AppendInt(nil, id, 10)}, func(r producer.Result) {
		if r.Err != nil {
			_, _ = fmt.Fprintf(out, "failed %d %s\n", id, strings.ReplaceAll(r.Err.Error(), "\n", " ")) // it is seen to be missing
			return
		}
		_, _ = fmt.Fprintf(out, "acked %d %s %d\n", id, r.Cluster, r.Offset)
	})
}

// written is what one boot of a writer has noted, read as it grows.
type written struct {
	topic  starferry.Topic
	path   string
	read   int64
	all    []checker.Written
	first  checker.ID
	failed int
}

// update reads what is new.
func (t *written) update() error {
	f, err := os.Open(t.path)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, t.read, 1<<40))
	if err != nil {
		return fmt.Errorf("read %s: %w", t.path, err)
	}
	whole := b[:bytes.LastIndexByte(b, '\n')+1]
	t.read += int64(len(whole))
	for line := range strings.Lines(string(whole)) {
		if err := t.take(strings.Fields(line)); err != nil {
			return fmt.Errorf("read %s: %q: %w", t.path, line, err)
		}
	}
	return nil
}

func (t *written) take(f []string) error {
	if len(f) < 3 {
		return fmt.Errorf("%d fields", len(f))
	}
	n, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil {
		return err
	}
	id := checker.ID(n)
	i := int(id - t.first) // they are numbered without a gap
	switch {
	case f[0] == "sent" && len(f) == 4 && i == len(t.all):
		p, err := strconv.ParseInt(f[2], 10, 32)
		t.all = append(t.all, checker.Written{ID: id, Key: f[3], Offset: starferry.NoOffset,
			TopicPartition: starferry.TopicPartition{Topic: t.topic, Partition: starferry.Partition(p)}})
		return err
	case f[0] == "acked" && len(f) == 4 && i >= 0 && i < len(t.all):
		o, err := strconv.ParseInt(f[3], 10, 64)
		t.all[i].Cluster, t.all[i].Offset = starferry.ClusterName(f[2]), starferry.Offset(o)
		return err
	case f[0] == "failed" && i >= 0 && i < len(t.all):
		t.failed++
		return nil
	}
	return fmt.Errorf("out of place")
}
