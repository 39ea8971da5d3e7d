package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/switchover"
	"github.com/starferry/starferry/internal/wire"
)

// errClosed is the cause of contexts that end with the consumer.
var errClosed = errors.New("consumer is closed")

// Consumer is one instance of a group. It reads the group's topics wherever the
// group lives.
type Consumer struct {
	cfg    Config
	handle BatchHandler
	one    Handler // the same, if it takes records one by one
	boot   string
	host   string
	log    *slog.Logger

	wires   map[starferry.ClusterName]*wire.Cluster
	members map[starferry.ClusterName]*membership
	conns   map[starferry.ClusterName]*connections

	ctx      context.Context // of everything but handlers
	cancel   context.CancelCauseFunc
	handling context.Context // of handlers
	giveUp   context.CancelCauseFunc
	wg       sync.WaitGroup
	mail     mailbox
	finished chan struct{} // the machine is done

	limiter  *rate.Limiter
	limited  atomic.Bool // the limiter has a limit
	settings atomic.Pointer[settings]
	stopping atomic.Bool
	pulse    pulse
	deaf     atomic.Pointer[[]string] // records whose handlers do not stop

	// Of the loop alone.
	machine  *switchover.Member
	started  bool
	done     bool
	session  *session
	next     *session         // fetches ahead where the group is about to live; hands out nothing
	begun    switchover.Fetch // what session began with
	reads    map[starferry.ClusterName]context.CancelFunc
	commits  map[int64]switchover.Commit
	tries    map[int64]int
	waiting  int // memberships that still have to leave
	pauses   map[starferry.TopicPartition]control.Pause
	lastHome starferry.ClusterName
	repeats  []control.Repeat
	told     int64 // records handled as the last lease tells
	refused  string
	oust     string // why it does nothing any more; "" while it does
	reporter *reporter
}

// Open starts an instance of a group. It returns once the configuration is
// known to be usable; clusters need not be reachable yet. ctx bounds Open alone.
func Open(ctx context.Context, cfg Config, handler Handler) (*Consumer, error) {
	cfg.BatchMax = 1
	var handle BatchHandler
	if handler != nil {
		handle = func(ctx context.Context, rs []Record) error { return handler(ctx, rs[0]) }
	}
	return open(ctx, cfg, handle, handler)
}

// OpenBatches is Open with a handler of batches. Batches follow each other
// partition by partition: they go without Parallelism.
func OpenBatches(ctx context.Context, cfg Config, handler BatchHandler) (*Consumer, error) {
	if cfg.Parallelism > 1 {
		return nil, fmt.Errorf("open consumer %s: parallelism %d with a batch handler: batches follow each other; leave one of them out", cfg.Group, cfg.Parallelism)
	}
	if cfg.BatchMax == 0 {
		cfg.BatchMax = 500
	}
	return open(ctx, cfg, handler, nil)
}

func open(ctx context.Context, cfg Config, handle BatchHandler, one Handler) (*Consumer, error) {
	cfg, err := cfg.withStored(ctx).checked()
	if err != nil {
		return nil, fmt.Errorf("open consumer %s: %w", cfg.Group, err)
	}
	if handle == nil {
		return nil, fmt.Errorf("open consumer %s: handler is nil: pass a function that handles a record", cfg.Group)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open consumer %s: %w", cfg.Group, err)
	}
	c := &Consumer{
		cfg: cfg, handle: handle, one: one, boot: token(8), finished: make(chan struct{}),
		log:     cfg.Logger.With("group", cfg.Group, "instance", cfg.Instance),
		wires:   map[starferry.ClusterName]*wire.Cluster{},
		members: map[starferry.ClusterName]*membership{},
		conns:   map[starferry.ClusterName]*connections{},
		reads:   map[starferry.ClusterName]context.CancelFunc{},
		commits: map[int64]switchover.Commit{}, tries: map[int64]int{},
		pauses:  map[starferry.TopicPartition]control.Pause{},
		limiter: rate.NewLimiter(rate.Inf, 1),
	}
	c.host, _ = os.Hostname() //nolint:errcheck // for display only
	c.settings.Store(&settings{})
	c.mail.ready = make(chan struct{}, 1)
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.handling, c.giveUp = context.WithCancelCause(context.Background())
	if err := c.dial(); err != nil {
		c.stop()
		return nil, fmt.Errorf("open consumer %s: %w", cfg.Group, err)
	}
	for _, m := range c.members {
		c.spawn(func() { m.run(c.ctx) })
	}
	c.reporter = newReporter(c)
	c.spawn(c.loop)
	c.spawn(func() { c.reporter.run(c.ctx) })
	return c, nil
}

