package cli

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/scripting"
)

// A group is shown on both sides, within the screen, however long its names are.
func TestAGroupIsShownOnBothSides(t *testing.T) {
	tp := starferry.TopicPartition{Topic: "payments-settlement-confirmations-eu-central", Partition: 113}
	at := starferry.Offset(1201)
	v := groupView{Group: "payments-settlement-confirmations-consumer", Home: "dc-east-primary-old", Instances: []control.Lease{{
		Instance: "payments-settlement-7f9c-4b5a-9a0f", Host: "worker-node-17.dc-east.example.net", PID: 31337, Home: "dc-east-primary-old", At: time.Now().UnixMilli(),
		Memberships: []control.Membership{{Cluster: "dc-east-primary-old", Generation: 41, Good: true}, {Cluster: "dc-west-primary-new", Generation: 3, Good: true}},
		Partitions: []control.PartitionState{{Partition: tp, Cluster: "dc-east-primary-old", Position: 1203, Committed: 1201, End: 1300, InFlight: 2,
			Blocked: &at, BlockedSince: time.Now().Add(-2 * time.Second).UnixMilli()}},
	}}, Sides: map[starferry.ClusterName]sideView{
		"dc-east-primary-old": {State: "Stable", Lag: 99, Partitions: map[starferry.TopicPartition]sideOfPlace{tp: {1201, 99, "home"}},
			Members: []memberView{{ID: "legacy-1-aaaa", Client: "legacy", Host: "/10.0.0.1"}}},
		"dc-west-primary-new": {State: "Stable", Lag: 7, Partitions: map[starferry.TopicPartition]sideOfPlace{tp: {2201, 7, "seeded"}}},
	}}
	var out strings.Builder
	require.NoError(t, showGroup(&out, v))
	for _, line := range strings.Split(out.String(), "\n") {
		require.LessOrEqual(t, utf8.RuneCountInString(line), scripting.Width, line)
	}
	text := strings.Join(strings.Fields(out.String()), " ")
	for _, words := range []string{"1201 for 2", "standby", "1 seeded", "1 home", "does not use the library", "legacy-1-aaaa"} {
		require.Contains(t, text, words, out.String())
	}
}

func TestAGroupNobodyKnowsIsUnknown(t *testing.T) {
	require.True(t, groupView{Sides: map[starferry.ClusterName]sideView{"old": {State: "Dead"}}}.unknown())
	require.False(t, groupView{Sides: map[starferry.ClusterName]sideView{"old": {Error: "cannot be reached"}}}.unknown())
}
