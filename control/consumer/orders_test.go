package consumer_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/control/desired"
)

// words is a log in memory.
type words struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (w *words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

func (w *words) has(parts ...string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, line := range strings.Split(w.text.String(), "\n") {
		all := true
		for _, p := range parts {
			all = all && strings.Contains(line, p)
		}
		if all {
			return true
		}
	}
	return false
}

// Guarantee 6: A plan changes nothing, a hold ends by itself, and what carries an older epoch changes nothing.
//
// Whoever can write a group's key gives it its old orders again, those of another
// group, and rubbish: the group stays where it lives, goes on, and says so.
func TestWhatIsForgedOrStaleMovesNothing(t *testing.T) {
	e := newEstate(t, 2)
	h, withNATS := e.withNATS()
	var said words
	var nc *nats.Conn
	e.open("a", withNATS, func(c *consumer.Config) {
		nc = c.NATS
		c.Logger = slog.New(slog.NewTextHandler(&said, nil))
	})
	h.put(func(p *control.Placement) { p.Epoch = 1 })
	h.prepare(1, e.new.Name)
	cut := h.drain(1)
	h.finish(1, e.new.Name, cut)
	there := h.at

	handled := 0
	goesOn := func(what string, heard func() bool) {
		require.Eventually(t, heard, patience, 5*time.Millisecond, what)
		e.produce(0, 5, e.old, e.new)
		handled += 5
		e.settled(handled)
		for _, l := range h.leases() {
			require.Equal(t, e.new.Name, l.Home, what)
			require.Equal(t, there.Epoch, l.HomeEpoch, what)
		}
	}
	h.put(func(p *control.Placement) {
		*p = there
		p.Epoch, p.Phase, p.Active, p.Target, p.Standby, p.By = 1, control.Drain, e.new.Name, e.old.Name, "", "mallory"
	})
	goesOn("an order of an older epoch", func() bool {
		return said.has("refuses an order", "its epoch 1 is older than 2", "mallory")
	})

	h.put(func(p *control.Placement) { // the order to decide of this very epoch, once more
		*p = there
		p.Phase, p.Active, p.Target, p.Actor = control.Decide, e.old.Name, e.new.Name, h.actor(e.new.Name)
	})
	seen := h.rev
	goesOn("an order that was carried out", func() bool {
		for _, l := range h.leases() {
			if l.Revision == seen {
				return l.Decided == nil || l.Decided.Revision != seen
			}
		}
		return false
	})

	key := "$KV." + desired.DesiredBucket + "." + desired.EncodeKey(string(e.group)) + ".placement"
	for text, want := range map[string]string{
		`{"v":1,"group":"another","epoch":99,"phase":"steady","active":"` + string(e.old.Name) + `","at":1}`: "it says that it belongs under another.placement",
		`{"v":1,"group":"` + string(e.group) + `","epoch":99,"phase":"drain","active":"x","target":"x"}`:     "target is",
		"\x00\x01": "holds no JSON of ours",
	} {
		_, err := nc.Request(key, []byte(text), patience)
		require.NoError(t, err)
		goesOn(want, func() bool { return said.has("read desired state; keeps what it has", want) })
	}
}
