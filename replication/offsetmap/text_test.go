package offsetmap

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/starferry/starferry"
)

func anyHead(TextHead) error { return nil }

func asText(t require.TestingT, maps ...*Map) string {
	var b bytes.Buffer
	w := NewTextWriter(&b, TextHead{"old-new", "old", "new"})
	for i, m := range maps {
		tp := starferry.TopicPartition{Topic: "orders", Partition: starferry.Partition(i)}
		require.NoError(t, w.Map(TextLane{Partition: tp, TargetTopic: "orders", SourceID: "id1"}, m))
	}
	require.NoError(t, w.Close())
	return b.String()
}

func fromText(text string) (lanes []TextLane, maps []*Map, err error) {
	err = ReadText(strings.NewReader(text), anyHead, func(l TextLane, m *Map) error {
		lanes, maps = append(lanes, l), append(maps, m)
		return nil
	})
	return lanes, maps, err
}

// What comes back from a text agrees with the slice that went in.
func TestATextAgreesWithASlice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var os []*oracle
		var ms []*Map
		for range rapid.IntRange(0, 3).Draw(t, "lanes") {
			o, m := begin(t), &Map{}
			require.NoError(t, m.Reset(o.first, o.end))
			for range rapid.IntRange(0, 3).Draw(t, "rounds") {
				grow(t, o, m)
			}
			os, ms = append(os, o), append(ms, m)
		}
		text := asText(t, ms...)
		lanes, back, err := fromText(text)
		require.NoError(t, err, text)
		require.Len(t, back, len(ms))
		for i, o := range os {
			require.Equal(t, starferry.Partition(i), lanes[i].Partition.Partition)
			require.Equal(t, []string{"id1", ""}, []string{lanes[i].SourceID, lanes[i].TargetID})
			// What is forgotten is not in the text, so nothing is known of copies before it.
			for s := o.startSource; s < o.next()+3; s++ {
				require.Equal(t, ms[i].Forward(s).Offset, back[i].Forward(s).Offset, "%d\n%s", s, text)
			}
		}
		require.Equal(t, text, asText(t, back...), "the text of a text is itself")
	})
}

const example = `starferry map 1
link old-new old new
lane orders/0 orders id1 -
start 100 40
run 100 41 10
hole 110 1 control
unknown 111 2
run 113 55 2
next 115 58
sum 41d64640
end 1
`

func TestTheTextOfAnExample(t *testing.T) {
	var m Map
	require.NoError(t, m.Reset(100, 40))
	require.NoError(t, m.Append(Run{100, 41, 10}))
	require.NoError(t, m.Hole(110, 111, starferry.Control))
	require.NoError(t, m.MarkUnknown(111, 113))
	require.NoError(t, m.Append(Run{113, 55, 2}))
	require.NoError(t, m.Pass(58))
	require.Equal(t, example, asText(t, &m))
	_, _, err := fromText("# a note\n\n" + strings.ReplaceAll(example, "hole", "# another\nhole"))
	require.NoError(t, err, "comments say nothing")
}

// Each line that is taken away, doubled or changed is refused, with its number.
func TestTextsThatWereChangedAreRefused(t *testing.T) {
	lines := strings.SplitAfter(strings.TrimSuffix(example, "\n"), "\n")
	for i := range lines {
		for name, text := range map[string]string{
			"missing": strings.Join(lines[:i], "") + strings.Join(lines[i+1:], ""),
			"cut off": strings.Join(lines[:i], ""),
			"twice":   strings.Join(lines[:i+1], "") + strings.Join(lines[i:], ""),
			"changed": strings.Join(lines[:i], "") + strings.ReplaceAll(lines[i], "1", "7") + "\n" + strings.Join(lines[i+1:], ""),
		} {
			if name == "changed" && !strings.Contains(lines[i], "1") {
				continue
			}
			_, _, err := fromText(text)
			var wrong *TextError
			require.True(t, errors.As(err, &wrong), "%s line %d: %v", name, i+1, err)
			require.InDelta(t, i+1, wrong.Line, 8)
		}
	}
	for text, want := range map[string]string{
		"hello\n": `line 1: this is no map`,
		strings.Replace(example, "run 113 55 2", "run 113 50 2", 1):       "line 8: append run at source 113: target 50: does not follow",
		strings.Replace(example, "run 113 55 2", "run 114 55 2", 1):       "line 8: append run at source 114: does not follow the map, which goes on at source 113",
		strings.Replace(example, "control", "moonlight", 1):               `line 6: add hole at source 110: "moonlight" is no reason of a hole`,
		strings.Replace(example, "unknown 111 2", "unknown 111 -2", 1):    `line 7: "-2" is no offset or count`,
		strings.Replace(example, "unknown 111 2", "unknown 111 0", 1):     `line 7: 0 offsets`,
		strings.Replace(example, "sum 41d64640", "sum 00000000", 1):       "line 10: want sum 41d64640",
		strings.Replace(example, "end 1", "end 2", 1):                     "line 11: 1 lanes came before it",
		strings.Replace(example, "orders/0 ", "orders ", 1):               "line 3: parse partition",
		strings.Replace(example, "start 100 40", "start 100", 1):          "line 4: want start",
		strings.Replace(example, "run 100", strings.Repeat("x", 9999), 1): "line 5: the text is cut off",
	} {
		_, _, err := fromText(text)
		require.ErrorContains(t, err, want)
	}
}

func FuzzReadText(f *testing.F) {
	f.Add(example)
	f.Add(strings.Replace(example, "run 113 55 2", "run 113 9223372036854775807 2", 1))
	f.Add(strings.Replace(example, "unknown 111 2", "unknown 111 9223372036854775807", 1))
	f.Fuzz(func(t *testing.T, text string) {
		lanes, maps, err := fromText(text)
		if err != nil {
			return
		}
		var b bytes.Buffer
		w := NewTextWriter(&b, TextHead{"l", "a", "b"})
		for i, m := range maps {
			require.NoError(t, w.Map(lanes[i], m))
		}
		require.NoError(t, w.Close())
		_, again, err := fromText(b.String())
		require.NoError(t, err)
		require.Len(t, again, len(maps))
	})
}

func FuzzKeysAndHeaders(f *testing.F) {
	k := key(3)
	prefix, err := k.prefix()
	require.NoError(f, err)
	h := header{generation: 2, startSource: 9, startTarget: 8, first: 5, base: 4, uncertain: true, before: 77}
	value := h.encode(headerKey(prefix))
	f.Add(headerKey(prefix), value[:len(value)-sumSize])
	f.Add(blockKey(prefix, 1, 5), []byte{storeVersion})
	f.Fuzz(func(t *testing.T, key, content []byte) {
		if k, prefix, ok := parsePrefix(key); ok {
			again, err := k.prefix()
			if err == nil {
				require.Equal(t, prefix, again)
				parseBlockKey(prefix, key)
			}
		}
		value, _ := sealed(key, content)
		h, err := decodeHeader(key, value)
		if err != nil {
			return
		}
		back, err := decodeHeader(key, h.encode(key))
		require.NoError(t, err)
		require.Equal(t, h, back)
	})
}
