package journal_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry/agent/embednats"
	"github.com/starferry/starferry/agent/journal"
	"github.com/starferry/starferry/scripting"
)

type world struct {
	t      *testing.T
	dir    string
	server *embednats.Server
	conn   *nats.Conn
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: t.TempDir()}
	t.Cleanup(w.stop)
	return w
}

func (w *world) start() *journal.Journal {
	w.t.Helper()
	var err error
	w.server, err = embednats.Open(embednats.Options{Dir: w.dir, Listen: "127.0.0.1:0", SyncAlways: true})
	require.NoError(w.t, err)
	return w.another()
}

// another opens the journal as a further process would.
func (w *world) another() *journal.Journal {
	w.t.Helper()
	conn, err := nats.Connect(w.server.URL())
	require.NoError(w.t, err)
	w.t.Cleanup(conn.Close)
	w.conn = conn
	js, err := jetstream.New(conn)
	require.NoError(w.t, err)
	j, err := journal.Open(ctx(w.t), js)
	require.NoError(w.t, err)
	return j
}

func (w *world) stop() {
	if w.server != nil {
		w.conn.Close()
		w.server.Close()
		w.server = nil
	}
}

func ctx(t *testing.T) context.Context {
	c, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return c
}

func record(run string, kind scripting.Kind, text string) scripting.Record {
	return scripting.Record{Run: run, Kind: kind, Text: text, At: 1}
}

func texts(records []scripting.Record) (out []string) {
	for _, r := range records {
		out = append(out, r.Text)
	}
	return out
}

func TestRecordsComeBackInOrderAndByRun(t *testing.T) {
	j := newWorld(t).start()
	a1, err := j.Append(ctx(t), 0, record("b.run", scripting.Started, "a1"))
	require.NoError(t, err)
	_, err = j.Append(ctx(t), 0, record("a run > *", scripting.Started, "other"))
	require.NoError(t, err)
	a2, err := j.Append(ctx(t), a1, record("b.run", scripting.Intent, "a2"))
	require.NoError(t, err)
	require.Greater(t, a2, a1)

	got, err := j.Read(ctx(t), "b.run")
	require.NoError(t, err)
	require.Equal(t, []string{"a1", "a2"}, texts(got))
	require.Equal(t, []uint64{a1, a2}, []uint64{got[0].Seq, got[1].Seq})

	runs, err := j.Runs(ctx(t))
	require.NoError(t, err)
	require.Equal(t, []string{"b.run", "a run > *"}, runs, "oldest first, names as given")

	got, err = j.Read(ctx(t), "never heard of")
	require.NoError(t, err)
	require.Empty(t, got)
}

func TestAStaleWriterIsFenced(t *testing.T) {
	w := newWorld(t)
	first := w.start()
	second := w.another()
	seq, err := first.Append(ctx(t), 0, record("r", scripting.Started, "first"))
	require.NoError(t, err)
	_, err = second.Append(ctx(t), seq, record("r", scripting.Resumed, "taken over"))
	require.NoError(t, err)

	_, err = first.Append(ctx(t), seq, record("r", scripting.Intent, "stale"))
	require.ErrorIs(t, err, scripting.ErrFenced)
	_, err = first.Append(ctx(t), 0, record("r", scripting.Started, "again"))
	require.ErrorIs(t, err, scripting.ErrFenced)

	got, err := first.Read(ctx(t), "r")
	require.NoError(t, err)
	require.Equal(t, []string{"first", "taken over"}, texts(got), "nothing of the stale writer was written")
}