func (c *Consumer) dial() error {
	mc := switchover.MemberConfig{
		Group: c.cfg.Group, Instance: c.cfg.Instance, Boot: c.boot, Home: c.cfg.Home,
		DrainDeadline: c.cfg.DrainDeadline.Milliseconds(),
	}
	for _, cl := range c.cfg.Clusters {
		w, err := wire.Open(cl, wire.WithClientID(string(c.cfg.Instance)), wire.WithLogger(c.cfg.Logger))
		if err != nil {
			return err
		}
		c.wires[cl.Name] = w
		c.members[cl.Name] = newMembership(c, w)
		c.conns[cl.Name] = newConnections(c, w)
		mc.Clusters = append(mc.Clusters, cl.Name)
	}
	c.machine = switchover.NewMember(mc)
	return nil
}

// Instance returns the name of this instance.
func (c *Consumer) Instance() starferry.InstanceID { return c.cfg.Instance }

// Close stops handing out, waits for handlers, commits, leaves the group and
// releases everything. When ctx ends first, the contexts of handlers end; what
// they do not finish is handed out again to another instance. The error says
// that this has happened, and names the records whose handlers go on even then:
// they are left behind, running.
func (c *Consumer) Close(ctx context.Context) error {
	c.stopping.Store(true)
	c.post(func() { c.step(switchover.Stop{}) })
	var err error
	select {
	case <-c.finished:
	case <-c.ctx.Done(): // closed before
	case <-ctx.Done():
		err = fmt.Errorf("close consumer %s: handlers or brokers did not finish in time: %w", c.cfg.Group, context.Cause(ctx))
		c.giveUp(errClosed)
		select { // a short last chance for the commit
		case <-c.finished:
		case <-time.After(lastChance):
		}
	}
	c.stop()
	if deaf := c.deaf.Load(); err != nil && deaf != nil {
		err = fmt.Errorf("%w; handlers that ignore the end of their context: %s", err, strings.Join(*deaf, ", "))
	}
	return err
}

// stop ends everything at once, as a crash would, and waits.
func (c *Consumer) stop() {
	c.cancel(errClosed)
	c.giveUp(errClosed)
	for _, k := range c.conns {
		k.close()
	}
	for _, w := range c.wires {
		if err := w.Close(); err != nil {
			c.log.Warn("close cluster", "cluster", w.Name(), "error", err)
		}
	}
	c.wg.Wait()
	if c.next != nil {
		c.next.fetchers.Wait()
	}
}

func (c *Consumer) closing() bool { return c.stopping.Load() }

func (c *Consumer) spawn(f func()) {
	c.wg.Add(1)
	go func() { defer c.wg.Done(); f() }()
}

// mailbox hands work to the loop, in order and without limit: whoever posts
// never waits for it.
type mailbox struct {
	mu    sync.Mutex
	work  []func()
	ready chan struct{}
}

// post runs f on the loop.
func (c *Consumer) post(f func()) {
	c.mail.mu.Lock()
	c.mail.work = append(c.mail.work, f)
	c.mail.mu.Unlock()
	select {
	case c.mail.ready <- struct{}{}:
	default:
	}
}

// loop is the one place where the machine is asked and obeyed: its order is
// the history in which commits, drains and hand-outs are decided.
func (c *Consumer) loop() {
	commit := time.NewTicker(c.cfg.CommitInterval)
	defer commit.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	word := time.NewTicker(lastWord)
	defer word.Stop()
	lease := time.NewTicker(c.reporter.interval())
	defer lease.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.mail.ready:
			c.mail.mu.Lock()
			work := c.mail.work
			c.mail.work = nil
			c.mail.mu.Unlock()
			for _, f := range work {
				f()
			}
		case <-commit.C:
			c.progress()
		case <-tick.C:
			c.pulse.beat()
			c.expire()
			if c.started {
				c.step(switchover.Tick{})
			}
		case <-word.C:
			if c.session != nil && c.session.handled() != c.told {
				c.publish()
			}
		case <-lease.C:
			for _, k := range c.conns {
				k.tend()
			}
			c.publish()
		}
	}
}

