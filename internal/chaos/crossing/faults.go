package crossing

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry/internal/chaos/ground"
	"github.com/starferry/starferry/internal/chaos/proxy"
	"github.com/starferry/starferry/internal/process"
	"github.com/starferry/starferry/replication"
)

// fault is something that goes wrong for a while.
type fault struct {
	name   string
	weight int
	takes  []string // what it wants for itself: roles, proxies; one of them is drawn
	// run does it and undoes it. What is random was drawn before: how long it
	// lasts, between 0 and 1 of what is usual.
	run func(ctx context.Context, w *World, what string, long float64) error
}

// deck is everything that may happen.
func (w *World) deck() []fault {
	clusters := []string{"old", "new"}
	all := []fault{
		{"kill -9", 8, shardRoles(), killShard},
		{"freeze for two leases", 4, shardRoles(), freezeShard},
		{"leave and join", 4, shardRoles(), leaveShard},
		{"lose store", 4, shardRoles(), loseStore},
		{"late packets of a dead shard", 4, []string{wanderers}, latePackets},
		{"kill -9 agent", 1, []string{agentRole}, killAgent},
		{"restart NATS", 2, []string{natsRole}, restartNATS},
		{"empty NATS", 1, []string{natsRole}, emptyNATS},
		{"cut connections", 8, clusters, cutConnections},
		{"refuse connections", 3, clusters, weather(func() proxy.Weather { return proxy.Weather{Refused: true} }, 2*time.Second, true)},
		{"delay", 3, clusters, weather(func() proxy.Weather { return proxy.Weather{Delay: 40 * time.Millisecond} }, 3*time.Second, false)},
		{"throttle", 3, clusters, weather(func() proxy.Weather { return proxy.Weather{Rate: 200 << 10} }, 3*time.Second, false)},
		{"freeze connections", 3, clusters, weather(func() proxy.Weather { return proxy.Weather{Frozen: true} }, 4*time.Second, false)},
		{"half a fetch answer", 3, []string{"old:"}, play(0, proxy.Trick{Key: kmsg.Fetch, Deed: proxy.CutAnswer, Times: 2})},
		{"no fetch answer", 2, []string{"old:"}, play(0, proxy.Trick{Key: kmsg.Fetch, Deed: proxy.LoseAnswer, Times: 2})},
		{"half a produce request", 5, []string{"new:"}, play(1, proxy.Trick{Key: kmsg.Produce, Deed: proxy.CutRequest, Times: 2})},
		{"half a produce answer", 5, []string{"new:"}, play(1, proxy.Trick{Key: kmsg.Produce, Deed: proxy.CutAnswer, Times: 2})},
		{"no produce answer", 8, []string{"new:"}, play(1, proxy.Trick{Key: kmsg.Produce, Deed: proxy.LoseAnswer, Times: 3})},
		{"half a fence", 2, []string{"new:"}, play(1, proxy.Trick{Key: kmsg.EndTxn, Deed: proxy.LoseAnswer})},
		{"half an init", 2, []string{"new:"}, play(1, proxy.Trick{Key: kmsg.InitProducerID, Deed: proxy.LoseAnswer})},
		{"not leader", 3, []string{"new:"}, play(1, proxy.Trick{Key: kmsg.Produce, Deed: proxy.Refuse, Code: kerr.NotLeaderForPartition.Code, Times: 4})},
		{"timed out after append", 4, []string{"new:"}, play(1, proxy.Trick{Key: kmsg.Produce, Deed: proxy.Lie, Code: kerr.RequestTimedOut.Code, Times: 4})},
		{"not enough replicas after append", 3, []string{"new:"}, play(1, proxy.Trick{Key: kmsg.Produce, Deed: proxy.Lie, Code: kerr.NotEnoughReplicasAfterAppend.Code, Times: 4})},
		{"storage error", 2, []string{"new:"}, play(1, proxy.Trick{Key: kmsg.Produce, Deed: proxy.Refuse, Code: kerr.KafkaStorageError.Code, Times: 2})},
		{"out of order", 2, []string{"new:"}, play(1, proxy.Trick{Key: kmsg.Produce, Deed: proxy.Refuse, Code: kerr.OutOfOrderSequenceNumber.Code})},
		{"unknown producer", 1, []string{"new:"}, play(1, proxy.Trick{Key: kmsg.Produce, Deed: proxy.Refuse, Code: kerr.UnknownProducerID.Code})},
		{"unknown error after append", 2, []string{"new:"}, play(1, proxy.Trick{Key: kmsg.Produce, Deed: proxy.Lie, Code: kerr.UnknownServerError.Code})},
	}
	if w.disk {
		all = append(all, fault{"disk full", 4, []string{smallDisk}, fillDisk})
	}
	if w.Kafka != "" {
		all = append(all, fault{"restart broker", 1, clusters, restartBroker}, fault{"kill -9 broker", 1, clusters, killBroker},
			fault{"freeze broker", 2, clusters, freezeBroker})
	} else {
		all = append(all, fault{"freeze brokers", 3, []string{"kafkas"}, freezeKafkas})
	}
	return all
}