func TestOfManyWritersOneWins(t *testing.T) {
	w := newWorld(t)
	j := w.start()
	const writers = 8
	var wg sync.WaitGroup
	errs := make([]error, writers)
	for i := range writers {
		wg.Go(func() { _, errs[i] = j.Append(ctx(t), 0, record("r", scripting.Started, fmt.Sprint(i))) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
			continue
		}
		require.ErrorIs(t, err, scripting.ErrFenced)
	}
	require.Equal(t, 1, won)
	got, err := j.Read(ctx(t), "r")
	require.NoError(t, err)
	require.Len(t, got, 1)
}

func TestAJournalOutlivesItsServer(t *testing.T) {
	w := newWorld(t)
	j := w.start()
	seq, err := j.Append(ctx(t), 0, record("r", scripting.Started, "before"))
	require.NoError(t, err)
	w.stop()

	j = w.start()
	got, err := j.Read(ctx(t), "r")
	require.NoError(t, err)
	require.Equal(t, []string{"before"}, texts(got))
	_, err = j.Append(ctx(t), seq, record("r", scripting.Resumed, "after"))
	require.NoError(t, err)
}

// NATS is emptied under an agent that runs: old runs are lost, new ones go on.
func TestAStreamThatHasVanishedIsMadeAgain(t *testing.T) {
	for name, first := range map[string]func(*journal.Journal) error{
		"by an append": func(j *journal.Journal) error {
			_, err := j.Append(ctx(t), 0, record("b", scripting.Started, "first"))
			return err
		},
		"by a look at a run": func(j *journal.Journal) error { _, err := j.Last(ctx(t), "b"); return err },
		"by a list":          func(j *journal.Journal) error { _, err := j.Runs(ctx(t)); return err },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			j := w.start()
			after, err := j.Append(ctx(t), 0, record("a", scripting.Started, "old"))
			require.NoError(t, err)
			js, err := jetstream.New(w.conn)
			require.NoError(t, err)
			require.NoError(t, js.DeleteStream(ctx(t), journal.StreamName))

			require.NoError(t, first(j))
			_, err = j.Append(ctx(t), after, record("a", scripting.Started, "goes on"))
			require.ErrorIs(t, err, scripting.ErrFenced, "a run whose beginning is lost cannot go on")
			_, err = j.Append(ctx(t), 0, record("c", scripting.Started, "new"))
			require.NoError(t, err)
			records, err := j.Read(ctx(t), "c")
			require.NoError(t, err)
			require.Equal(t, []string{"new"}, texts(records))
		})
	}
}

func TestWithoutNATSAnAppendWaitsForItsContextAndSaysSo(t *testing.T) {
	w := newWorld(t)
	j := w.start()
	w.server.Close()
	c, cancel := context.WithTimeoutCause(t.Context(), 500*time.Millisecond, errors.New("operator lost patience"))
	defer cancel()
	_, err := j.Append(c, 0, record("r", scripting.Started, "x"))
	require.Error(t, err)
	require.NotErrorIs(t, err, scripting.ErrFenced)
	require.ErrorContains(t, err, "append to journal of r")
}

// A journal of more records than one delivery holds comes back whole.
func TestALongJournal(t *testing.T) {
	w := newWorld(t)
	j := w.start()
	var seq uint64
	var err error
	const records = 1000
	for i := range records {
		seq, err = j.Append(ctx(t), seq, record("r", scripting.Done, fmt.Sprint(i)))
		require.NoError(t, err)
	}
	got, err := j.Read(ctx(t), "r")
	require.NoError(t, err)
	require.Len(t, got, records)
	require.Equal(t, "999", got[999].Text)
}

// What comes back is the whole journal or an error: a record that is gone from the
// middle, as from a stream that was restored in part, does not make a shorter one.
func TestAGapIsAnErrorAndNotAShorterJournal(t *testing.T) {
	w := newWorld(t)
	j := w.start()
	js, err := jetstream.New(w.conn)
	require.NoError(t, err)
	stream, err := js.Stream(ctx(t), journal.StreamName)
	require.NoError(t, err)
	var seq uint64
	for _, text := range []string{"a", "b", "c"} {
		seq, err = j.Append(ctx(t), seq, record("r", scripting.Done, text))
		require.NoError(t, err)
		_, err = j.Append(ctx(t), 0, record("other "+text, scripting.Done, text))
		require.NoError(t, err)
	}
	got, err := j.Read(ctx(t), "r")
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b", "c"}, texts(got), "records of other runs between them are no gap")

	config := stream.CachedInfo().Config
	config.DenyDelete = false // which a server takes for a new stream only
	restored(t, js, config)
	stream, err = js.Stream(ctx(t), journal.StreamName)
	require.NoError(t, err)
	require.NoError(t, stream.DeleteMsg(ctx(t), 3))
	got, err = j.Read(ctx(t), "r")
	require.ErrorContains(t, err, "record 5 follows record 3, and 1 was delivered before it")
	require.Empty(t, got)
}

// restored makes the stream anew with what it held, and lets records be deleted.
func restored(t *testing.T, js jetstream.JetStream, config jetstream.StreamConfig) {
	t.Helper()
	old, err := js.Stream(ctx(t), config.Name)
	require.NoError(t, err)
	var all []*nats.Msg
	for seq := uint64(1); seq <= old.CachedInfo().State.LastSeq; seq++ {
		m, err := old.GetMsg(ctx(t), seq)
		require.NoError(t, err)
		all = append(all, &nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data})
	}
	require.NoError(t, js.DeleteStream(ctx(t), config.Name))
	_, err = js.CreateStream(ctx(t), config)
	require.NoError(t, err)
	for _, m := range all {
		_, err := js.PublishMsg(ctx(t), m)
		require.NoError(t, err)
	}
}
