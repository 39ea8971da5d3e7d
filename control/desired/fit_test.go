package desired

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/starferry/starferry/control"
)

// TestWhatDoesNotFitIsRefused: what was stored by whoever may write the key is
// obeyed only if it says what its key says and what its kind allows.
func TestWhatDoesNotFitIsRefused(t *testing.T) {
	for _, tc := range []struct {
		key, text string
		into      any
		want      string // "": fits
	}{
		{"pay.placement", `{"v":1,"group":"pay","epoch":3,"phase":"drain","active":"old","target":"new","at":1,"news":"of a later version"}`, &control.Placement{}, ""},
		{"pay.placement", `{"v":2,"group":"pay"}`, &control.Placement{}, "starferry_desired pay.placement is of protocol version 2 and this program knows up to 1; upgrade it"},
		{"pay.placement", `{"group":"pay"}`, &control.Placement{}, "protocol version 0"},
		{"pay.placement", `drain!`, &control.Placement{}, "holds no JSON of ours"},
		{"pay.placement", `{"v":1,"group":"bills","epoch":3,"phase":"steady","active":"old","at":1}`, &control.Placement{}, "it says that it belongs under bills.placement"},
		{"pay.placement", `{"v":1,"group":"pay","epoch":3,"phase":"resting","active":"old","at":1}`, &control.Placement{}, `phase is "resting"; want steady,`},
		{"pay.placement", `{"v":1,"group":"pay","epoch":3,"phase":"steady","at":1}`, &control.Placement{}, "active is empty"},
		{"pay.placement", `{"v":1,"group":"pay","epoch":-3,"phase":"steady","active":"old","at":1}`, &control.Placement{}, "epoch is -3"},
		{"pay.placement", `{"v":1,"group":"pay","epoch":3,"phase":"drain","active":"old","target":"old","at":1}`, &control.Placement{}, "target is"},
		{"pay.placement", `{"v":1,"group":"pay","epoch":3,"phase":"decide","active":"old","target":"new","at":1}`, &control.Placement{}, "an order to decide without actor or cut"},
		{"pay.placement", `{"v":1,"group":"pay","epoch":3,"phase":"steady","active":"old","cut":{"orders/7":{"next":-1}},"at":1}`, &control.Placement{}, "cut says -1 of orders/7"},
		{"pay.placement", `{"v":1,"group":"pay","epoch":3,"phase":"steady","active":"old","seeds":{"orders/7":{"next":1,"handled":[{"from":5,"to":4}]}},"at":1}`, &control.Placement{}, "seeds of orders/7: range [5, 4) ends before it begins"},
		{"pay.settings", `{"v":1,"group":"pay","throttle":{"rate":-1}}`, &control.Settings{}, "throttle has a limit below 0"},
		{"pay.settings", `{"v":1,"group":"pay","throttles":{"orders/7":{"rate":1,"delay_ms":-1}}}`, &control.Settings{}, "throttle of orders/7 has a limit below 0"},
		{"pay.settings", `{"v":1,"group":"pay","throttles":{"orders":{"rate":1}}}`, &control.Settings{}, "want topic/partition"},
		{"pay.settings", `{"v":1,"group":"pay","skips":[{"id":"s1","partition":"orders/7","range":{"from":9,"to":3}}]}`, &control.Settings{}, "skip s1 of orders/7: range [9, 3)"},
		{"pay.settings", `{"v":1,"group":"pay","holds":[{"id":"h1","partition":3}]}`, &control.Settings{}, "hold h1 names partition 3 of no topic"},
		{"pay.settings", `{"v":1,"group":"pay","rewinds":[{"id":"r1","places":{"orders/7":-2}}]}`, &control.Settings{}, "rewind r1 takes orders/7 to -2"},
		{"pay.settings", `{"v":1,"group":"pay","overflow":{"id":"o1","order":"keys","phase":"move","topic":"t"}}`, &control.Settings{}, `overflow o1 has order "keys"; want key or none`},
		{"pay.settings", `{"v":1,"group":"pay","overflow":{"id":"o1","order":"key","phase":"moving","topic":"t"}}`, &control.Settings{}, `overflow o1 has phase "moving"`},
		{"pay.settings", `{"v":1,"group":"bills"}`, &control.Settings{}, "it says that it belongs under bills.settings"},
		{"pay.i1", `{"v":1,"group":"pay","instance":"i1","boot":"b"}`, &control.Lease{}, ""},
		{"pay.i1.b", `{"v":1,"group":"pay","instance":"i1","boot":"b"}`, &control.Lease{}, ""},
		{"pay.i1", `{"v":1,"group":"pay","instance":"i2","boot":"b"}`, &control.Lease{}, "it says that it belongs under pay.i2"},
		{"pay.i1.b", `{"v":1,"group":"pay","instance":"i1","boot":"c"}`, &control.Lease{}, "it says that it belongs under pay.i1.c"},
		{"orders", `{"v":1,"topic":"orders","phase":"drain","active":"old","at":1}`, &control.TopicPlacement{}, `phase is "drain"; want steady, prepare, hold or announce`},
		{"orders", `{"v":1,"topic":"orders","phase":"hold","active":"old","at":1}`, &control.TopicPlacement{}, "target is"},
		{"orders", `{"v":1,"topic":"orders","phase":"steady","at":1}`, &control.TopicPlacement{}, "active is empty"},
		{"orders.b", `{"v":1,"topic":"refunds","instance":"i1","boot":"b"}`, &control.ProducerLease{}, "it says that it belongs under refunds.b"},
		{"homes", `{"v":1,"rules":[{"groups":["a"]}]}`, &control.Homes{}, "no cluster"},
	} {
		err := decode(DesiredBucket, tc.key, []byte(tc.text), tc.into)
		if tc.want == "" {
			assert.NoError(t, err, tc.text)
			continue
		}
		assert.ErrorContains(t, err, tc.want, tc.text)
	}
}
