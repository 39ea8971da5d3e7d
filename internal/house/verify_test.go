package house

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry/internal/kafkatest"
)

// An operator has a copy compared with its source: by a script, by the command
// line, and all the time beside the copy.
func TestACopyIsVerified(t *testing.T) {
	h := build(t, "")
	h.agent()
	h.shards(1)
	topic := kafkatest.Topic(t, h.old, 2, nil)
	kafkatest.Produce(t, h.old, topic, 0, kafkatest.Values("secret", 30)...)
	kafkatest.Produce(t, h.old, topic, 1, kafkatest.Values("secret", 12)...)
	h.says(h.run("copy.star", `
def main(m):
    link = replicate(["`+string(topic)+`"], source = OLD, target = NEW, link = "proven", verify = "1MB/s")
    assert_lag(link, within = "30s")
    proof = verify_copy(link, rate = "50MB/s")
    expect(proof.identical == 42 and proof.verdict == "PASS", "all is compared", found = proof.identical)
`), 0)

	h.says(h.starferry("verify", "proven"), 0, "identical: 42 of 42 records identical", string(topic)+"/1")
	h.says(h.starferry("verify", "proven", "--partition", "1", "--range", "2-10", "--rate", "10MB/s", "--hash"), 0, "8 of 8 records", "TARGET SHA256")
	h.says(h.starferry("verify", "proven", "--json"), 0, `"verdict": "identical"`, `"identical": 30`)
	h.says(h.starferry("verify", "proven", "--range", "9-3"), 2, "want A-B or A-")
	h.says(h.starferry("verify", "proven", "--rate", "500/s"), 2, "want bytes per second")
	h.says(h.starferry("verify", "proven", "--topic", "other"), 1, "topic other is not on it")
	h.says(h.starferry("verify", "nothing"), 1, "nothing")
	require.Eventually(t, func() bool {
		s := h.starferry("links", "proven")
		return strings.Contains(s.out, "to 30") && strings.Contains(s.out, "to 12")
	}, patience, poll*10)
}
