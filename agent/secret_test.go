package agent_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry/agent"
	"github.com/starferry/starferry/agent/config"
)

// A wrong address of NATS is an error that does not quote the password in it.
func TestAWrongAddressOfNATSIsNotQuoted(t *testing.T) {
	for _, address := range []string{"nats://u:canary%zz@127.0.0.1:1", "nats://u:canary#x@127.0.0.1:1", "u:canary@127.0.0.1:1"} {
		_, err := agent.Connect(config.NATS{URL: address}, "test", nil)
		require.Error(t, err)
		require.NotContains(t, err.Error(), "canary")
	}
}