// begin starts the machine once, when settings are known or cannot be had.
func (c *Consumer) begin() {
	if !c.started && !c.done {
		c.started = true
		c.step(switchover.Start{})
	}
}

// step asks the machine and does what it says.
func (c *Consumer) step(e switchover.Event) {
	for _, effect := range c.machine.Step(time.Now().UnixMilli(), e) {
		c.act(effect)
	}
	if home := c.machine.Home(); home != c.lastHome {
		c.log.Info("group lives on", "cluster", home, "before", c.lastHome)
		c.lastHome = home
	}
}

func (c *Consumer) act(e switchover.Effect) {
	switch e := e.(type) {
	case switchover.Join:
		c.members[e.Cluster].standby.Store(e.Cluster != c.machine.Home())
		c.members[e.Cluster].join(0)
		c.conns[e.Cluster].warm()
	case switchover.Rejoin:
		c.log.Info("forces a new generation", "cluster", e.Cluster)
		c.members[e.Cluster].join(e.Nonce)
	case switchover.Leave:
		c.waiting++
		c.members[e.Cluster].leave()
	case switchover.ReadCommits:
		c.read(e)
	case switchover.Fetch:
		c.fetch(e)
	case switchover.Halt:
		c.halt()
	case switchover.Commit:
		c.commit(e)
	case switchover.Publish:
		c.mention()
	case switchover.Done:
		c.done = true
		c.finish()
	}
}

// departed: a membership has left.
func (c *Consumer) departed(starferry.ClusterName) {
	c.waiting--
	c.finish()
}

func (c *Consumer) finish() {
	if c.done && c.waiting == 0 {
		select {
		case <-c.finished:
		default:
			if c.oust == "" {
				c.reporter.retire(c.ctx)
			}
			close(c.finished)
		}
	}
}

// read reads the commits of the whole group until it succeeds.
func (c *Consumer) read(e switchover.ReadCommits) {
	if cancel := c.reads[e.Cluster]; cancel != nil {
		cancel()
	}
	ctx, cancel := context.WithCancel(c.ctx)
	c.reads[e.Cluster] = cancel
	w := c.wires[e.Cluster]
	c.spawn(func() {
		defer cancel()
		for wait := 100 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
			got, err := c.commitsOf(ctx, w)
			var found switchover.Found
			if err == nil {
				found, err = interpret(got)
			}
			if err == nil {
				c.post(func() { c.step(switchover.Read{Cluster: e.Cluster, ID: e.ID, Found: found}) })
				return
			}
			if ctx.Err() != nil {
				return
			}
			c.log.Warn("read commits", "cluster", e.Cluster, "error", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
		}
	})
}

func interpret(got map[starferry.TopicPartition]wire.Committed) (switchover.Found, error) {
	found := switchover.Found{}
	for tp, k := range got {
		f := switchover.FoundCommit{Offset: k.Offset}
		mark, err := control.ParseMark(k.Metadata)
		switch {
		case err == nil:
			f.Mark = &mark
		case !errors.Is(err, control.ErrForeign):
			return nil, fmt.Errorf("%s: %w", tp, err)
		}
		found[tp] = f
	}
	return found, nil
}

// progress offers low-water marks to the machine.
func (c *Consumer) progress() {
	if c.session == nil || len(c.commits) > 0 {
		return
	}
	if cut := c.session.progress(); len(cut) > 0 {
		c.step(switchover.Progress{Cluster: c.session.cluster, Cut: cut})
	}
}

