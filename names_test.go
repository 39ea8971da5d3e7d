package starferry

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPositionsReadBackWhatTheyWrite(t *testing.T) {
	for _, text := range []string{"orders/0@0", "orders/7@184223", "a.b-c_d/2147483647@9223372036854775807"} {
		p, err := ParsePosition(text)
		require.NoError(t, err)
		require.Equal(t, text, p.String())
	}
}

func TestBadPositionsSayWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		"orders":        "want topic/partition@offset",
		"orders@5":      "want topic/partition",
		"/5@5":          "want topic/partition",
		"orders/x@5":    `"x" is no partition number`,
		"orders/-1@5":   `"-1" is no partition number`,
		"orders/7@five": `"five" is no offset`,
		"orders/7@-1":   `"-1" is no offset`,
	} {
		_, err := ParsePosition(text)
		require.ErrorContains(t, err, want, text)
		require.ErrorContains(t, err, "parse p", text)
	}
}

func TestACutIsAJSONObjectByPartition(t *testing.T) {
	cut := Cut{
		{"orders", 7}: {Next: 100, Handled: []Range{{105, 110}}},
		{"orders", 0}: {Next: 3},
	}
	b, err := json.Marshal(cut)
	require.NoError(t, err)
	require.Equal(t, `{"orders/0":{"next":3},"orders/7":{"next":100,"handled":[{"from":105,"to":110}]}}`, string(b))
	var back Cut
	require.NoError(t, json.Unmarshal(b, &back))
	require.True(t, cut.Equal(back))
	require.Equal(t, []TopicPartition{{"orders", 0}, {"orders", 7}}, back.Partitions())
	require.Error(t, json.Unmarshal([]byte(`{"orders":{"next":3}}`), &back))
}

func TestASecretNeverShowsItself(t *testing.T) {
	const canary = "hunter2"
	c := Cluster{Name: "dc1", SASL: &SASL{Mechanism: "PLAIN", Username: "me", Password: canary}}
	var out strings.Builder
	fmt.Fprintf(&out, "%v %+v %#v %s %q %x\n", c.SASL.Password, *c.SASL, *c.SASL, c.SASL.Password, c.SASL.Password, c.SASL.Password)
	b, err := json.Marshal(c)
	require.NoError(t, err)
	out.Write(b)
	slog.New(slog.NewTextHandler(&out, nil)).Info("cluster", "sasl", *c.SASL, "password", c.SASL.Password)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("cluster", "sasl", *c.SASL, "password", c.SASL.Password)
	require.NotContains(t, out.String(), canary)
	require.NotContains(t, out.String(), fmt.Sprintf("%x", canary))
	require.Equal(t, canary, c.SASL.Password.Reveal())
}

func TestLinksBetweenClustersHaveOneName(t *testing.T) {
	require.Equal(t, LinkName("old-new"), LinkBetween("old", "new"))
}
