package kafkatest

import (
	"os"
	"testing"
)

// envBrief, if set, leaves out tests that wait.
const envBrief = "STARFERRY_BRIEF"

// Waits marks a test that spends most of its time until timers of Kafka or of
// leases run out, which are the same whatever version the brokers have. It is
// left out with BRIEF=1: who tests a second pair of versions has run it already.
func Waits(t testing.TB) {
	t.Helper()
	if os.Getenv(envBrief) != "" {
		t.Skip("BRIEF=1: waits for timers that no version of the brokers changes")
	}
}
