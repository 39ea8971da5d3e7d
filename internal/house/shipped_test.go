package house

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/scripting"
	"github.com/starferry/starferry/scripts"
)

// shelf is the scripts that ship, and what has been called by those that ran.
type shelf struct {
	*house
	mu     *sync.Mutex
	ran    map[string]bool
	called map[string]bool
}

// ships runs a shipped script to its end. OLD and NEW are the clusters.
func (h *shelf) ships(name string, params ...string) {
	h.t.Helper()
	args := []string{"run", "--json", filepath.Join("..", "..", "scripts", name)}
	for _, p := range params {
		args = append(args, "-p", strings.NewReplacer("OLD", string(h.old.Name), "NEW", string(h.new.Name)).Replace(p))
	}
	s := h.starferry(args...)
	require.Zero(h.t, s.exit, "%s\n%s%s", name, s.out, s.err)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ran[name] = true
	for line := range strings.Lines(s.out) {
		var e scripting.Event
		if json.Unmarshal([]byte(line), &e) == nil && e.Error == "" {
			h.called[e.Builtin] = true
		}
	}
}

// Every script that ships runs from its beginning to its end, and those that are
// there to move, check and steer groups are all used by one of them.
func TestEveryShippedScriptRuns(t *testing.T) {
	h := &shelf{build(t, ""), &sync.Mutex{}, map[string]bool{}, map[string]bool{}}
	h.agent()
	h.shards(1)
	t.Run("stories", func(t *testing.T) {
		for name, story := range map[string]func(*shelf){
			"moves": moves, "stuck": stuck, "hot": hot,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				mine := *h.house
				mine.t = t
				story(&shelf{&mine, h.mu, h.ran, h.called})
			})
		}
	})
	files, err := fs.Glob(scripts.FS, "*.star")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		require.True(t, h.ran[f], "%s ships and is run by no story here", f)
	}
	for _, b := range []string{"replicate", "translate_offset", "switch_consumer", "assert_lag", "skip", "throttle", "redistribute"} {
		require.True(t, h.called[b], "no shipped script calls %s", b)
	}
}

// moves takes groups along, one, several, and one whose clients are stopped for
// it; then producers. They share a link, so that one goes after the other; what
// leads back for the producers' topic leads back for none of the groups'.
func moves(h *shelf) {
	one, two := h.busy(1, 2), h.busy(1, 2)
	h.ships("move_group.star", "group="+string(one.group), "source=OLD", "target=NEW", "max_lag=400")
	one.consumesOn(h.new)
	one.intact()
	h.ships("move_groups.star", "match="+string(two.group), "source=OLD", "target=NEW", "max_lag=400", "pause=100ms")
	two.consumesOn(h.new)
	two.intact()
	outside := h.service(1, 2)
	require.NoError(h.t, outside.produce(""))
	com := wire.Commit{Group: outside.group, Generation: -1, Offsets: map[starferry.TopicPartition]wire.Committed{}}
	for p := range 2 {
		com.Offsets[starferry.TopicPartition{Topic: outside.topics[0], Partition: starferry.Partition(p)}] = wire.Committed{Offset: 1, LeaderEpoch: -1}
	}
	require.NoError(h.t, outside.cluster.Commit(h.t.Context(), com))
	h.ships("move_external_group.star", "group="+string(outside.group), "source=OLD", "target=NEW", "max_lag=400", "started_within=100ms")
	movesProducers(h)
}

func movesProducers(h *shelf) {
	topic := kafkatest.Topic(h.t, h.old, 2, nil)
	p := h.press("p", topic)
	p.writesOn(h.old)
	h.ships("move_producers.star", "topic="+string(topic), "source=OLD", "target=NEW", "watch=300ms")
	p.writesOn(h.new)
	p.stop()
	h.inOrderOn(h.new, topic, 2, p)
}

// stuck is a group whose handler stands at its first record.
func stuck(h *shelf) {
	s := h.service(1, 1)
	for range 5 {
		require.NoError(h.t, s.produce(""))
	}
	release := s.hold()
	s.instance("stuck")
	first := fmt.Sprintf("%s/0", s.topics[0])
	h.stands(s, func(st builtins.GroupState) bool { return len(st.Partitions) == 1 && st.Partitions[0].Blocked == 0 })
	h.ships("throttle_group.star", "group="+string(s.group), "rate=1000/s", "reason=INC-1")
	h.ships("skip_record.star", "group="+string(s.group), "at="+first+"@0", "reason=INC-1")
	h.stands(s, func(st builtins.GroupState) bool { return st.Partitions[0].Blocked == 1 })
	h.ships("unblock_group.star", "group="+string(s.group), "rate=1000/s", "reason=INC-1")
	release()
	require.Eventually(h.t, func() bool { lost, _ := s.tally(); return lost == 2 }, patience, poll, "three of five are handled, two were passed")
}

// hot is a group that is busy while a partition's backlog grows.
func hot(h *shelf) {
	s := h.service(1, 2)
	s.instance("hot-1")
	s.instance("hot-2")
	s.members(2)
	require.NoError(h.t, s.produce(""))
	require.Eventually(h.t, func() bool { lost, _ := s.tally(); return lost == 0 }, patience, poll)
	release := s.hold()
	for range 100 {
		require.NoError(h.t, s.produce(""))
	}
	h.stands(s, func(st builtins.GroupState) bool { return len(st.Partitions) == 2 && st.Partitions[0].Committed == 1 })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h.stands(s, func(st builtins.GroupState) bool {
			return st.Settings.Redistribution != nil && st.Settings.Redistribution.Phase == "move"
		})
		release()
	}()
	h.ships("spread_partition.star", "group="+string(s.group), "partition="+string(s.topics[0])+"/0", "at_least=50", "stuck=10m", "rate=5000/s", "reason=INC-1")
	<-ended
	s.intact()
}

// stands waits until a group stands as it should.
func (h *shelf) stands(s *service, ok func(builtins.GroupState) bool) {
	h.t.Helper()
	require.Eventually(h.t, func() bool {
		var st builtins.GroupState
		said := h.starferry("state", string(s.group), "--json")
		return said.exit == 0 && json.Unmarshal([]byte(said.out), &st) == nil && ok(st)
	}, patience, 50*time.Millisecond)
}
