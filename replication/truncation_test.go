package replication

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/replication/batch"
)

// A source that answers with the end of the history it shares with what was read
// from it (KIP-595) stops the lane, which names both.
func TestATruncatedSourceIsTold(t *testing.T) {
	w, src, _ := faulty(t)
	topic := w.topic(1, nil)
	w.put(topic, 0, numbered(0, 5)...)
	w.shard("s", t.TempDir())
	w.link(topic)
	w.caughtUp()
	src.ControlKey(int16(kmsg.Fetch), func(r kmsg.Request) (kmsg.Response, error, bool) {
		src.KeepControl()
		req := r.(*kmsg.FetchRequest)
		if len(req.Topics) == 0 || req.Topics[0].Partitions[0].LastFetchedEpoch < 0 {
			return nil, nil, false
		}
		p := kmsg.NewFetchResponseTopicPartition()
		p.Partition, p.DivergingEpoch.Epoch, p.DivergingEpoch.EndOffset = 0, 3, 4
		rt := kmsg.NewFetchResponseTopic()
		rt.Topic, rt.Partitions = string(topic), append(rt.Partitions, p)
		resp := req.ResponseKind().(*kmsg.FetchResponse)
		resp.SessionID, resp.Topics = req.SessionID, append(resp.Topics, rt)
		return resp, nil, true
	})
	w.put(topic, 0, numbered(5, 1)...)
	require.Eventually(t, func() bool { return w.status().Lanes[0].State == Stopped }, patience, tick)
	for _, word := range []string{string(topic) + "/0 of old was truncated at offset 4", "had been fetched", "compare the two"} {
		require.Contains(t, w.status().Lanes[0].Reason, word)
	}
}

// A source that lost its last records and has grown past the copy since, as
// after an unclean election, is found out by the epochs of its leaders.
func TestASourceThatLostRecordsAndGrewIsFoundOut(t *testing.T) {
	if !kafkatest.Real() {
		t.Skip("needs a broker with a log on disk: set STARFERRY_KAFKA")
	}
	dir := t.TempDir()
	b := kafkatest.RealBroker(t, map[string]string{"log.dirs": dir})
	_, tgt := kafkatest.Fake(t, "new")
	w := worldOf(t, starferry.Cluster{Name: "old", Brokers: []string{b.Addr}}, tgt)
	topic := w.topic(1, nil)
	w.put(topic, 0, numbered(0, 5)...)
	w.put(topic, 0, numbered(5, 5)...)
	w.shard("s", t.TempDir())
	w.link(topic)
	w.caughtUp()
	_, err := w.client.Pause(t.Context(), w.name())
	require.NoError(t, err)
	require.Eventually(t, func() bool { return w.status().Lanes[0].State == Paused }, patience, tick)

	require.NoError(t, b.Stop())
	loseLastBatch(t, filepath.Join(dir, string(topic)+"-0", "00000000000000000000.log"))
	require.NoError(t, b.Start(t.Context()))
	w.wire.Forget(topic)
	w.put(topic, 0, numbered(100, 20)...)
	require.Len(t, kafkatest.Records(t, w.src, topic, 0), 25, "the broker lost nothing: the test is void")

	_, err = w.client.Resume(t.Context(), w.name())
	for _, word := range []string{"was truncated", "at offset 5", "up to 9", "compare the two"} {
		require.ErrorContains(t, err, word)
	}
	w.sameRecords(topic, 0, numbered(0, 10))
}

// loseLastBatch cuts the last batch off a segment, with what tells of it.
func loseLastBatch(t *testing.T, segment string) {
	set, err := os.ReadFile(segment)
	require.NoError(t, err)
	whole, last := len(set), 0
	for rest := set; len(rest) > 0; {
		last = whole - len(rest)
		if _, rest, err = batch.Next(rest); err != nil {
			break
		}
	}
	require.Positive(t, last)
	require.NoError(t, os.Truncate(segment, int64(last)))
	for _, f := range []string{"*.snapshot", "*.index", "*.timeindex"} {
		found, err := filepath.Glob(filepath.Join(filepath.Dir(segment), f))
		require.NoError(t, err)
		for _, name := range found {
			require.NoError(t, os.Remove(name))
		}
	}
}
