package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/internal/chaos/checker"
	"github.com/starferry/starferry/internal/chaos/ground"
	"github.com/starferry/starferry/internal/estate"
	"github.com/starferry/starferry/internal/process"
)

// crew is a service: one group, its instances, its load and what it handled.
type crew struct {
	group     starferry.Group
	instances []string // the last one is the spare, which runs now and then
	lanes     []starferry.TopicPartition
	fresh     map[starferry.TopicPartition]bool // lanes that were added and not handed out yet
	load      source
	history   history
	lastRun   string // the run that brought the group to the new cluster; "": none that could be rolled back

	mu       sync.Mutex
	reported map[checker.Repeat]bool
}

func newCrews() []*crew {
	return []*crew{
		newCrew("orders", 3, map[starferry.Topic]int{"orders": 6, "payments": 2}),
		newCrew("billing", 2, map[starferry.Topic]int{"invoices": 3}),
	}
}

// handCrew is the one crew on which hands are laid.
func handCrew() []*crew { return []*crew{newCrew("orders", 3, map[starferry.Topic]int{"orders": 6})} }

func newCrew(group starferry.Group, instances int, topics map[starferry.Topic]int) *crew {
	c := &crew{group: group, reported: map[checker.Repeat]bool{}, fresh: map[starferry.TopicPartition]bool{}}
	for i := range instances + 1 {
		c.instances = append(c.instances, fmt.Sprintf("%s-%d", group, i+1))
	}
	for _, topic := range slices.Sorted(maps.Keys(topics)) {
		for p := range topics[topic] {
			c.lanes = append(c.lanes, starferry.TopicPartition{Topic: topic, Partition: starferry.Partition(p)})
		}
	}
	return c
}

// crewOf is the crew that a role belongs to, nil for none.
func (w *World) crewOf(name string) *crew {
	for _, c := range w.crews {
		if slices.Contains(c.instances, name) {
			return c
		}
	}
	return nil
}

func (c *crew) spare() string { return c.instances[len(c.instances)-1] }

func (c *crew) topics() []starferry.Topic {
	var all []starferry.Topic
	for _, tp := range c.lanes {
		if !slices.Contains(all, tp.Topic) {
			all = append(all, tp.Topic)
		}
	}
	return all
}

func (c *crew) partitions(t starferry.Topic) int {
	n := 0
	for _, tp := range c.lanes {
		if tp.Topic == t {
			n++
		}
	}
	return n
}

// open starts load and instances and waits until every lane has been handed out.
func (c *crew) open(ctx context.Context, w *World, writers int) error {
	var err error
	if writers > 0 {
		c.load, err = w.startWriters(c, writers)
	} else {
		c.load, err = StartLoad(w.Addresses[0], c.lanes, w.Rate)
	}
	if err != nil {
		return err
	}
	w.OnClose(func() {
		if err := c.load.Close(); err != nil {
			w.Say("%v", err)
		}
	})
	for _, name := range c.instances {
		v, err := w.waysOf(name)
		if err != nil {
			return err
		}
		w.roles[name] = &role{start: func(boot int) (*process.Process, error) { return c.start(w, v, name, boot) }, idle: name == c.spare()}
		if err := w.Start(name); err != nil {
			return err
		}
	}
	watching, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() { defer close(done); c.listen(watching, w.store) }()
	w.OnClose(func() { cancel(); <-done })
	return c.flows(ctx, time.Now(), 30*time.Second)
}

func (c *crew) start(w *World, v *ways, name string, boot int) (*process.Process, error) {
	out := filepath.Join(w.Dir, fmt.Sprintf("%s.%d.handled", name, boot))
	if err := os.WriteFile(out, nil, 0o644); err != nil {
		return nil, err
	}
	c.history.add(bootName(name, boot), out)
	topics := ""
	for i, t := range c.topics() {
		if i > 0 {
			topics += ","
		}
		topics += string(t)
	}
	return w.Processes.Start(process.Spec{Name: name, Path: w.Self, Args: []string{"service",
		"-old", v.addresses[0], "-new", v.addresses[1], "-nats", v.natsURL, "-group", string(c.group), "-topics", topics,
		"-instance", name, "-out", out, "-early", w.Early.String(), "-work", w.Work.String()}})
}

func bootName(id string, boot int) string { return fmt.Sprintf("%s/%d", id, boot) }

