package kafkatest

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

// Times a broker is given.
const (
	startWithin = 90 * time.Second
	stopWithin  = 20 * time.Second
)

// BrokerOptions describes a real broker.
type BrokerOptions struct {
	Version string // such as 4.3.1
	Jars    string // directory that holds Version, as Fetch leaves it
	Dir     string // its files; made if missing. What an earlier start left there is kept
	// Properties are added to server.properties, replacing those set here.
	Properties map[string]string
	Heap       string   // of the JVM; default 512m
	JVM        []string // more arguments of the JVM
	Port       int      // of its listener; 0 takes a free one
	ClusterID  string   // 16 bytes in base64; empty: a new one
}

// Broker is one Apache Kafka in KRaft mode, broker and controller in one
// process, with few partitions in its internal topics and no waiting for more
// members when a group starts.
type Broker struct {
	Addr string // host:port of its listener
	opts BrokerOptions
	port int
	ctrl int

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has ended
}

// StartBroker starts a broker on free ports and waits until it answers.
func StartBroker(ctx context.Context, o BrokerOptions) (*Broker, error) {
	if err := checkVersion(o.Version); err != nil {
		return nil, err
	}
	if !Fetched(o.Version, o.Jars) {
		return nil, fmt.Errorf("start Kafka %s: no jars in %s: fetch them with: go run ./internal/kafkatest/cmd/kafkaup fetch %s .kafka",
			o.Version, filepath.Join(o.Jars, o.Version), o.Version)
	}
	if err := checkJava(ctx); err != nil {
		return nil, fmt.Errorf("start Kafka %s: %w", o.Version, err)
	}
	if o.Heap == "" {
		o.Heap = "512m"
	}
	ports, err := freePorts(2)
	if err != nil {
		return nil, fmt.Errorf("start Kafka %s: %w", o.Version, err)
	}
	if o.Port != 0 {
		ports[0] = o.Port
	}
	b := &Broker{opts: o, port: ports[0], ctrl: ports[1], Addr: fmt.Sprintf("127.0.0.1:%d", ports[0])}
	if err := b.prepare(ctx); err != nil {
		return nil, fmt.Errorf("start Kafka %s: %w", o.Version, err)
	}
	return b, b.Start(ctx)
}

