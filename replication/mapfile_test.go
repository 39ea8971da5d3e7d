package replication

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/replication/offsetmap"
)

func (w *world) export(topics ...starferry.Topic) string {
	w.t.Helper()
	var b bytes.Buffer
	require.NoError(w.t, w.client.ExportMap(context.Background(), w.name(), topics, &b))
	return b.String()
}

func (w *world) importText(text string) ([]Imported, error) {
	return w.client.ImportMap(context.Background(), w.name(), strings.NewReader(text))
}

// A map that was exported fills the lane that has forgotten, page by page, and
// the next owner gets it from the snapshot.
func TestAnExportedMapComesBack(t *testing.T) {
	w := newWorld(t)
	w.client.page = 7
	topic := w.topic(2, nil)
	tp := starferry.TopicPartition{Topic: topic}
	a := w.shard("a", t.TempDir(), eager)
	w.link(topic)
	w.many(topic, 0, 100)
	w.caughtUp()
	source, target := w.pairs(topic)
	text := w.export()
	require.Contains(t, text, "\nlane "+string(topic)+"/0 ")
	require.Contains(t, text, "\nend 2\n")

	c, _ := a.link(w.name())
	l, _ := c.lane(tp)
	require.NoError(t, l.omap.Forget(starferry.Offset(source[len(source)/2].Offset)))
	before := w.answer(starferry.Forward, starferry.Cut{tp: {Next: 0}}).Answers[tp]
	require.Equal(t, starferry.BeforeStart, before.Status)
	done, err := w.importText(text)
	require.NoError(t, err)
	require.Equal(t, int64(source[len(source)/2].Offset), done[0].Filled)
	require.Zero(t, done[1].Filled)
	w.exactMap(topic, 0, source, target)
	require.Equal(t, text, w.export(), "the map is what it was")
	done, err = w.importText(text)
	require.NoError(t, err)
	require.Zero(t, done[0].Filled, "again changes nothing")

	w.many(topic, 5000, 1)
	w.caughtUp()
	require.NoError(t, a.Close())
	w.shard("b", t.TempDir(), eager)
	w.owned("b")
	w.exactMap(topic, 0, source, target)
}

// What contradicts the lane, or is of another life, another link or too much, is
// refused with the line that says so, and nothing changes.
func TestTextsThatDoNotFitAreRefused(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	w.shard("a", t.TempDir())
	w.link(topic)
	w.put(topic, 0, numbered(0, 20)...)
	w.caughtUp()
	text := w.export(topic)
	for name, c := range map[string]struct{ old, new, want string }{
		"another link":      {"link " + string(w.name()), "link else", "line 2: the text is of link else"},
		"another cluster":   {" old new\n", " old older\n", "line 2: the text is of link"},
		"another topic":     {"lane " + string(topic), "lane nothere", "line 3: link " + string(w.name()) + " does not copy topic nothere"},
		"a shifted copy":    {"run 0 1 20", "run 0 2 20", "that its copy is at target 2, and the lane that its copy is at target 1"},
		"a hole":            {"run 0 1 20", "hole 0 20 deleted", "that it has no copy (deleted), and the lane that its copy is at target 1"},
		"more than copied":  {"run 0 1 20", "run 0 1 21", "has copied up to 20"},
		"an unknown reason": {"run 0 1 20", "hole 0 20 moonlight", "line 5:"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, text, c.old)
			_, err := w.importText(resum(strings.Replace(text, c.old, c.new, 1)))
			require.ErrorContains(t, err, c.want)
			var wrong *offsetmap.TextError
			require.True(t, errors.As(err, &wrong))
			require.Equal(t, text, w.export())
		})
	}
	t.Run("another life", func(t *testing.T) {
		lane := strings.Split(text, "\n")[2]
		words := strings.Split(lane, " ")
		words[3] = "0123456789abcdef0123456789abcdef"
		_, err := w.importText(resum(strings.Replace(text, lane, strings.Join(words, " "), 1)))
		require.ErrorContains(t, err, "was deleted and made again")
	})
	require.ErrorContains(t, w.client.ExportMap(context.Background(), w.name(), []starferry.Topic{"nothere"}, &bytes.Buffer{}), "topic nothere is not on the link")
}

// resum corrects the ends and the sums of a text that was changed on purpose.
func resum(text string) string {
	for range 4 {
		err := offsetmap.ReadText(strings.NewReader(text), func(offsetmap.TextHead) error { return nil },
			func(offsetmap.TextLane, *offsetmap.Map) error { return nil })
		var wrong *offsetmap.TextError
		if !errors.As(err, &wrong) {
			return text
		}
		lines := strings.Split(text, "\n")
		_, right, ok := strings.Cut(wrong.Text, "want ")
		right, _, _ = strings.Cut(right, ":")
		if strings.HasPrefix(right, "next ") {
			right = strings.Replace(right, " and a target offset from ", " ", 1)
			right = strings.TrimSuffix(right, " on")
		}
		if !ok || wrong.Line > len(lines) {
			return text
		}
		lines[wrong.Line-1] = right
		text = strings.Join(lines, "\n")
	}
	return text
}

// Maps on their way in are bounded, in number, size and time, and in order.
func TestFillingsAreBounded(t *testing.T) {
	var f fillings
	now := time.Now()
	page := func(session string, n int, segments ...mapSegment) error {
		_, err := f.take(fillRequest{Session: session, Page: n, Segments: segments}, now)
		return err
	}
	for _, s := range []string{"a", "b", "c", "d"} {
		require.NoError(t, page(s, 0, mapSegment{S: 0, N: 1}))
	}
	require.ErrorContains(t, page("e", 0), "4 maps are being imported already")
	require.ErrorContains(t, page("a", 2), "page 2 came where page 1 was to follow")
	require.NoError(t, page("e", 0), "the failed one has gone")
	require.ErrorIs(t, page("b", 1, mapSegment{S: 5, N: 1}), offsetmap.ErrOrder)
	now = now.Add(2 * time.Minute)
	require.NoError(t, page("f", 0, make([]mapSegment, 0)...))
	require.Len(t, f.open, 1, "what does not go on is forgotten")
	require.Zero(t, f.segments)
	require.ErrorContains(t, page("f", 1, mapSegment{S: 0, N: 1, K: "moonlight"}), "no reason of a hole")
}
