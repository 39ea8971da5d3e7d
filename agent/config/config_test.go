package config_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent/config"
)

const canary = "hunter2-canary"

func env(key string) string {
	if key == "CANARY" {
		return canary
	}
	return ""
}

func parse(t *testing.T, text string) (*config.Config, error) {
	t.Helper()
	return config.Parse("f.yaml", []byte(text), env)
}

const small = "clusters:\n  old: {brokers: [\"a:1\"]}\n"

func TestDefaults(t *testing.T) {
	c, err := parse(t, small)
	require.NoError(t, err)
	require.Equal(t, []starferry.ClusterName{"old"}, c.Names())
	require.True(t, c.NATS.Embedded())
	require.Equal(t, "nats://127.0.0.1:4222", c.NATS.Address())
	require.Equal(t, 64, c.Shards.Buckets)
	require.True(t, filepath.IsAbs(c.DataDir))
	require.Equal(t, "starferry-data", filepath.Base(c.DataDir))
}

func TestTheExampleIsValid(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"ca.pem", "client.pem", "client.key", "new.password", "starferry.creds"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, f), []byte("x\n"), 0o600))
	}
	c, err := config.Parse(filepath.Join(dir, "starferry.yaml"), []byte(config.Example), env)
	require.NoError(t, err)
	require.Equal(t, "SCRAM-SHA-512", c.Clusters["new"].SASL.Mechanism)
	require.Equal(t, starferry.Secret("x"), c.Clusters["new"].SASL.Password, "the line end is no part of it")
	require.Equal(t, filepath.Join(dir, "ca.pem"), c.Clusters["new"].TLS.CAFile, "relative to the file")
	require.False(t, c.NATS.Embedded())
}

func TestBadInput(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"unknown key", "clutsers: {}\n", `f.yaml:1: clutsers: unknown key (did you mean "clusters"?); known here: clusters, nats, data_dir, shards, homes, labels`},
		{"unknown key below a cluster", "clusters:\n  old:\n    broker: [a]\n", `f.yaml:3: clusters.old.broker: unknown key (did you mean "brokers"?); known here: brokers, tls, sasl, labels`},
		{"a password in the file", "clusters:\n  old:\n    brokers: [\"a:1\"]\n    sasl:\n      password: " + canary + "\n",
			`f.yaml:5: clusters.old.sasl.password: unknown key: passwords do not stand in this file; use password_file or password_env`},
		{"text for a list", "clusters:\n  old:\n    brokers: a:1\n", `f.yaml:3: clusters.old.brokers: want a list such as ["a", "b"], found a text`},
		{"list for a text", "data_dir: [x]\n" + small, `f.yaml:1: data_dir: want a text, found a list`},
		{"text for a number", small + "shards:\n  buckets: many\n", `f.yaml:4: shards.buckets: want a whole number, found a text`},
		{"text for a truth", "clusters:\n  old:\n    brokers: [\"a:1\"]\n    tls: {insecure_skip_verify: \"no\"}\n", `f.yaml:4: clusters.old.tls.insecure_skip_verify: want true or false, found a text`},
		{"list for keys", "clusters: [old]\n", `f.yaml:1: clusters: want keys and values, found a list`},
		{"text as a whole", "hello\n", `f.yaml:1: want keys and values, found a text`},
		{"key twice", small + "data_dir: a\ndata_dir: b\n", `f.yaml:4: data_dir: stands twice, first in line 3: keep one`},
		{"no clusters", "data_dir: x\n", "f.yaml: clusters: no clusters: name at least one, such as `old: {brokers: [\"localhost:9092\"]}`"},
		{"empty", "", "f.yaml: clusters: no clusters: name at least one, such as `old: {brokers: [\"localhost:9092\"]}`"},
		{"no brokers", "clusters:\n  old: {}\n", `f.yaml:2: clusters.old.brokers: no brokers: give at least one host:port`},
		{"no port", "clusters:\n  old:\n    brokers:\n      - kafka\n", `f.yaml:4: clusters.old.brokers[0]: want host:port, such as localhost:9092`},
		{"port too large", "clusters:\n  old: {brokers: [\"a:99999\"]}\n", `f.yaml:2: clusters.old.brokers[0]: want a port from 1 to 65535 after the colon`},
		{"cluster name", "clusters:\n  old one: {brokers: [\"a:1\"]}\n", `f.yaml:2: clusters.old one: a cluster's name has letters, digits, - and _ only (at most 63): rename it`},
		{"mechanism", "clusters:\n  old:\n    brokers: [\"a:1\"]\n    sasl: {mechanism: SCRAM-512, username: u, password_env: CANARY}\n",
			`f.yaml:4: clusters.old.sasl.mechanism: unknown mechanism (did you mean "SCRAM-SHA-512"?): use one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512`},
		{"empty variable", "clusters:\n  old:\n    brokers: [\"a:1\"]\n    sasl: {mechanism: PLAIN, username: u, password_env: NOPE}\n",
			`f.yaml:4: clusters.old.sasl.password_env: the environment has no NOPE: set it before starting`},
		{"missing file", "clusters:\n  old:\n    brokers: [\"a:1\"]\n    tls: {ca_file: /nowhere/ca.pem}\n",
			`f.yaml:4: clusters.old.tls.ca_file: cannot read /nowhere/ca.pem: no such file or directory`},
		{"half a key pair", "clusters:\n  old:\n    brokers: [\"a:1\"]\n    tls: {cert_file: config_test.go}\n",
			`f.yaml:4: clusters.old.tls: cert_file and key_file go together: give both or none`},
		{"url and listen", small + "nats: {url: \"nats://x:1\", listen: \"127.0.0.1:1\"}\n",
			`f.yaml:3: nats: both url and listen: url uses a server that is there, listen starts one; keep one`},
		{"listening outside", small + "nats:\n  listen: 0.0.0.0:4222\n",
			`f.yaml:4: nats.listen: the agent's own NATS server listens on this machine only (127.0.0.1 or localhost): for several machines run a NATS server with authentication and give its url`},
		{"snapshots", small + "shards: {snapshots: often}\n", `f.yaml:3: shards.snapshots: "often": want a time of a second or more, such as 5m, or off`},
		{"buckets", small + "shards: {buckets: 100000}\n", `f.yaml:3: shards.buckets: 100000 buckets: want 1 to 1024; 64 is a good number`},
		{"tab", "clusters:\n\told: {}\n", `f.yaml:2: no valid YAML: check indentation (spaces only), colons and quotes`},
		{"two documents", small + "---\n" + small, "f.yaml:4: a second document: one file holds one configuration; remove the `---` and what follows"},
		{"two problems at once", "foo: 1\nnats: {urll: x}\n", "f.yaml:1: foo: unknown key; known here: clusters, nats, data_dir, shards, homes, labels\n" +
			`f.yaml:2: nats.urll: unknown key (did you mean "url"?); known here: url, creds_file, nkey_file, user, password_file, password_env, token_file, token_env, inbox_prefix, operator, named_operators, tls, listen`},
		{"anchor", "clusters: &x\n  old: {brokers: [\"a:1\"]}\n", `f.yaml:1: clusters: anchors, aliases and tags are not understood here: write the value out`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := parse(t, tc.text)
			require.EqualError(t, err, tc.want)
			require.NotContains(t, err.Error(), canary)
		})
	}
}

