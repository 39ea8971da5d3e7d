package wire_test

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
)

const password = "canary-7f3a"

func TestTLS(t *testing.T) {
	pair, cert, key := kafkatest.Identity(t)
	_, stranger, _ := kafkatest.Identity(t)
	_, conf := kafkatest.Fake(t, "old", kfake.TLS(&tls.Config{Certificates: []tls.Certificate{pair}}))
	for name, x := range map[string]struct {
		tls  *starferry.TLS
		fail string
	}{
		"known authority":     {&starferry.TLS{CAFile: cert}, ""},
		"with certificate":    {&starferry.TLS{CAFile: cert, CertFile: cert, KeyFile: key}, ""},
		"unchecked":           {&starferry.TLS{InsecureSkipVerify: true}, ""},
		"unknown authority":   {&starferry.TLS{CAFile: stranger}, "certificate"},
		"other name":          {&starferry.TLS{CAFile: cert, ServerName: "kafka.example"}, "kafka.example"},
		"plain to TLS broker": {nil, "check that the broker runs and that its address, port, tls"},
	} {
		t.Run(name, func(t *testing.T) {
			conf := conf
			conf.TLS = x.tls
			c := kafkatest.Open(t, conf)
			_, err := c.Metadata(t.Context())
			if x.fail == "" {
				require.NoError(t, err)
				r, err := c.Client().ApiVersions(t.Context(), &kafka.ApiVersionsRequest{})
				require.NoError(t, err)
				require.NoError(t, r.Error)
				return
			}
			require.ErrorContains(t, err, x.fail)
			require.ErrorContains(t, err, `cluster "old"`)
			require.ErrorIs(t, err, wire.ErrNotSent)
		})
	}
}

func TestTLSToPlainBroker(t *testing.T) {
	_, conf := kafkatest.Fake(t, "old")
	conf.TLS = &starferry.TLS{}
	ctx := t.Context()
	_, err := kafkatest.Open(t, conf, wire.WithRequestTimeout(time.Second)).Metadata(ctx)
	require.ErrorContains(t, err, "TLS handshake")
}

func TestSASL(t *testing.T) {
	for _, mech := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		t.Run(mech, func(t *testing.T) {
			_, conf := kafkatest.Fake(t, "old", kfake.EnableSASL(), kfake.Superuser(mech, "mover", password))
			conf.SASL = &starferry.SASL{Mechanism: mech, Username: "mover", Password: password}
			c := kafkatest.Open(t, conf)
			_, err := c.Metadata(t.Context())
			require.NoError(t, err)
			r, err := c.Client().ApiVersions(t.Context(), &kafka.ApiVersionsRequest{})
			require.NoError(t, err)
			require.NoError(t, r.Error)

			conf.SASL = &starferry.SASL{Mechanism: mech, Username: "mover", Password: "wrong-" + password}
			c = kafkatest.Open(t, conf)
			_, err = c.Metadata(t.Context())
			requireRefused(t, err, mech, "mover")
		})
	}
}

func requireRefused(t *testing.T, err error, mech, user string) {
	t.Helper()
	var auth *wire.AuthError
	require.ErrorAs(t, err, &auth)
	require.Equal(t, starferry.ClusterName("old"), auth.Cluster)
	require.Equal(t, mech, auth.Mechanism)
	require.Equal(t, user, auth.Username)
	require.ErrorContains(t, err, fmt.Sprintf("as user %q with %s", user, mech))
	require.NotContains(t, err.Error(), password)
}

