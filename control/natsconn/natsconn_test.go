package natsconn_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/natsconn"
	"github.com/starferry/starferry/internal/testlog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const canary = "hunter2-canary"

// serve runs a server that wants to know who comes.
func serve(t *testing.T, authorization string) string {
	file := filepath.Join(t.TempDir(), "nats.conf")
	require.NoError(t, os.WriteFile(file, []byte("listen: \"127.0.0.1:-1\"\nauthorization { "+authorization+" }\n"), 0o600))
	o, err := server.ProcessConfigFile(file)
	require.NoError(t, err)
	o.NoSigs, o.NoLog = true, true
	s, err := server.NewServer(o)
	require.NoError(t, err)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	require.True(t, s.ReadyForConnections(20*time.Second))
	return s.ClientURL()
}

// Each kind of credentials lets in; without them a service waits, says why, and
// shows no secret.
func TestCredentials(t *testing.T) {
	pair, err := nkeys.CreateUser()
	require.NoError(t, err)
	seed, err := pair.Seed()
	require.NoError(t, err)
	public, err := pair.PublicKey()
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "seed.nk")
	require.NoError(t, os.WriteFile(file, seed, 0o600))
	for name, c := range map[string]struct {
		authorization string
		with          natsconn.Config
	}{
		"user":  {`user: u, password: "` + canary + `"`, natsconn.Config{User: "u", Password: canary}},
		"token": {`token: "` + canary + `"`, natsconn.Config{Token: canary}},
		"nkey":  {"users: [{nkey: " + public + "}]", natsconn.Config{NKeyFile: file}},
	} {
		t.Run(name, func(t *testing.T) {
			c.with.URL = serve(t, c.authorization)
			var said testlog.Log
			log := slog.New(slog.NewTextHandler(&said, nil))
			nc, err := natsconn.Dial(c.with, "service", log)
			require.NoError(t, err)
			defer nc.Close()
			require.Eventually(t, nc.IsConnected, 20*time.Second, 5*time.Millisecond)

			wrong := natsconn.Config{URL: c.with.URL, User: "u", Password: canary + "-wrong"}
			out, err := natsconn.Dial(wrong, "service", log)
			require.NoError(t, err, "a service goes on without NATS")
			defer out.Close()
			require.Eventually(t, func() bool { return bytes.Contains([]byte(said.String()), []byte("Authorization Violation")) }, 20*time.Second, 5*time.Millisecond)
			require.False(t, out.IsConnected())
			require.NotContains(t, said.String()+fmt.Sprintf("%v %+v %#v %s", c.with, c.with, wrong, &wrong), canary)
			require.NotContains(t, said.String(), string(seed))
		})
	}
}

// What is not permitted is said with where permissions come from.
func TestRefusalsAreTold(t *testing.T) {
	url := serve(t, `users: [{user: u, password: p, permissions: {publish: {allow: ["a"]}, subscribe: {allow: ["_INBOX_u.>"]}}}]`)
	var said testlog.Log
	nc, err := natsconn.Dial(natsconn.Config{URL: url, User: "u", Password: "p", InboxPrefix: "_INBOX_u"}, "service", slog.New(slog.NewTextHandler(&said, nil)))
	require.NoError(t, err)
	defer nc.Close()
	require.Eventually(t, nc.IsConnected, 20*time.Second, 5*time.Millisecond)
	_, err = nc.Request("a", nil, 20*time.Second)
	require.ErrorIs(t, err, nats.ErrNoResponders, "the answer came to its own inbox")
	require.NoError(t, nc.Publish("b", nil))
	require.Eventually(t, func() bool { return bytes.Contains([]byte(said.String()), []byte("starferry nats permissions")) }, 20*time.Second, 5*time.Millisecond)
	require.Contains(t, said.String(), `Publish to \"b\"`)
}

func TestWhatDoesNotGoTogether(t *testing.T) {
	for want, c := range map[string]natsconn.Config{
		"no address of NATS":        {},
		"keep one":                  {URL: "x:1", User: "u", Token: canary},
		"password without a user":   {URL: "x:1", Password: canary},
		"inbox prefix":              {URL: "x:1", InboxPrefix: "a.>"},
		"no such file or directory": {URL: "x:1", NKeyFile: "/nowhere/seed"},
		"read authorities":          {URL: "x:1", TLS: &starferry.TLS{CAFile: "/nowhere/ca.pem"}},
		"no URL":                    {URL: "nats://u:" + canary + "%zz@x:1"},
	} {
		_, err := natsconn.Dial(c, "service", nil)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), canary)
	}
}
