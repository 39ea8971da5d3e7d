package kafkatest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/acl"
	"github.com/starferry/starferry/internal/wire"
)

// admin may do everything on a guarded cluster.
const admin = "admin"

// Guarded are clusters whose brokers let nobody do anything that is not allowed
// to them: connections are TLS with SASL, and an authorizer is on.
type Guarded struct {
	t        testing.TB
	Clusters []starferry.Cluster // as their administrator sees them
	wires    []*wire.Cluster     // the administrator's
}

// OpenGuarded starts guarded clusters with users who may do nothing yet, for
// this test alone: real ones, with Apache Kafka's StandardAuthorizer, if tests
// run on such, or else in-process ones.
func OpenGuarded(t testing.TB, names []starferry.ClusterName, users ...string) *Guarded {
	t.Helper()
	g := &Guarded{t: t, Clusters: make([]starferry.Cluster, len(names))}
	pair, cert, key := Identity(t)
	for i, name := range names {
		g.Clusters[i] = starferry.Cluster{Name: name, TLS: &starferry.TLS{CAFile: cert}, SASL: plain(admin)}
		if !Real() {
			opts := []kfake.Opt{kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", admin, passwordOf(admin)),
				kfake.TLS(&tls.Config{Certificates: []tls.Certificate{pair}}), kfake.ClusterID(string(name))}
			for _, u := range users {
				opts = append(opts, kfake.User("PLAIN", u, passwordOf(u)))
			}
			_, c := Fake(t, name, opts...)
			g.Clusters[i].Brokers = c.Brokers
		}
	}
	if Real() {
		g.start(cert, key, users)
	}
	for _, c := range g.Clusters {
		g.wires = append(g.wires, Open(t, c))
	}
	return g
}

func plain(user string) *starferry.SASL {
	return &starferry.SASL{Mechanism: "PLAIN", Username: user, Password: starferry.Secret(passwordOf(user))}
}

func passwordOf(user string) string { return "of-" + user }

// start starts real brokers, at the same time.
func (g *Guarded) start(cert, key string, users []string) {
	g.t.Helper()
	versions, ok, err := realVersions()
	require.NoError(g.t, err)
	if !ok {
		versions = [2]string{"4.3.1", "4.3.1"}
	}
	jars, err := jarsDir()
	require.NoError(g.t, err)
	store := filepath.Join(g.t.TempDir(), "store.pem")
	keyPEM, err := os.ReadFile(key)
	require.NoError(g.t, err)
	certPEM, err := os.ReadFile(cert)
	require.NoError(g.t, err)
	require.NoError(g.t, os.WriteFile(store, append(keyPEM, certPEM...), 0o600))
	jaas := fmt.Sprintf(`org.apache.kafka.common.security.plain.PlainLoginModule required username="%s" password="%s"`, admin, passwordOf(admin))
	for _, u := range append([]string{admin}, users...) {
		jaas += fmt.Sprintf(` user_%s="%s"`, u, passwordOf(u))
	}
	var starts errgroup.Group
	for i := range g.Clusters {
		dir := g.t.TempDir()
		starts.Go(func() error {
			b, err := StartBroker(context.Background(), BrokerOptions{Version: versions[i%2], Jars: jars, Dir: dir, Heap: "300m", Properties: map[string]string{
				"listeners":                                     "SASL_SSL://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
				"advertised.listeners":                          "SASL_SSL://127.0.0.1:{port}",
				"listener.security.protocol.map":                "SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
				"inter.broker.listener.name":                    "SASL_SSL",
				"sasl.enabled.mechanisms":                       "PLAIN",
				"sasl.mechanism.inter.broker.protocol":          "PLAIN",
				"listener.name.sasl_ssl.plain.sasl.jaas.config": jaas + ";",
				"ssl.keystore.type":                             "PEM",
				"ssl.keystore.location":                         store,
				"ssl.truststore.type":                           "PEM",
				"ssl.truststore.location":                       cert,
				"authorizer.class.name":                         "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
				"super.users":                                   "User:" + admin + ";User:ANONYMOUS", // the controller's own listener is plain
			}})
			if err != nil {
				return err
			}
			g.Clusters[i].Brokers = []string{b.Addr}
			g.t.Cleanup(func() { _ = b.Kill() })
			return nil
		})
	}
	require.NoError(g.t, starts.Wait())
	for _, c := range g.Clusters {
		w := Open(g.t, c)
		require.Eventually(g.t, func() bool {
			m, err := w.Metadata(g.t.Context())
			return err == nil && len(m.Brokers) > 0
		}, startWithin, 50*time.Millisecond, "broker of %s does not answer", c.Name)
	}
}