// deal deals faults so that each comes as often as its weight says.
type deal struct {
	random *rand.Rand
	deck   []fault
	left   []int
}

func newDeal(seed uint64, deck []fault) *deal {
	return &deal{random: rand.New(rand.NewPCG(seed, seed)), deck: deck}
}

// next draws a fault, what it strikes, and how long it lasts.
func (d *deal) next() (f fault, what string, long float64) {
	if len(d.left) == 0 {
		for i, f := range d.deck {
			for range f.weight {
				d.left = append(d.left, i)
			}
		}
		d.random.Shuffle(len(d.left), func(i, j int) { d.left[i], d.left[j] = d.left[j], d.left[i] })
	}
	f = d.deck[d.left[0]]
	d.left = d.left[1:]
	return f, f.takes[d.random.IntN(len(f.takes))], 0.1 + 0.9*d.random.Float64()
}

// between is how long to wait for the next one.
func (d *deal) between() time.Duration {
	return time.Duration(100+d.random.IntN(900)) * time.Millisecond
}

// part is a share of a time.
func part(long float64, of time.Duration) time.Duration { return time.Duration(long * float64(of)) }

func side(what string) int {
	if what == "new" {
		return 1
	}
	return 0
}

// kill ends a role the hard way.
func (w *World) kill(name string) {
	if p := w.role(name); p != nil {
		p.Kill()
	}
}

// comesBack waits and starts a role again. Sooner than a lease, it is its own
// successor.
func (w *World) comesBack(ctx context.Context, name string, long float64) error {
	ground.Pause(ctx, part(long, w.Lease))
	return w.start(name)
}

func killShard(ctx context.Context, w *World, name string, long float64) error {
	w.kill(name)
	return w.comesBack(ctx, name, long)
}

func killAgent(ctx context.Context, w *World, name string, long float64) error {
	w.kill(name)
	return w.comesBack(ctx, name, long)
}

// freezeShard stops a shard until others have taken over, and lets it go on
// where it was.
func freezeShard(ctx context.Context, w *World, name string, _ float64) error {
	return frozen(ctx, w.role(name), 2*w.Lease)
}

func frozen(ctx context.Context, p *process.Process, d time.Duration) error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return ended(err)
	}
	ground.Pause(ctx, d)
	return ended(p.Signal(syscall.SIGCONT))
}

