package builtins

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
)

func TestAProgressIsOneLineWithWhoAndHowLong(t *testing.T) {
	at := func(p starferry.Partition) starferry.TopicPartition {
		return starferry.TopicPartition{Topic: "orders", Partition: p}
	}
	p := SwitchProgress{Group: "billing", Phase: "drain", PhaseMS: 400, Waits: "x", Rows: []SwitchWait{
		{Instance: "billing-7f", What: "to finish what is in flight and commit it (epoch 2)", WaitedMS: 400},
		{Instance: "billing-7f", Partition: at(3), What: "to finish record 1201: its handler is busy", WaitedMS: 2100},
		{Partition: at(9), What: "to be held by somebody on new", WaitedMS: 400},
	}}
	require.Equal(t, "billing: drain 0.4s: waits for billing-7f (orders/3) to finish record 1201: its handler is busy, for 2.1s; orders/9 to be held by somebody on new", p.Line())
	p.Rows = nil
	for _, i := range []starferry.InstanceID{"a", "b", "c", "d", "e"} {
		p.Rows = append(p.Rows, SwitchWait{Instance: i, What: "to join new"})
	}
	require.Equal(t, "billing: drain 0.4s: waits for a, b, c and 2 more to join new", p.Line())
	p.Waits = ""
	require.Equal(t, "billing: drain 0.4s", p.Line())
}
