package kafkatest

import "testing"

// Waits marks a test that spends most of its time until timers of Kafka or of
// leases run out, which are the same whatever version the brokers have. It is
// left out with -short: who tests a second pair of versions has run it already.
func Waits(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: waits for timers that no version of the brokers changes")
	}
}
