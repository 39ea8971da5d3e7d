package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/chaos/checker"
	"github.com/starferry/starferry/internal/chaos/ground"
	"github.com/starferry/starferry/internal/chaos/proxy"
	"github.com/starferry/starferry/internal/estate"
)

// Times of the parties.
const (
	// Session is the session timeout of the instances' memberships.
	Session = 3 * time.Second
	// lease is how long leases of instances and shards live.
	lease = 6 * time.Second
	// comeBack is how long a killed process is away.
	comeBack = time.Second
	// harmless is how long an instance may be away from a cluster without any
	// danger for its membership: it heartbeats every second.
	harmless = Session / 3
)

// part is how long the fault lasts, of what is usual.
func (t *trial) part(usual time.Duration) time.Duration {
	return time.Duration((0.2 + 0.8*t.fault.Long) * float64(usual))
}

func kill(ctx context.Context, t *trial) error {
	if err := t.w.Kill(ctx, false, t.fault.What); err != nil {
		return err
	}
	ground.Pause(ctx, comeBack)
	return nil // it is started again with all others
}

// loseAgentAndNATS leaves the groups alone: they must go on by themselves.
func loseAgentAndNATS(ctx context.Context, t *trial) error {
	if err := t.w.Kill(ctx, true, agentRole, natsRole); err != nil {
		return err
	}
	at := time.Now()
	for _, c := range t.crews {
		if err := c.flows(ctx, at, goneLimit); err != nil {
			return stuckError{fmt.Errorf("agent and NATS are gone for good, and %w", err)}
		}
		for _, first := range c.history.since(at) {
			t.resumed = max(t.resumed, first.Sub(at))
		}
	}
	return nil
}

func freeze(ctx context.Context, t *trial) error {
	name := t.fault.What
	p := t.w.roles[name].p
	at := time.Now()
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return ended(err)
	}
	if err := t.w.struck(ctx, name, checker.Strike{Blow: checker.Frozen, From: at}); err != nil {
		return errors.Join(err, p.Signal(syscall.SIGCONT))
	}
	ground.Pause(ctx, 2*lease)
	t.w.healed(name)
	return ended(p.Signal(syscall.SIGCONT))
}

// freezeThenSlow has an instance wake up behind slow links: what it does before
// it has heard of its membership is what it does on its own.
func freezeThenSlow(ctx context.Context, t *trial) error {
	name := t.fault.What
	p := t.w.roles[name].p
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return ended(err)
	}
	if err := t.w.struck(ctx, name, checker.Strike{Blow: checker.Frozen, From: time.Now()}); err != nil {
		return errors.Join(err, p.Signal(syscall.SIGCONT))
	}
	ground.Pause(ctx, 2*lease)
	if err := t.w.weather(proxy.Weather{Delay: 400 * time.Millisecond}, name); err != nil {
		return err
	}
	t.w.healed(name)
	err := ended(p.Signal(syscall.SIGCONT))
	ground.Pause(ctx, 2*time.Second)
	return err
}

