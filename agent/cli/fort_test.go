package cli

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent"
	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/control/natsconn"
	"github.com/starferry/starferry/control/producer"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/testlog"
)

// secret is every user's password here, and must be nowhere to be read.
const secret = "canary-of-the-fort"

// fort is two clusters and NATS as an estate runs it: TLS, and permissions just
// as the command line prints them, read by nats-server.
type fort struct {
	t        *testing.T
	url      string
	ca       string
	server   *server.Server
	old, new starferry.Cluster
	heard    testlog.Log // what everybody who is let in has logged
}

func newFort(t *testing.T, permissions string) *fort {
	f := &fort{t: t}
	_, f.old = kafkatest.Fake(t, "old", kfake.ClusterID("old"))
	_, f.new = kafkatest.Fake(t, "new", kfake.ClusterID("new"))
	for _, who := range []string{"AGENT", "SHARD", "OPERATOR", "ALICE", "BILLING", "OTHER"} {
		t.Setenv("STARFERRY_"+who+"_PASSWORD", secret)
	}
	dir := t.TempDir()
	f.ca = filepath.Join(dir, "ca.pem")
	certify(t, f.ca, filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key"))
	text := fmt.Sprintf("listen: \"127.0.0.1:-1\"\nmax_payload: 8MB\njetstream { store_dir: %q }\ntls { cert_file: %q, key_file: %q }\n%s",
		filepath.Join(dir, "js"), filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key"), permissions)
	file := filepath.Join(dir, "nats.conf")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	o, err := server.ProcessConfigFile(file)
	require.NoError(t, err)
	o.NoSigs, o.NoLog = true, true
	f.server, err = server.NewServer(o)
	require.NoError(t, err)
	f.server.Start()
	t.Cleanup(func() { f.server.Shutdown(); f.server.WaitForShutdown() })
	require.True(t, f.server.ReadyForConnections(20*time.Second))
	f.url = fmt.Sprintf("tls://127.0.0.1:%d", f.server.Addr().(*net.TCPAddr).Port)
	return f
}

// certify writes an authority, and a server's certificate that it has signed.
func certify(t *testing.T, ca, cert, key string) {
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature}
	write := func(file, kind string, der []byte, err error) {
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, own.Public(), own)
	write(ca, "CERTIFICATE", der, err)
	der, err = x509.CreateCertificate(rand.Reader, leaf, root, own.Public(), own)
	write(cert, "CERTIFICATE", der, err)
	der, err = x509.MarshalECPrivateKey(own)
	write(key, "EC PRIVATE KEY", der, err)
}

func (f *fort) tls() *starferry.TLS { return &starferry.TLS{CAFile: f.ca} }

// config is that of a process of starferry itself.
func (f *fort) config(user string) *config.Config {
	return &config.Config{
		Clusters: map[starferry.ClusterName]starferry.Cluster{f.old.Name: f.old, f.new.Name: f.new},
		NATS:     config.NATS{URL: f.url, TLS: f.tls(), User: user, Password: secret, InboxPrefix: "_INBOX_" + user, NamedOperators: true},
		DataDir:  f.t.TempDir(), Shards: config.Shards{Buckets: 2},
	}
}

// staff starts an agent and a shard.
func (f *fort) staff() {
	a, err := agent.Open(f.t.Context(), f.config("agent"), f.heard.Logger())
	require.NoError(f.t, err)
	f.t.Cleanup(func() { require.NoError(f.t, a.Close()) })
	cfg := f.config("shard")
	nc, err := agent.AwaitNATS(f.t.Context(), cfg.NATS, "shard", f.heard.Logger())
	require.NoError(f.t, err)
	s, err := agent.OpenShard(context.WithoutCancel(f.t.Context()), cfg, nc, "s1", f.heard.Logger())
	require.NoError(f.t, err)
	f.t.Cleanup(func() { require.NoError(f.t, s.Close()); nc.Close() })
}

// operator is the command line of a user.
func (f *fort) operator(user, name string) *desk {
	dir := f.t.TempDir()
	require.NoError(f.t, os.WriteFile(filepath.Join(dir, "password"), []byte(secret+"\n"), 0o600))
	text := fmt.Sprintf("clusters:\n  old: {brokers: [%q]}\n  new: {brokers: [%q]}\nnats:\n  url: %s\n  tls: {ca_file: %q}\n  user: %s\n  password_file: password\n  inbox_prefix: _INBOX_%s\n",
		f.old.Brokers[0], f.new.Brokers[0], f.url, f.ca, user, user)
	if name != "" {
		text += "  operator: " + name + "\n"
	}
	file := filepath.Join(dir, "starferry.yaml")
	require.NoError(f.t, os.WriteFile(file, []byte(text), 0o600))
	d := &desk{}
	d.cli = cli{configFile: file, IO: IO{In: &bytes.Buffer{}, Out: &d.out, Err: &d.err, Getenv: func(string) string { return "" }}}
	return d
}

// dial connects a service under a name of its own inbox; in an account of its own
// it needs none.
func (f *fort) dial(user, inbox string, log *slog.Logger) *nats.Conn {
	nc, err := natsconn.Dial(natsconn.Config{URL: f.url, TLS: f.tls(), User: user, Password: secret, InboxPrefix: inbox}, user, log)
	require.NoError(f.t, err)
	f.t.Cleanup(nc.Close)
	return nc
}

// tally counts what was handled.
type tally struct {
	mu   sync.Mutex
	seen map[string]int
}

func (y *tally) add(v string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.seen[v]++
}

// once reports whether n values were handled, none of them twice.
func (y *tally) once(n int) bool {
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, times := range y.seen {
		if times != 1 {
			return false
		}
	}
	return len(y.seen) == n
}

// instance starts one of the group's, whose handler never ends for "stuck".
func (f *fort) instance(name string, g starferry.Group, topic starferry.Topic, nc *nats.Conn, log *slog.Logger, y *tally) *consumer.Consumer {
	c, err := consumer.Open(f.t.Context(), consumer.Config{
		Group: g, Topics: []starferry.Topic{topic}, Clusters: []starferry.Cluster{f.old, f.new}, Home: "old", NATS: nc,
		Instance: starferry.InstanceID(name), Start: consumer.Earliest, CommitInterval: 20 * time.Millisecond, Logger: log,
	}, func(ctx context.Context, r consumer.Record) error {
		if string(r.Value) == "stuck" {
			<-ctx.Done()
			return ctx.Err()
		}
		y.add(string(r.Value))
		return nil
	})
	require.NoError(f.t, err)
	f.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		require.NoError(f.t, c.Close(ctx))
	})
	return c
}