func TestAnUnknownClusterIsAnsweredWithTheKnown(t *testing.T) {
	c, err := parse(t, "clusters:\n  dc1: {brokers: [\"a:1\"]}\n  dc2: {brokers: [\"b:1\"]}\n")
	require.NoError(t, err)
	_, err = c.Cluster("dc3")
	require.EqualError(t, err, `find cluster "dc3": f.yaml has dc1, dc2 (did you mean "dc1"?); add it below clusters: or use one of these`)
}

func TestNoFile(t *testing.T) {
	_, err := config.Load("", env)
	require.ErrorIs(t, err, config.ErrNoFile)
	_, err = config.Load("/nowhere/f.yaml", env)
	require.EqualError(t, err, "read configuration: /nowhere/f.yaml does not exist: check --config and STARFERRY_CONFIG")
}

// A password never shows itself, however a configuration is printed.
func TestThePasswordIsNeverShown(t *testing.T) {
	text := "clusters:\n  old:\n    brokers: [\"a:1\"]\n    sasl: {mechanism: PLAIN, username: u, password_env: CANARY}\n"
	c, err := parse(t, text)
	require.NoError(t, err)
	require.Equal(t, canary, c.Clusters["old"].SASL.Password.Reveal())
	asJSON, err := json.Marshal(c)
	require.NoError(t, err)
	shown := []string{string(asJSON)}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
		shown = append(shown, fmt.Sprintf(verb, c), fmt.Sprintf(verb, *c.Clusters["old"].SASL), fmt.Sprintf(verb, c.Clusters["old"].SASL.Password))
	}
	require.NotContains(t, strings.Join(shown, "\n"), canary)
}

func FuzzParse(f *testing.F) {
	f.Add(small)
	f.Add(config.Example)
	f.Add("clusters:\n  old:\n    - &a *a\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := config.Parse("f.yaml", []byte(text), env)
		if err == nil {
			require.NotEmpty(t, c.Clusters)
		}
	})
}

// An address of NATS is shown without what stands before its host, whether it
// is a proper URL or not.
func TestWhoeverSignsInToNATSIsNotShown(t *testing.T) {
	for address, want := range map[string]string{
		"nats://u:canary@h:4222":                    "nats://h:4222",
		"u:canary@h:4222":                           "h:4222",
		"canary@h:4222":                             "h:4222",
		"nats://u:can%ary@h:4222":                   "nats://h:4222",
		"tls://u:can#canary@h:4222":                 "tls://h:4222",
		"nats://u:canary@h:1, nats://u:c@n@g:2,i:3": "nats://h:1,nats://g:2,i:3",
		"nats://h:4222":                             "nats://h:4222",
	} {
		require.Equal(t, want, config.NATS{URL: address}.Redacted())
	}
}
