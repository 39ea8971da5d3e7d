package sidecar

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry/control/consumer"
)

func shown(e Encoding, rs ...consumer.Record) string {
	return string(writer{encoding: e, group: "billing", instance: "i-1"}.delivery(nil, rs))
}

func TestADeliveryIsJSON(t *testing.T) {
	r := consumer.Record{
		Cluster: "dc1", Topic: "orders", Partition: 7, Offset: 184223, Timestamp: time.UnixMilli(1767323045001), Attempts: 2, Tries: 1,
		Key: []byte("k\"1"), Value: []byte(`{"n": 12345678901234567890}`), Headers: []consumer.Header{{Key: "trace", Value: []byte("é")}, {Key: "raw", Value: []byte{0xff}}, {Key: "null"}},
	}
	head := `{"version":1,"group":"billing","instance":"i-1","records":[{"cluster":"dc1","topic":"orders","partition":7,"offset":184223,"timestamp":1767323045001,"attempt":4,`
	require.Equal(t, head+`"key_base64":"ayIx","value_base64":"eyJuIjogMTIzNDU2Nzg5MDEyMzQ1Njc4OTB9","headers":[{"key":"trace","value_base64":"w6k="},{"key":"raw","value_base64":"/w=="},{"key":"null"}]}]}`+"\n", shown(Base64, r))
	require.Equal(t, head+`"key":"k\"1","value":"{\"n\": 12345678901234567890}","headers":[{"key":"trace","value":"é"},{"key":"raw","value_base64":"/w=="},{"key":"null"}]}]}`+"\n", shown(Text, r))
	require.Equal(t, head+`"key":"k\"1","value":{"n": 12345678901234567890},"headers":[{"key":"trace","value":"é"},{"key":"raw","value_base64":"/w=="},{"key":"null"}]}]}`+"\n", shown(JSON, r))
}

// Null, empty and what is not what it is said to be are told apart.
func TestWhatIsNoTextAndNoJSON(t *testing.T) {
	for e, want := range map[Encoding][]string{
		Base64: {``, `"value_base64":"",`, `"value_base64":"bnVsbA==",`, `"value_base64":"/w==",`},
		Text:   {``, `"value":"",`, `"value":"null",`, `"value_base64":"/w==",`},
		JSON:   {``, `"value_base64":"",`, `"value":null,`, `"value_base64":"/w==",`},
	} {
		for i, v := range [][]byte{nil, {}, []byte("null"), {0xff}} {
			got := shown(e, consumer.Record{Topic: "t", Value: v, Timestamp: time.UnixMilli(0)})
			require.Contains(t, got, `"attempt":1,`+want[i]+`"headers":[]`, "%s, %q", e, v)
			require.True(t, json.Valid([]byte(got)))
		}
	}
}

func TestTextIsEscaped(t *testing.T) {
	for _, s := range []string{"", "plain", "tab\t", "quote\"", `back\slash`, "null\x00", "<a&b>", "\u2028", "bad\xff"} {
		var back string
		require.NoError(t, json.Unmarshal(text(nil, s), &back), s)
		if s == "bad\xff" {
			s = "bad\ufffd"
		}
		require.Equal(t, s, back)
	}
}

// The schema in the documentation names the fields that there are.
func TestTheSchemaIsWhatIsSent(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", "sidecar.schema.json"))
	require.NoError(t, err)
	var schema struct {
		Defs map[string]struct {
			Properties map[string]any `json:"properties"`
		} `json:"$defs"`
	}
	require.NoError(t, json.Unmarshal(raw, &schema))
	fields := func(of string) (out []string) {
		for name := range schema.Defs[of].Properties {
			out = append(out, name)
		}
		return out
	}
	keys := func(m map[string]any) (out []string) {
		for name := range m {
			out = append(out, name)
		}
		return out
	}
	full := consumer.Record{Key: []byte("k"), Value: []byte("v"), Headers: []consumer.Header{{Key: "h", Value: []byte("v")}}}
	var base, plain map[string]any
	require.NoError(t, json.Unmarshal([]byte(shown(Base64, full)), &base))
	require.NoError(t, json.Unmarshal([]byte(shown(Text, full)), &plain))
	require.ElementsMatch(t, keys(base), fields("delivery"))
	record := func(m map[string]any) map[string]any { return m["records"].([]any)[0].(map[string]any) }
	both := record(base)
	for k, v := range record(plain) {
		both[k] = v
	}
	require.ElementsMatch(t, keys(both), fields("record"))

	asked := func(v any) []string {
		b, err := json.Marshal(v)
		require.NoError(t, err)
		var m map[string]any
		require.NoError(t, json.Unmarshal(b, &m))
		return keys(m)
	}
	require.ElementsMatch(t, asked(answerBody{}), fields("answer"))
	require.ElementsMatch(t, asked(result{AfterMS: 1, Reason: "r"}), fields("result"))
	require.ElementsMatch(t, asked(order{}), fields("produce"))
	require.ElementsMatch(t, asked(ordered{}), fields("produced_record"))
	require.ElementsMatch(t, asked(produced{Cluster: "c", Error: "e", InDoubt: true}), fields("produced"))
}