// commit sends one commit and tells the machine what became of it.
func (c *Consumer) commit(e switchover.Commit) {
	c.commits[e.ID] = e
	again := c.tries[e.ID]
	c.tries[e.ID]++
	w := c.wires[e.Cluster]
	req := wire.Commit{Group: c.cfg.Group, Member: e.Member, Instance: c.cfg.name(), Generation: e.Generation, Offsets: map[starferry.TopicPartition]wire.Committed{}}
	for tp, p := range e.Cut {
		mark := e.Mark
		mark.Handled = p.Handled
		req.Offsets[tp] = wire.Committed{Offset: p.Next, LeaderEpoch: -1, Metadata: mark.String()}
	}
	c.spawn(func() {
		if again > 0 {
			select {
			case <-c.ctx.Done():
				return
			case <-time.After(min(time.Duration(again)*50*time.Millisecond, time.Second)):
			}
		}
		ctx, cancel := context.WithTimeout(c.ctx, max(c.cfg.SessionTimeout/2, time.Second))
		err := w.Commit(ctx, req)
		cancel()
		if c.ctx.Err() != nil {
			return
		}
		result, detail := outcome(err)
		c.post(func() { c.committed(e, result, detail) })
	})
}

func (c *Consumer) committed(e switchover.Commit, result, detail string) {
	delete(c.commits, e.ID) // it is there again if the machine has it sent again
	switch {
	case result == control.Accepted:
		c.stands(e)
	default:
		c.log.Warn("commit "+result, "cluster", e.Cluster, "state", e.Mark.State, "epoch", e.Mark.Epoch, "detail", detail)
		c.members[e.Cluster].poke() // the coordinator says what has become of the membership
	}
	c.step(switchover.Answered{Cluster: e.Cluster, ID: e.ID, Result: result, Detail: detail})
	if _, again := c.commits[e.ID]; !again {
		delete(c.tries, e.ID)
	}
	if c.cfg.CommitEach {
		c.progress() // of what was handled meanwhile
	}
}

// stands: a commit was accepted.
func (c *Consumer) stands(e switchover.Commit) {
	if c.session != nil && c.session.cluster == e.Cluster {
		c.session.committed(e.Cut)
	}
	if f := c.cfg.Hooks.Committed; f != nil && (e.Mark.State == control.Home || e.Mark.State == control.Draining) {
		f(e.Cluster, e.Cut)
	}
}

// halt drains the session and reports its final low-water marks.
func (c *Consumer) halt() {
	s := c.session
	if s == nil {
		return
	}
	s.halt()
	c.spawn(func() {
		s.wait()
		c.post(func() { c.drained(s) })
	})
}

func (c *Consumer) drained(s *session) {
	cut := s.cut()
	for tp, p := range s.parts {
		if last := p.lastHanded(); last != 0 {
			c.pauses[tp] = control.Pause{Partition: tp, Last: last}
		}
	}
	c.session = nil
	c.step(switchover.Drained{Cluster: s.cluster, Cut: cut})
	if f := c.cfg.Hooks.Revoked; f != nil {
		f(s.cluster, cut.Partitions())
	}
}

// fetch starts to hand out records of one cluster.
func (c *Consumer) fetch(e switchover.Fetch) {
	own, every := c.machine.Partitions(e.Cluster)
	c.refused = ""
	begin, refused := c.startable(e)
	if e.Start = begin; len(refused) > 0 {
		c.refused = fmt.Sprintf("%s has no commit and the start policy refuses to guess: set Start to earliest or latest, or commit an offset", refused[0])
		c.log.Error("partition refused", "cluster", e.Cluster, "reason", c.refused)
	}
	for tp, p := range c.pauses { // whoever had a partition last knows when it paused
		if p.First == 0 {
			p.Epoch = e.Epoch
			c.pauses[tp] = p
		}
	}
	if c.session = c.fetchedAhead(e); c.session == nil {
		c.session = newSession(c, e, len(every))
	}
	c.enforce() // what counts may be another thing in this epoch, or of these partitions
	c.session.start()
	c.reposition()
	moved := c.begun.Cluster != "" && c.begun.Cluster != e.Cluster
	if c.begun = e; !moved { // nobody had been handed anything beyond a cut
		c.foresee()
	}
	c.log.Info("fetches", "cluster", e.Cluster, "epoch", e.Epoch, "partitions", len(own))
	if f := c.cfg.Hooks.Assigned; f != nil {
		f(e.Cluster, own)
	}
}