// ended passes over that a process has ended by itself: it is started again at
// the end of the trial.
func ended(err error) error {
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

func leaveShard(ctx context.Context, w *World, name string, long float64) error {
	w.role(name).Stop()
	return w.comesBack(ctx, name, 2*long)
}

func loseStore(ctx context.Context, w *World, name string, long float64) error {
	w.kill(name)
	if err := emptyDir(w.storeOf(name)); err != nil {
		return err
	}
	return w.comesBack(ctx, name, long)
}

// emptyDir removes what a directory holds, but not itself: it may be a disk.
func emptyDir(dir string) error {
	all, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, e := range all {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// wanderers are late packets: there are those of one shard at a time, so that
// another one is there to take over.
const wanderers = "late packets"

// latePackets kills a shard whose last requests are still on their way, and lets
// them arrive when others have taken over and read back what it had written, and
// have not written anything themselves: what they would copy does not come so
// long. Only the fence keeps those packets out.
func latePackets(ctx context.Context, w *World, _ string, long float64) error {
	name := w.takeShard(long)
	if name == "" {
		return nil // something else has struck all of them
	}
	defer w.free(name)
	held := w.proxies[1].Hold("starferry-" + name)
	release := sync.OnceFunc(held.Release)
	defer release()
	_ = ground.Until(ctx, time.Second, ground.Often, func() (bool, error) { return held.Requests() > 1, nil }) // it may have no lanes
	w.kill(name)
	starved := w.proxies[0].Play(proxy.Trick{Key: kmsg.Fetch, Deed: proxy.LoseAnswer, Times: 1 << 20, Match: toCopy})
	defer w.proxies[0].Remove(starved)
	// Others may have been struck as well, so neither is certain to come.
	var behind int64
	_ = ground.Until(ctx, 3*w.Lease, ground.Rare, func() (ok bool, _ error) { behind, ok = w.takenFrom(ctx, name); return ok, nil })
	ground.Pause(ctx, part(long, w.Lease/2))
	release()
	ground.Pause(ctx, lateArrival)
	w.proxies[0].Remove(starved)
	_ = ground.Until(ctx, 2*w.Lease, ground.Rare, func() (bool, error) {
		now, ok := w.takenFrom(ctx, name)
		return ok && now > behind, nil
	})
	return w.start(name)
}

// toCopy tells fetches that copy from those that read back or prove.
func toCopy(req kmsg.Request) bool {
	f, ok := req.(*kmsg.FetchRequest)
	return ok && f.SessionEpoch >= 0
}

// takeShard takes a shard for a fault; "": none is free.
func (w *World) takeShard(long float64) string {
	roles := shardRoles()
	for i := range roles {
		if name := roles[(int(1000*long)+i)%len(roles)]; w.take(name) {
			return name
		}
	}
	return ""
}

// takenFrom reports whether others copy all that a shard had, and how many
// records those have copied.
func (w *World) takenFrom(ctx context.Context, shard string) (copied int64, taken bool) {
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	s, err := w.client.Status(short, link)
	if err != nil {
		return 0, false
	}
	for _, l := range s.Lanes {
		if l.State != replication.Copying && l.State != replication.Stalled || string(l.Owner) == shard {
			return 0, false
		}
		copied += l.Copied
	}
	return copied, len(s.Lanes) > 0
}

// lateArrival is how long late packets need to their broker.
const lateArrival = 300 * time.Millisecond

func restartNATS(ctx context.Context, w *World, name string, long float64) error {
	w.kill(name)
	ground.Pause(ctx, part(long, w.Lease))
	return w.start(name)
}

// emptyNATS loses all that NATS knows. The link is asked for again.
func emptyNATS(ctx context.Context, w *World, name string, long float64) error {
	w.kill(name)
	if err := os.RemoveAll(w.NATSDir()); err != nil {
		return err
	}
	if err := restartNATS(ctx, w, name, long); err != nil {
		return err
	}
	return w.ensure(ctx)
}

func cutConnections(_ context.Context, w *World, what string, _ float64) error {
	w.proxies[side(what)].Cut()
	return nil
}

// weather holds at one proxy for a while.
func weather(of func() proxy.Weather, usual time.Duration, cut bool) func(context.Context, *World, string, float64) error {
	return func(ctx context.Context, w *World, what string, long float64) error {
		p := w.proxies[side(what)]
		p.Set(of())
		defer p.Set(proxy.Weather{})
		if cut {
			p.Cut()
		}
		ground.Pause(ctx, part(long, usual))
		return nil
	}
}

// play puts up a trick at a proxy. Nobody waits for it.
func play(side int, t proxy.Trick) func(context.Context, *World, string, float64) error {
	return func(_ context.Context, w *World, _ string, _ float64) error {
		w.proxies[side].Play(t)
		return nil
	}
}

// fillDisk fills the small disk for a while.
func fillDisk(ctx context.Context, w *World, name string, long float64) error {
	filler := filepath.Join(w.storeOf(name), "filler")
	f, err := os.Create(filler)
	if err != nil && !errors.Is(err, syscall.ENOSPC) {
		return err
	}
	if err == nil {
		for block := make([]byte, 64<<10); err == nil; {
			_, err = f.Write(block)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			return fmt.Errorf("fill the disk of %s: %w", name, err)
		}
		_ = f.Close() // what it could not write is the point
	}
	ground.Pause(ctx, part(long, 2*w.Lease))
	if err := os.Remove(filler); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return w.start(name) // if it has died of it
}

func freezeKafkas(ctx context.Context, w *World, _ string, long float64) error {
	return frozen(ctx, w.Kafkas, part(long, 3*time.Second))
}

func freezeBroker(ctx context.Context, w *World, what string, long float64) error {
	b := w.Brokers[side(what)]
	if err := b.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	ground.Pause(ctx, part(long, 3*time.Second))
	return b.Signal(syscall.SIGCONT)
}

func restartBroker(ctx context.Context, w *World, what string, long float64) error {
	b := w.Brokers[side(what)]
	return again(ctx, b.Stop, func() error { return b.Start(ctx) }, long)
}

func killBroker(ctx context.Context, w *World, what string, long float64) error {
	b := w.Brokers[side(what)]
	return again(ctx, b.Kill, func() error { return b.Start(ctx) }, long)
}

func again(ctx context.Context, stop, start func() error, long float64) error {
	if err := stop(); err != nil {
		return err
	}
	ground.Pause(ctx, part(long, 2*time.Second))
	return start()
}