func TestMechanismTheBrokerDoesNotOffer(t *testing.T) {
	_, conf := kafkatest.Fake(t, "old", kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-512", "mover", password))
	conf.SASL = &starferry.SASL{Mechanism: "PLAIN", Username: "mover", Password: password}
	_, err := kafkatest.Open(t, conf).Metadata(t.Context())
	requireRefused(t, err, "PLAIN", "mover")
}

func TestNoCredentialsForBrokerThatWantsThem(t *testing.T) {
	_, conf := kafkatest.Fake(t, "old", kfake.EnableSASL())
	_, err := kafkatest.Open(t, conf).Metadata(t.Context())
	require.ErrorContains(t, err, "check whether it wants sasl")
}

func TestRealBrokerWithSASL(t *testing.T) {
	if !kafkatest.Real() {
		t.Skip("needs a real broker: set STARFERRY_KAFKA")
	}
	jaas := func(user string) string {
		return fmt.Sprintf(`org.apache.kafka.common.security.plain.PlainLoginModule required username="admin" password="admin" user_admin="admin" user_%s="%s";`, user, password)
	}
	b := kafkatest.RealBroker(t, map[string]string{
		"listeners":                                           "SASL_PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
		"advertised.listeners":                                "SASL_PLAINTEXT://127.0.0.1:{port}",
		"listener.security.protocol.map":                      "SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
		"inter.broker.listener.name":                          "SASL_PLAINTEXT",
		"sasl.enabled.mechanisms":                             "PLAIN",
		"sasl.mechanism.inter.broker.protocol":                "PLAIN",
		"connections.max.reauth.ms":                           "60000",
		"listener.name.sasl_plaintext.plain.sasl.jaas.config": jaas("mover"),
	})
	conf := starferry.Cluster{Name: "old", Brokers: []string{b.Addr}, SASL: &starferry.SASL{Mechanism: "PLAIN", Username: "mover", Password: password}}
	c := kafkatest.Open(t, conf)
	require.Eventually(t, func() bool {
		_, err := c.Metadata(t.Context())
		return err == nil
	}, 30*time.Second, 50*time.Millisecond)
	conf.SASL = &starferry.SASL{Mechanism: "PLAIN", Username: "mover", Password: "wrong-" + password}
	started := time.Now()
	_, err := kafkatest.Open(t, conf).DescribeGroup(t.Context(), "g")
	requireRefused(t, err, "PLAIN", "mover")
	require.Less(t, time.Since(started), 10*time.Second, "a refusal is not tried again")
	conf.SASL = nil
	_, err = kafkatest.Open(t, conf).Metadata(t.Context())
	require.ErrorContains(t, err, "check whether it wants sasl")
}

// A real broker serves TLS, and refuses who shows no certificate if it asks for one.
func TestTLSOfARealBroker(t *testing.T) {
	if !kafkatest.Real() {
		t.Skip("needs Apache Kafka: set STARFERRY_KAFKA")
	}
	_, cert, key := kafkatest.Identity(t)
	certPEM, err := os.ReadFile(cert)
	require.NoError(t, err)
	keyPEM, err := os.ReadFile(key)
	require.NoError(t, err)
	store := filepath.Join(t.TempDir(), "store.pem")
	require.NoError(t, os.WriteFile(store, append(keyPEM, certPEM...), 0o600))
	b := kafkatest.RealBroker(t, map[string]string{
		"listeners":                      "SSL://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
		"advertised.listeners":           "SSL://127.0.0.1:{port}",
		"listener.security.protocol.map": "SSL:SSL,CONTROLLER:PLAINTEXT",
		"inter.broker.listener.name":     "SSL",
		"ssl.keystore.type":              "PEM",
		"ssl.keystore.location":          store,
		"ssl.truststore.type":            "PEM",
		"ssl.truststore.location":        cert,
		"ssl.client.auth":                "required",
	})
	conf := starferry.Cluster{Name: "old", Brokers: []string{b.Addr}, TLS: &starferry.TLS{CAFile: cert, CertFile: cert, KeyFile: key}}
	c := kafkatest.Open(t, conf)
	require.Eventually(t, func() bool {
		m, err := c.Metadata(t.Context())
		return err == nil && len(m.Brokers) > 0
	}, 30*time.Second, 50*time.Millisecond)
	topic := kafkatest.Topic(t, conf, 1, nil)
	kafkatest.Produce(t, conf, topic, 0, kafkatest.Values("v", 500)...)
	require.Len(t, kafkatest.Records(t, conf, topic, 0), 500)

	_, stranger, _ := kafkatest.Identity(t)
	conf.TLS = &starferry.TLS{CAFile: stranger}
	_, err = kafkatest.Open(t, conf).Metadata(t.Context())
	require.ErrorContains(t, err, "certificate")
	conf.TLS = &starferry.TLS{CAFile: cert}
	_, err = kafkatest.Open(t, conf).Metadata(t.Context())
	require.ErrorIs(t, err, wire.ErrNotSent, "without a certificate of its own")
}

func TestWrongSettingsAreToldWhenOpening(t *testing.T) {
	for want, conf := range map[string]starferry.Cluster{
		"no brokers":           {},
		`broker "kafka-1"`:     {Brokers: []string{"kafka-1"}},
		"sasl mechanism":       {Brokers: []string{"a:1"}, SASL: &starferry.SASL{Mechanism: "GSSAPI"}},
		"tls ca_file":          {Brokers: []string{"a:1"}, TLS: &starferry.TLS{CAFile: "no-such-file"}},
		"go together":          {Brokers: []string{"a:1"}, TLS: &starferry.TLS{CertFile: "cert.pem"}},
		"holds no certificate": {Brokers: []string{"a:1"}, TLS: &starferry.TLS{CAFile: "main_test.go"}},
	} {
		conf.Name = "old"
		_, err := wire.Open(conf)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, `cluster "old"`)
	}
}