func (f *fort) producer(topic starferry.Topic, nc *nats.Conn) *producer.Producer {
	p, err := producer.Open(f.t.Context(), producer.Config{
		Topics: []starferry.Topic{topic}, Clusters: []starferry.Cluster{f.old, f.new}, Home: "old", NATS: nc, Logger: f.heard.Logger(),
	})
	require.NoError(f.t, err)
	f.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		require.NoError(f.t, p.Close(ctx))
	})
	return p
}

// write puts numbered values into partition 0.
func write(t *testing.T, p *producer.Producer, topic starferry.Topic, from, n int) {
	zero := starferry.Partition(0)
	var rs []producer.Record
	for i := range n {
		rs = append(rs, producer.Record{Topic: topic, Partition: &zero, Key: fmt.Appendf(nil, "k%d", i%7), Value: fmt.Appendf(nil, "v%d", from+i)})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err := p.Produce(ctx, rs...)
	require.NoError(t, err)
}

// printed is what the command line prints as permissions.
func printed(t *testing.T, args ...string) string {
	var out, errs bytes.Buffer
	code := Main(t.Context(), append([]string{"nats", "permissions"}, args...), IO{In: &bytes.Buffer{}, Out: &out, Err: &errs, Getenv: func(string) string { return "" }})
	require.Zero(t, code, errs.String())
	return out.String()
}

func refusals(text string) (all []string) {
	for _, line := range strings.Split(text, "\n") {
		if strings.Contains(line, "ermissions violation") || strings.Contains(line, "ermissions Violation") {
			all = append(all, line)
		}
	}
	return all
}