// listen keeps every range that a lease says may repeat. It ends with ctx.
func (c *crew) listen(ctx context.Context, store *desired.Store) {
	_ = store.WatchLeases(ctx, c.group, func(all []control.Lease, _ error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, l := range all {
			for _, r := range l.Repeats {
				c.reported[checker.Repeat{Cluster: r.Cluster, TopicPartition: r.Partition, Range: r.Range}] = true
			}
		}
	})
}

// grow adds a partition to the crew's first topic.
func (c *crew) grow(ctx context.Context, w *World) error {
	topic := c.lanes[0].Topic
	n := c.partitions(topic)
	if err := w.grow(ctx, topic, n+1); err != nil {
		return err
	}
	tp := starferry.TopicPartition{Topic: topic, Partition: starferry.Partition(n)}
	c.lanes = append(c.lanes, tp)
	c.fresh[tp] = true
	c.load.add(tp)
	for _, r := range w.readers {
		r.lanes = append(r.lanes, tp)
	}
	return nil
}

// newLane is how long a partition that was added may take to be noticed: the
// group's leader looks every 30 s.
const newLane = 60 * time.Second

// flows waits until every lane has handed out a record after a time.
func (c *crew) flows(ctx context.Context, since time.Time, within time.Duration) error {
	missing := ""
	began := time.Now()
	err := ground.Until(ctx, within+newLane, ground.Often, func() (bool, error) {
		if err := c.history.update(); err != nil {
			return false, err
		}
		seen := c.history.since(since)
		missing = ""
		young := true
		for _, tp := range c.lanes {
			if _, ok := seen[tp]; !ok {
				missing += " " + tp.String()
				young = young && c.fresh[tp]
			} else {
				delete(c.fresh, tp)
			}
		}
		if missing != "" && !young && time.Since(began) > within {
			return false, context.DeadlineExceeded
		}
		return missing == "", nil
	})
	if err != nil {
		return fmt.Errorf("nothing is handed out of%s within %s: %w", missing, within, err)
	}
	return nil
}

// truth is where the group lives and the highest epoch anything knows, by what
// the commits say; old if they say nothing.
func (c *crew) truth(ctx context.Context, w *World) (home string, epoch starferry.Epoch, err error) {
	home = estate.Old
	best := 0
	rank := map[control.State]int{control.Moved: 3, control.Home: 2, control.Draining: 1}
	for _, name := range []starferry.ClusterName{estate.Old, estate.New} {
		marks, err := w.readers[name].Marks(ctx, c.group)
		if err != nil {
			return "", 0, err
		}
		for _, m := range marks {
			if rank[m.State] == 0 || m.Epoch < epoch || m.Epoch == epoch && rank[m.State] <= best {
				continue
			}
			home, epoch, best = string(name), m.Epoch, rank[m.State]
			if m.State == control.Moved {
				home = string(m.Cluster)
			}
		}
	}
	return home, epoch, nil
}

// check waits until all that was produced so far is handled, or a while, and
// lets the checker read everything.
func (c *crew) check(ctx context.Context, w *World, within time.Duration) (checker.Verdict, error) {
	sent := c.load.Sent()
	// What is still missing at the end is for the checker to say.
	if err := ground.Until(ctx, within, ground.Rare, func() (bool, error) { return c.history.covers(sent) }); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return checker.Verdict{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	_, epoch, err := c.truth(ctx, w)
	if err != nil {
		return checker.Verdict{}, err
	}
	e := checker.Evidence{Source: estate.Old, Target: estate.New, Produced: sent, Strikes: c.history.strikes, Moves: int(epoch),
		Handled: c.history.handled(sent), Logs: map[starferry.ClusterName]map[starferry.TopicPartition]checker.Log{}}
	c.mu.Lock()
	e.Reported = slices.Collect(maps.Keys(c.reported))
	c.mu.Unlock()
	// The target first: what it holds must be on the source by then.
	for _, name := range []starferry.ClusterName{estate.New, estate.Old} {
		all, err := w.readers[name].Logs(ctx)
		if err != nil {
			return checker.Verdict{}, err
		}
		e.Logs[name] = map[starferry.TopicPartition]checker.Log{}
		for _, tp := range c.lanes {
			if log, ok := all[tp]; ok {
				e.Logs[name][tp] = log
			}
		}
	}
	return checker.Check(e), nil
}
