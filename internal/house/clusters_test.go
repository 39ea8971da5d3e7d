package house

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/scripting"
)

// An operator who mistypes a key is told where and what was meant, by every
// command and before anything is reached.
func TestAnUnknownConfigurationKey(t *testing.T) {
	h := build(t, "")
	raw, err := os.ReadFile(h.file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(h.file, append(raw, "data_dri: elsewhere\n"...), 0o600))
	for _, command := range [][]string{{"runs"}, {"agent"}, {"shard"}, h.moveArguments("billing"), {"clusters", "check"}} {
		h.says(h.starferry(command...), scripting.ExitError, h.file, "data_dri: unknown key", `did you mean "data_dir"?`)
	}
}

// A target that nobody answers for, and a target that refuses the password, stop
// a run before it has changed anything.
func TestATargetThatDoesNotLetUsIn(t *testing.T) {
	t.Parallel()
	password := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(password, []byte("canary-81c\n"), 0o600))
	_, locked := kafkatest.Fake(t, "locked", kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-512", "mover", "another"))
	h := build(t, fmt.Sprintf("  down: {brokers: [\"127.0.0.1:1\"]}\n  locked: {brokers: [\"%s\"], sasl: {mechanism: SCRAM-SHA-512, username: mover, password_file: %s}}\n",
		locked.Brokers[0], password))
	h.agent()
	h.shards(1)
	s := h.busy(1, 3)
	for name, words := range map[string][]string{
		"down":   {`connect to cluster "down"`, "127.0.0.1:1", "connection refused", "check that the broker runs"},
		"locked": {`cluster "locked"`, "mover", "SCRAM-SHA-512", "check"},
	} {
		args := h.moveArguments(s.group)
		args[7] = "target=" + name
		stopped := h.starferry(args...)
		h.says(stopped, scripting.ExitError, append(words, "changed and held now: nothing")...)
		require.NotContains(t, stopped.err, "canary")
		h.says(h.run("copy.star", `
def copy(m):
    replicate(["`+string(s.topics[0])+`"], source = OLD, target = "`+name+`", link = "there")

m = migration(name = "copy", phases = [phase("copy", do = copy)])
`), scripting.ExitError, words...)
		h.says(h.starferry("clusters", "check"), scripting.ExitUnmet, words[:2]...)
		s.consumesOn(h.old)
	}
	s.intact()
}
