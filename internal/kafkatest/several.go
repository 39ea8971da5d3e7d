package kafkatest

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
)

// Brokers is a cluster of several real brokers, each also a controller: of
// three, one at a time may be away.
type Brokers struct {
	Cluster starferry.Cluster
	Nodes   []*Broker // by node id, from 1
}

// ID is the node id of a broker of the cluster by its place.
func (b *Brokers) ID(i int) int32 { return int32(i + 1) }

// RealBrokers starts a cluster of n real brokers for this test alone, of the
// version that STARFERRY_KAFKA asks for or else 4.3.1, with more properties. It
// ends with the test.
func RealBrokers(t testing.TB, name starferry.ClusterName, n int, properties map[string]string) *Brokers {
	t.Helper()
	versions, ok, err := realVersions()
	require.NoError(t, err)
	if !ok {
		versions[0] = "4.3.1"
	}
	jars, err := jarsDir()
	require.NoError(t, err)
	ports, err := freePorts(2 * n)
	require.NoError(t, err)
	var voters []string
	for i := range n {
		voters = append(voters, fmt.Sprintf("%d@127.0.0.1:%d", i+1, ports[n+i]))
	}
	id := make([]byte, 16)
	_, err = rand.Read(id)
	require.NoError(t, err)
	id[0] &= 0x7f
	out := &Brokers{Nodes: make([]*Broker, n), Cluster: starferry.Cluster{Name: name}}
	dir := t.TempDir()
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		props := map[string]string{
			"node.id": fmt.Sprint(i + 1), "controller.quorum.voters": strings.Join(voters, ","),
			"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "500",
		}
		maps.Copy(props, properties)
		b := &Broker{
			opts: BrokerOptions{
				Version: versions[0], Jars: jars, Dir: filepath.Join(dir, fmt.Sprint(i+1)), Heap: "300m",
				Properties: props, ClusterID: base64.RawURLEncoding.EncodeToString(id),
			},
			port: ports[i], ctrl: ports[n+i], Addr: fmt.Sprintf("127.0.0.1:%d", ports[i]),
		}
		out.Nodes[i] = b
		out.Cluster.Brokers = append(out.Cluster.Brokers, b.Addr)
		wg.Go(func() {
			if errs[i] = b.prepare(context.Background()); errs[i] == nil {
				errs[i] = b.Start(context.Background())
			}
		})
	}
	wg.Wait()
	t.Cleanup(func() {
		for _, b := range out.Nodes {
			if b.cmd != nil {
				wg.Go(func() { _ = b.Kill() })
			}
		}
		wg.Wait()
	})
	require.NoError(t, errors.Join(errs...))
	return out
}