// ended passes over that a process has ended by itself: it is started again.
func ended(err error) error {
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

func clusterName(side int) starferry.ClusterName {
	return []starferry.ClusterName{estate.Old, estate.New}[side]
}

// during lets weather hold on the ways of parties to one cluster for a while.
func (t *trial) during(ctx context.Context, k proxy.Weather, d time.Duration, side int, parties ...string) error {
	at := time.Now()
	for _, name := range parties {
		p := t.w.ways[name].kafka[side]
		p.Set(k)
		if k.Refused {
			p.Cut()
		}
		if d > harmless && (k.Refused || k.Frozen) {
			if err := t.w.struck(ctx, name, checker.Strike{Blow: checker.CutOff, From: at}, clusterName(side)); err != nil {
				return err
			}
		}
	}
	ground.Pause(ctx, d)
	for _, name := range parties {
		t.w.ways[name].kafka[side].Set(proxy.Weather{})
		t.w.healed(name)
	}
	return nil
}

func cut(k proxy.Weather) func(context.Context, *trial) error {
	return func(ctx context.Context, t *trial) error {
		return t.during(ctx, k, t.part(6*time.Second), t.fault.Side, t.fault.What)
	}
}

func slow(ctx context.Context, t *trial) error {
	return t.during(ctx, proxy.Weather{Delay: t.part(150 * time.Millisecond)}, 4*time.Second, t.fault.Side, t.fault.What)
}

// slowSeeder makes the way of the crew's first instance, which carries out
// orders, to the cluster that the crew is moved to a slow one.
func slowSeeder(ctx context.Context, t *trial) error {
	home, _, err := t.crews[0].truth(ctx, t.w)
	if err != nil {
		return err
	}
	t.w.ways[t.crews[0].instances[0]].kafka[1-side(home)].Set(proxy.Weather{Delay: 300 * time.Millisecond})
	return nil
}

// wait lets what was armed last a while.
func wait(ctx context.Context, _ *trial) error {
	ground.Pause(ctx, 2*time.Second)
	return nil
}

// loseAnInstanceToo kills one of the others when the seed is on its way, and
// leaves the rest alone with it: both groups get a new generation, and nobody
// decides.
func loseAnInstanceToo(ctx context.Context, t *trial) error {
	if err := t.w.Kill(ctx, true, agentRole, natsRole, t.crews[0].instances[1]); err != nil {
		return err
	}
	return loseAgentAndNATS(ctx, t)
}

// clusterAway has nobody reach a cluster.
func clusterAway(ctx context.Context, t *trial) error {
	return t.during(ctx, proxy.Weather{Refused: true}, t.part(6*time.Second), side(t.fault.What), t.w.parties()...)
}

func side(cluster string) int {
	if cluster == estate.New {
		return 1
	}
	return 0
}

// parties are all that have ways.
func (w *World) parties() []string {
	var all []string
	for name := range w.ways {
		all = append(all, name)
	}
	return all
}

// cutNATS cuts a party from NATS for longer than its lease lives; "nats" is all
// of them.
func cutNATS(ctx context.Context, t *trial) error {
	who := []string{t.fault.What}
	if t.fault.What == natsRole {
		who = t.w.parties()
	}
	k := proxy.Weather{Refused: true}
	if t.fault.Side == 1 {
		k = proxy.Weather{Frozen: true}
	}
	for _, name := range who {
		t.w.ways[name].nats.Set(k)
		if k.Refused {
			t.w.ways[name].nats.Cut()
		}
	}
	ground.Pause(ctx, t.part(2*lease))
	for _, name := range who {
		t.w.ways[name].nats.Set(proxy.Weather{})
	}
	return nil
}

// latePackets holds back what an instance says to a cluster, and lets it arrive
// when the instance has given up on it.
func latePackets(ctx context.Context, t *trial) error {
	name := t.fault.What
	d := t.part(2 * Session)
	held := t.w.ways[name].kafka[t.fault.Side].Hold(name)
	if d > harmless {
		if err := t.w.struck(ctx, name, checker.Strike{Blow: checker.CutOff, From: time.Now()}, clusterName(t.fault.Side)); err != nil {
			held.Release()
			return err
		}
	}
	ground.Pause(ctx, d)
	held.Release()
	t.w.healed(name)
	return nil
}

// trick has some requests of an instance go wrong. What was not done by then is
// forgotten.
func trick(k proxy.Trick) func(context.Context, *trial) error {
	return func(ctx context.Context, t *trial) error {
		for _, p := range t.w.ways[t.fault.What].kafka {
			p.Play(k)
		}
		ground.Pause(ctx, 2*time.Second)
		return nil
	}
}

// emptyNATS loses all that NATS knows.
func emptyNATS(ctx context.Context, t *trial) error {
	if err := t.w.Kill(ctx, true, natsRole); err != nil {
		return err
	}
	t.forgotten = true
	if err := os.RemoveAll(t.w.NATSDir()); err != nil {
		return err
	}
	ground.Pause(ctx, t.part(comeBack))
	return nil
}

func (w *World) backup() string { return filepath.Join(w.Dir, "backup") }

// backUpNATS takes a backup, unless there is an older one: that one will be
// restored.
func backUpNATS(ctx context.Context, t *trial) error {
	w := t.w
	if _, err := os.Stat(w.backup()); err == nil {
		return nil
	}
	if err := w.Kill(ctx, true, natsRole); err != nil {
		return err
	}
	if err := os.CopyFS(w.backup(), os.DirFS(w.NATSDir())); err != nil {
		return err
	}
	return w.StartAll(ctx)
}

// restoreNATS brings back what NATS knew when the last backup was taken, and
// keeps what it knew now for the next time.
func restoreNATS(ctx context.Context, t *trial) error {
	w := t.w
	if err := w.Kill(ctx, true, natsRole); err != nil {
		return err
	}
	t.forgotten = true
	now := w.backup() + ".now"
	if err := os.Rename(w.NATSDir(), now); err != nil {
		return err
	}
	if err := os.Rename(w.backup(), w.NATSDir()); err != nil {
		return err
	}
	ground.Pause(ctx, t.part(comeBack))
	return os.Rename(now, w.backup())
}

// deploy restarts the instances one after the other.
func deploy(ctx context.Context, t *trial) error {
	for _, name := range t.crews[0].instances {
		if p := t.w.roles[name].p; p != nil && p.Running() {
			p.Stop()
			if err := t.w.Start(name); err != nil {
				return err
			}
			ground.Pause(ctx, t.part(500*time.Millisecond))
		}
	}
	return nil
}

// scale lets the spare instance come or go.
func scale(_ context.Context, t *trial) error {
	name := t.crews[0].spare()
	r := t.w.roles[name]
	if r.idle = !r.idle; r.idle {
		if r.p != nil {
			r.p.Stop()
		}
		return nil
	}
	return t.w.Start(name)
}

// mostPartitions bounds what is added to a topic.
const mostPartitions = 12

func addPartition(ctx context.Context, t *trial) error {
	if c := t.crews[0]; c.partitions(c.lanes[0].Topic) < mostPartitions {
		return c.grow(ctx, t.w)
	}
	return nil
}

// strikeAll strikes all instances on a cluster, whose brokers are away.
func (t *trial) strikeAll(ctx context.Context, on ...starferry.ClusterName) (healed func(), err error) {
	at := time.Now()
	var names []string
	for _, c := range t.w.crews {
		names = append(names, c.instances...)
	}
	for _, name := range names {
		err = errors.Join(err, t.w.struck(ctx, name, checker.Strike{Blow: checker.CutOff, From: at}, on...))
	}
	return func() {
		for _, name := range names {
			t.w.healed(name)
		}
	}, err
}

// freezeBroker freezes a broker, or the process of both in-process clusters.
func freezeBroker(ctx context.Context, t *trial) error {
	on := []starferry.ClusterName{estate.Old, estate.New}
	signal := func(s os.Signal) error { return t.w.Kafkas.Signal(s) }
	if t.w.Kafka != "" {
		on = on[side(t.fault.What):][:1]
		signal = t.w.Brokers[side(t.fault.What)].Signal
	}
	healed, err := t.strikeAll(ctx, on...)
	if err != nil {
		return err
	}
	defer healed()
	if err := signal(syscall.SIGSTOP); err != nil {
		return err
	}
	ground.Pause(ctx, t.part(2*Session))
	return signal(syscall.SIGCONT)
}

func restartBroker(ctx context.Context, t *trial) error {
	return t.brokerAgain(ctx, t.w.Brokers[side(t.fault.What)].Stop)
}

func killBroker(ctx context.Context, t *trial) error {
	return t.brokerAgain(ctx, t.w.Brokers[side(t.fault.What)].Kill)
}

func (t *trial) brokerAgain(ctx context.Context, stop func() error) error {
	healed, err := t.strikeAll(ctx, clusterName(side(t.fault.What)))
	if err != nil {
		return err
	}
	defer healed()
	if err := stop(); err != nil {
		return err
	}
	ground.Pause(ctx, t.part(2*time.Second))
	return t.w.Brokers[side(t.fault.What)].Start(ctx)
}

// goneLimit is what a group may stand still when agent and NATS are gone: the
// drain deadline that agents set, and ten seconds.
const goneLimit = agentDrain + 10*time.Second

const agentDrain = 10 * time.Second
