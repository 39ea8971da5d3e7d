package kafkatest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"github.com/starferry/starferry"
)

// The environment variables that choose the pair.
const (
	envSource = "STARFERRY_SOURCE"
	envTarget = "STARFERRY_TARGET"
	envKafka  = "STARFERRY_KAFKA"
)

// Main runs a package's tests. If real brokers are asked for, it starts them
// first, for all tests to share, and stops them at the end. Then it looks for
// goroutines left behind. It ends the process.
func Main(m *testing.M, opts ...goleak.Option) { os.Exit(run(m, opts)) }

func run(m *testing.M, opts []goleak.Option) (code int) {
	stop, err := shareBrokers()
	if err != nil {
		fmt.Fprintln(os.Stderr, "kafkatest:", err)
		return 1
	}
	code = m.Run()
	stop()
	if code == 0 {
		if err := goleak.Find(opts...); err != nil {
			fmt.Fprintln(os.Stderr, "kafkatest: goroutines left behind:", err)
			return 1
		}
	}
	return code
}

// shareBrokers starts what the environment asks for and tells the tests of it
// through the environment.
func shareBrokers() (stop func(), err error) {
	stop = func() {}
	versions, ok, err := realVersions()
	if err != nil || !ok || os.Getenv(envSource) != "" {
		return stop, err
	}
	dir, err := os.MkdirTemp("", "starferry-kafka-")
	if err != nil {
		return stop, err
	}
	brokers, err := startPair(versions, dir)
	stop = func() {
		for _, b := range brokers {
			if err := b.Stop(); err != nil {
				fmt.Fprintln(os.Stderr, "kafkatest: stop broker:", err)
			}
		}
		os.RemoveAll(dir)
	}
	if err != nil {
		stop()
		return func() {}, err
	}
	os.Setenv(envSource, brokers[0].Addr)
	os.Setenv(envTarget, brokers[1].Addr)
	return stop, nil
}

// startPair starts two brokers at the same time.
func startPair(versions [2]string, dir string) ([]*Broker, error) {
	jars, err := jarsDir()
	if err != nil {
		return nil, err
	}
	type started struct {
		b   *Broker
		err error
	}
	var got [2]chan started
	for i, v := range versions {
		got[i] = make(chan started, 1)
		go func() {
			b, err := StartBroker(context.Background(), BrokerOptions{Version: v, Jars: jars, Dir: filepath.Join(dir, fmt.Sprint(i))})
			got[i] <- started{b, err}
		}()
	}
	var brokers []*Broker
	for _, g := range got {
		s := <-g
		if s.err != nil {
			err = s.err
		} else {
			brokers = append(brokers, s.b)
		}
	}
	return brokers, err
}

func jarsDir() (string, error) {
	root, err := ModuleRoot()
	return filepath.Join(root, ".kafka"), err
}

func realVersions() (versions [2]string, ok bool, err error) {
	v := os.Getenv(envKafka)
	if v == "" {
		return versions, false, nil
	}
	source, target, two := strings.Cut(v, ",")
	if !two {
		target = source
	}
	for _, v := range []string{source, target} {
		if err := checkVersion(v); err != nil {
			return versions, false, fmt.Errorf("%s: %w", envKafka, err)
		}
	}
	return [2]string{source, target}, true, nil
}

// Real reports whether tests run against real brokers.
func Real() bool { return os.Getenv(envKafka) != "" || os.Getenv(envSource) != "" }

// Pair returns a source cluster named "old" and a target cluster named "new".
// Fakes are made for this test alone; real clusters are shared.
func Pair(t testing.TB) (source, target starferry.Cluster) {
	t.Helper()
	if s, g := os.Getenv(envSource), os.Getenv(envTarget); s != "" || g != "" {
		require.True(t, s != "" && g != "", "set both %s and %s", envSource, envTarget)
		return named("old", strings.Split(s, ",")...), named("new", strings.Split(g, ",")...)
	}
	versions, ok, err := realVersions()
	require.NoError(t, err)
	if !ok {
		_, source = Fake(t, "old")
		_, target = Fake(t, "new")
		return source, target
	}
	brokers, err := startPair(versions, t.TempDir())
	t.Cleanup(func() {
		for _, b := range brokers {
			if err := b.Stop(); err != nil {
				t.Errorf("stop broker: %v", err)
			}
		}
	})
	require.NoError(t, err)
	return named("old", brokers[0].Addr), named("new", brokers[1].Addr)
}

// One returns a single cluster: the source of a pair.
func One(t testing.TB) starferry.Cluster {
	t.Helper()
	if Real() {
		source, _ := Pair(t)
		return source
	}
	_, c := Fake(t, "old")
	return c
}

// Fake starts an in-process Kafka with two brokers and returns its controls. It
// ends with the test.
func Fake(t testing.TB, name starferry.ClusterName, opts ...kfake.Opt) (*kfake.Cluster, starferry.Cluster) {
	t.Helper()
	all := append([]kfake.Opt{kfake.NumBrokers(2), kfake.GroupMinSessionTimeout(100 * time.Millisecond)}, opts...)
	f, err := kfake.NewCluster(all...)
	require.NoError(t, err, "start kfake")
	TellAborted(f)
	t.Cleanup(f.Close)
	return f, named(name, f.ListenAddrs()...)
}

// RealBroker starts a real broker for this test alone, of the version that
// STARFERRY_KAFKA asks for or else 4.3.1, with more properties. It ends with
// the test.
func RealBroker(t testing.TB, properties map[string]string) *Broker {
	t.Helper()
	versions, ok, err := realVersions()
	require.NoError(t, err)
	if !ok {
		versions[0] = "4.3.1"
	}
	jars, err := jarsDir()
	require.NoError(t, err)
	b, err := StartBroker(context.Background(), BrokerOptions{Version: versions[0], Jars: jars, Dir: t.TempDir(), Properties: properties})
	require.NoError(t, err)
	t.Cleanup(func() {
		if err := b.Stop(); err != nil {
			t.Errorf("stop broker: %v", err)
		}
	})
	return b
}

func named(n starferry.ClusterName, brokers ...string) starferry.Cluster {
	return starferry.Cluster{Name: n, Brokers: brokers}
}