// As is a cluster as a user sees it.
func (g *Guarded) As(i int, user string) starferry.Cluster {
	c := g.Clusters[i]
	c.SASL = plain(user)
	return c
}

// Password is the name of a file with a user's password.
func (g *Guarded) Password(user string) string {
	file := filepath.Join(g.t.TempDir(), user)
	require.NoError(g.t, os.WriteFile(file, []byte(passwordOf(user)), 0o600))
	return file
}

// Allow lets a user do what lines say, on one cluster.
func (g *Guarded) Allow(i int, user string, lines ...acl.Line) {
	g.t.Helper()
	req := kmsg.NewPtrCreateACLsRequest()
	each(lines, func(l acl.Line, name string) {
		c := kmsg.NewCreateACLsRequestCreation()
		c.ResourceType, c.ResourceName, c.ResourcePatternType = resource(l), name, pattern(l)
		c.Principal, c.Host, c.Operation, c.PermissionType = "User:"+user, "*", kmsg.ACLOperation(l.Operation.Code()), kmsg.ACLPermissionTypeAllow
		req.Creations = append(req.Creations, c)
	})
	if len(req.Creations) == 0 {
		return
	}
	r, err := g.wires[i].DoController(g.t.Context(), req)
	require.NoError(g.t, err)
	for _, x := range r.(*kmsg.CreateACLsResponse).Results {
		require.NoError(g.t, wire.Code(x.ErrorCode))
	}
	each(lines, func(l acl.Line, name string) { g.await(i, user, l, name, 1) })
}

// Forbid takes lines back.
func (g *Guarded) Forbid(i int, user string, lines ...acl.Line) {
	g.t.Helper()
	req := kmsg.NewPtrDeleteACLsRequest()
	each(lines, func(l acl.Line, name string) {
		f := kmsg.NewDeleteACLsRequestFilter()
		f.ResourceType, f.ResourceName, f.ResourcePatternType = resource(l), kmsg.StringPtr(name), pattern(l)
		f.Principal, f.Operation, f.PermissionType = kmsg.StringPtr("User:"+user), kmsg.ACLOperation(l.Operation.Code()), kmsg.ACLPermissionTypeAllow
		req.Filters = append(req.Filters, f)
	})
	r, err := g.wires[i].DoController(g.t.Context(), req)
	require.NoError(g.t, err)
	for _, x := range r.(*kmsg.DeleteACLsResponse).Results {
		require.NoError(g.t, wire.Code(x.ErrorCode))
		require.NotEmpty(g.t, x.MatchingACLs, "%s had no such ACL", user)
	}
	each(lines, func(l acl.Line, name string) { g.await(i, user, l, name, 0) })
}

// await waits until the brokers, which follow their controller, know so many
// ACLs of a kind.
func (g *Guarded) await(i int, user string, l acl.Line, name string, n int) {
	g.t.Helper()
	req := kmsg.NewPtrDescribeACLsRequest()
	req.ResourceType, req.ResourceName, req.ResourcePatternType = resource(l), kmsg.StringPtr(name), pattern(l)
	req.Principal, req.Operation, req.PermissionType = kmsg.StringPtr("User:"+user), kmsg.ACLOperation(l.Operation.Code()), kmsg.ACLPermissionTypeAllow
	require.Eventually(g.t, func() bool {
		r, err := g.wires[i].Do(g.t.Context(), req)
		return err == nil && len(r.(*kmsg.DescribeACLsResponse).Resources) == n
	}, within, 5*time.Millisecond, "the ACLs of %s on %s are not known", user, g.Clusters[i].Name)
}

func each(lines []acl.Line, do func(acl.Line, string)) {
	for _, l := range lines {
		for _, name := range l.Names {
			do(l, name)
		}
	}
}

func resource(l acl.Line) kmsg.ACLResourceType {
	switch l.Resource {
	case acl.Topic:
		return kmsg.ACLResourceTypeTopic
	case acl.Group:
		return kmsg.ACLResourceTypeGroup
	case acl.Cluster:
		return kmsg.ACLResourceTypeCluster
	}
	return kmsg.ACLResourceTypeTransactionalId
}

func pattern(l acl.Line) kmsg.ACLResourcePatternType {
	if l.Prefixed {
		return kmsg.ACLResourcePatternTypePrefixed
	}
	return kmsg.ACLResourcePatternTypeLiteral
}

// Identity makes a self-signed certificate for 127.0.0.1 and returns it with
// the files of certificate and key.
func Identity(t testing.TB) (pair tls.Certificate, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(certFile, certPEM, 0o600))
	require.NoError(t, os.WriteFile(keyFile, keyPEM, 0o600))
	pair, err = tls.X509KeyPair(certPEM, keyPEM)
	require.NoError(t, err)
	return pair, certFile, keyFile
}
