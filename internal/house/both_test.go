package house

import (
	"sync"
	"testing"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
)

// also writes records of its own to the same topics on the new cluster, until
// the returned function is called. They count as the service's.
func (s *service) also() (quiet func()) {
	far := &service{h: s.h, topics: s.topics, partitions: s.partitions, cluster: kafkatest.Open(s.h.t, s.h.new)}
	stop := far.every20ms("far")
	quiet = sync.OnceFunc(func() {
		stop()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.wrote += far.wrote
	})
	s.h.t.Cleanup(quiet)
	return quiet
}

// Guarantee 4: One commit decides where a group lives; after it the way back is
// exact, also after producers moved. A group goes to and fro while both clusters
// are written, over two links, and names either of them.
func TestAGroupMovesWhileBothClustersAreWritten(t *testing.T) {
	t.Parallel()
	h := build(t, "")
	h.agent()
	h.shards(2)
	s := h.busy(1, 3)
	topic := string(s.topics[0])
	there, back := "there-"+h.id, "back-"+h.id
	h.says(h.run("links.star", `
def links(m):
    there = replicate(["`+topic+`"], source = OLD, target = NEW, link = "`+there+`")
    back = replicate(["`+topic+`"], source = NEW, target = OLD, link = "`+back+`")
    assert_lag(there, max = 400, within = "30s")
    assert_lag(back, max = 400, within = "30s")

m = migration(name = "links", phases = [phase("links", do = links)])
`), 0, "is finished")
	quiet := s.also()
	move := func(name, source, target, link string, to starferry.Cluster) {
		t.Helper()
		h.says(h.run(name, `
def switch(m):
    switch_consumer("`+string(s.group)+`", source = `+source+`, target = `+target+`, link = "`+link+`")

m = migration(name = "`+name[:len(name)-5]+`", phases = [phase("switch", do = switch)])
`), 0, "is finished")
		s.consumesOn(to)
	}
	move("away.star", "OLD", "NEW", there, h.new)
	move("home.star", "NEW", "OLD", there, h.old) // goes by the link that leads back
	move("again.star", "OLD", "NEW", back, h.new) // and this by the other
	quiet()
	s.intact()
}