func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // all are held until all are chosen
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// prepare writes the broker's settings and formats its storage.
func (b *Broker) prepare(ctx context.Context) error {
	if err := os.MkdirAll(b.opts.Dir, 0o755); err != nil {
		return err
	}
	props := map[string]string{
		"process.roles":                                    "broker,controller",
		"node.id":                                          "1",
		"controller.quorum.voters":                         fmt.Sprintf("1@127.0.0.1:%d", b.ctrl),
		"listeners":                                        fmt.Sprintf("PLAINTEXT://127.0.0.1:%d,CONTROLLER://127.0.0.1:%d", b.port, b.ctrl),
		"advertised.listeners":                             "PLAINTEXT://" + b.Addr,
		"controller.listener.names":                        "CONTROLLER",
		"inter.broker.listener.name":                       "PLAINTEXT",
		"log.dirs":                                         b.file("data"),
		"offsets.topic.replication.factor":                 "1",
		"offsets.topic.num.partitions":                     "4",
		"transaction.state.log.replication.factor":         "1",
		"transaction.state.log.min.isr":                    "1",
		"transaction.state.log.num.partitions":             "4",
		"share.coordinator.state.topic.replication.factor": "1",
		"share.coordinator.state.topic.min.isr":            "1",
		"group.initial.rebalance.delay.ms":                 "0",
		"group.min.session.timeout.ms":                     "100",
		"auto.create.topics.enable":                        "false",
		"num.network.threads":                              "2",
		"num.io.threads":                                   "4",
		"log.cleaner.backoff.ms":                           "1000",
		"log.initial.task.delay.ms":                        "1000",
		// Tests write records of the past, which the default would delete soon.
		"log.retention.ms": "-1",
	}
	if strings.HasPrefix(b.opts.Version, "3.") {
		for k := range props {
			if strings.HasPrefix(k, "share.") {
				delete(props, k)
			}
		}
	}
	for k, v := range b.opts.Properties {
		props[k] = strings.NewReplacer("{port}", fmt.Sprint(b.port), "{controller}", fmt.Sprint(b.ctrl)).Replace(v)
	}
	var text strings.Builder
	for _, k := range slices.Sorted(maps.Keys(props)) {
		fmt.Fprintf(&text, "%s=%s\n", k, props[k])
	}
	logging := "status=error\nappender.f.type=File\nappender.f.name=f\nappender.f.fileName=" + b.file("server.log") +
		"\nappender.f.layout.type=PatternLayout\nappender.f.layout.pattern=%d %p %c - %m%n\nrootLogger.level=info\nrootLogger.appenderRef.f.ref=f\n"
	if err := os.WriteFile(b.file("server.properties"), []byte(text.String()), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(b.file("log4j2.properties"), []byte(logging), 0o600); err != nil {
		return err
	}
	return b.format(ctx)
}

// format gives the storage its cluster id, once.
func (b *Broker) format(ctx context.Context) error {
	if _, err := os.Stat(b.file("data/meta.properties")); err == nil {
		return nil
	}
	cluster := b.opts.ClusterID
	if cluster == "" {
		id := make([]byte, 16)
		if _, err := rand.Read(id); err != nil {
			return err
		}
		id[0] &= 0x7f // an id must not begin with a dash, which the tool takes for an option
		cluster = base64.RawURLEncoding.EncodeToString(id)
	}
	cmd := b.java(ctx, "-Xmx256m", "kafka.tools.StorageTool", "format", "-t", cluster, "-c", b.file("server.properties"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("format storage: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

func (b *Broker) file(name string) string { return filepath.Join(b.opts.Dir, name) }

func (b *Broker) java(ctx context.Context, heap string, args ...string) *exec.Cmd {
	all := append([]string{heap, "-Dlog4j2.configurationFile=" + b.file("log4j2.properties")}, b.opts.JVM...)
	all = append(all, "-cp", filepath.Join(b.opts.Jars, b.opts.Version, "*"))
	return exec.CommandContext(ctx, "java", append(all, args...)...)
}

// Start starts a stopped broker again, on its ports and with its data, and
// waits until it answers.
func (b *Broker) Start(ctx context.Context) error {
	out, err := os.Create(b.file("out.log"))
	if err != nil {
		return fmt.Errorf("start Kafka %s: %w", b.opts.Version, err)
	}
	defer out.Close()
	// The broker outlives ctx; Stop ends it.
	cmd := b.java(context.WithoutCancel(ctx), "-Xmx"+b.opts.Heap, "kafka.Kafka", b.file("server.properties"))
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = out, out, childAttr()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start Kafka %s: %w", b.opts.Version, err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait() // how it ended is in its logs
	}()
	b.mu.Lock()
	b.cmd, b.exited = cmd, exited
	b.mu.Unlock()
	if err := b.await(ctx, exited); err != nil {
		return errors.Join(fmt.Errorf("start Kafka %s: %w", b.opts.Version, err), b.Stop())
	}
	return nil
}

// await waits until the port answers: with metadata if the listener is plain,
// else until it can be connected to.
func (b *Broker) await(ctx context.Context, exited <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	c, err := wire.Open(starferry.Cluster{Name: "starting", Brokers: []string{b.Addr}})
	if err != nil {
		return err
	}
	defer c.Close()
	_, secured := b.opts.Properties["listeners"]
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if secured {
			var nc net.Conn
			if nc, err = (&net.Dialer{}).DialContext(ctx, "tcp", b.Addr); err == nil {
				return nc.Close()
			}
		} else {
			var m *wire.Metadata
			if m, err = c.Metadata(ctx); err == nil && len(m.Brokers) > 0 {
				return nil
			}
		}
		select {
		case <-exited:
			return fmt.Errorf("the broker ended: %s", b.lastWords())
		case <-ctx.Done():
			return fmt.Errorf("the broker does not answer: %w: %v: %s", context.Cause(ctx), err, b.lastWords())
		case <-tick.C:
		}
	}
}

// lastWords returns the end of the broker's output.
func (b *Broker) lastWords() string {
	var all []string
	for _, f := range []string{"out.log", "server.log"} {
		text, err := os.ReadFile(b.file(f))
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		all = append(all, lines[max(0, len(lines)-8):]...)
	}
	return strings.Join(all, "\n")
}

// Pid returns the broker's process id.
func (b *Broker) Pid() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cmd.Process.Pid
}

// Exited is closed when the broker's process has ended.
func (b *Broker) Exited() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.exited
}

// Signal sends the broker a signal: SIGSTOP and SIGCONT freeze and thaw it.
func (b *Broker) Signal(s os.Signal) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cmd.Process.Signal(s)
}

// Stop asks the broker to end, and kills it if it takes too long.
func (b *Broker) Stop() error {
	if err := b.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	t := time.NewTimer(stopWithin)
	defer t.Stop()
	select {
	case <-b.Exited():
		return nil
	case <-t.C:
		return b.Kill()
	}
}

// Kill ends the broker without letting it do anything more.
func (b *Broker) Kill() error {
	if err := b.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-b.Exited()
	return nil
}
