package replication

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/replication/offsetmap"
)

// Cuts where two links lead between the same topics: the client asks the owners
// of both maps, twice, and puts the answers together. See crossing.

// crossRequest asks one link about places; the questions go by the partitions
// of the side that the places speak of.
type crossRequest struct {
	Link starferry.LinkName                            `json:"link"`
	Away bool                                          `json:"away"` // the link leads away from there
	Ask  map[starferry.TopicPartition]crossingQuestion `json:"ask"`
	// WaitMS is how long the shard may wait for the copy to pass the places.
	WaitMS int64 `json:"wait_ms,omitempty"`
}

type crossReply struct {
	Answers map[starferry.TopicPartition]crossingAnswer `json:"answers"`
	Missing map[starferry.TopicPartition]string         `json:"missing,omitempty"`
	// Rested says of lanes that copy no more why not.
	Rested map[starferry.TopicPartition]string `json:"rested,omitempty"`
	// Left were not answered, because the reply is full: ask again.
	Left  []starferry.TopicPartition `json:"left,omitempty"`
	Error string                     `json:"error,omitempty"`
}

// partRanges bounds the ranges in one message, which NATS limits to 1 MiB.
const partRanges = 8000

// answerCross answers for the lanes this shard has.
func (s *Shard) answerCross(ctx context.Context, data []byte) any {
	var q crossRequest
	if err := json.Unmarshal(data, &q); err != nil {
		return crossReply{Error: "read request: " + err.Error()}
	}
	out := crossReply{
		Answers: map[starferry.TopicPartition]crossingAnswer{}, Missing: map[starferry.TopicPartition]string{},
		Rested: map[starferry.TopicPartition]string{},
	}
	c, why := s.link(q.Link)
	if c == nil {
		for tp := range q.Ask {
			out.Missing[tp] = why
		}
		return out
	}
	if q.Away && q.WaitMS > 0 {
		cut := starferry.Cut{}
		for tp, question := range q.Ask {
			cut[tp] = starferry.Place{Next: top(question.Place)}
		}
		c.await(ctx, cut, min(time.Duration(q.WaitMS)*time.Millisecond, maxWait))
	}
	ranges := 0
	for tp, question := range q.Ask {
		if ranges > partRanges {
			out.Left = append(out.Left, tp)
			continue
		}
		c.cross(&out, q.Away, tp, question)
		ranges += out.Answers[tp].size()
	}
	return out
}

func (c *copier) cross(out *crossReply, away bool, tp starferry.TopicPartition, q crossingQuestion) {
	d := starferry.Back
	if away {
		d = starferry.Forward
	}
	from, ok := c.spec.laneOf(d, tp)
	if !ok {
		out.Missing[tp] = fmt.Sprintf("link %s copies no topic to %s", c.spec.Name, tp.Topic)
		return
	}
	l, why := c.lane(from)
	if l == nil {
		out.Missing[tp] = why
		return
	}
	m, idle, rested, why := l.readable()
	if m == nil {
		out.Missing[tp] = why
		return
	}
	if rested != "" {
		out.Rested[tp] = rested
	}
	if away {
		out.Answers[tp] = q.out(m)
		return
	}
	out.Answers[tp] = q.in(m, idle && c.lease.Valid())
}

// readable is the map of a lane that has been read back, or why there is none.
// Idle says that the lane is owed no answer by the target, so that its map
// knows of all it wrote; rested why it copies no more.
func (l *lane) readable() (m *offsetmap.Lane, idle bool, rested, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.omap == nil || !l.omap.Begun() || l.state == Recovering {
		return nil, false, "", fmt.Sprintf("lane %s of link %s is %s: %s", l.tp, l.c.spec.Name, l.state, l.reason)
	}
	switch l.state {
	case Stopped, Paused, Done:
		rested = fmt.Sprintf("%s: %s", l.state, l.reason)
	}
	stamped := func(e *entry) bool { return e.stamped }
	idle = (l.active || l.state == Paused) && !slices.ContainsFunc(l.pipe.queue, stamped)
	return l.omap, idle, rested, ""
}

// turned tells why the map of one link alone does not say where a place is: the
// source holds copies that another link brought back.
func (c *copier) turned(ctx context.Context, to starferry.Topic, m way) (string, error) {
	writer, err := c.rulesOf(to).loop.writer(ctx)
	if err != nil || writer == "" {
		return "", err
	}
	for s, err := range m.Segments(0) {
		if err != nil {
			return "", err
		}
		if s.Reason == starferry.Returned {
			return fmt.Sprintf("link %s has brought records of %s back to %s, and its map is needed to tell which of them are handled; ask for that link again",
				writer, to, c.spec.Source), nil
		}
	}
	return "", nil
}

// writer names a link that copies from the target topic to the source topic, or
// once did.
func (l *loop) writer(ctx context.Context) (starferry.LinkName, error) {
	state := l.c.origin
	if !state.looked() {
		if err := state.Look(ctx, l.from); err != nil {
			return "", err
		}
	}
	anchors := state.Everywhere()
	if len(anchors) == 0 {
		return "", nil
	}
	t, err := l.lives(ctx)
	if err != nil {
		return "", err
	}
	for _, a := range anchors {
		if t.wroteHere(a) && t.readThere(a) {
			return a.Link, nil
		}
	}
	return "", nil
}

// opposite is a cut's partition with the two links that lead between it and its
// counterpart.
type opposite struct {
	tp, there  starferry.TopicPartition
	away, back LinkSpec // from here to there, and from there to here
	crossing
}

// opposites sorts a cut's partitions into those that two links join with the
// other side, and the rest.
func opposites(specs []LinkSpec, spec LinkSpec, d starferry.Direction, cut starferry.Cut) ([]*opposite, starferry.Cut) {
	var both []*opposite
	rest := starferry.Cut{}
	for tp, p := range cut {
		lane, ok := spec.laneOf(d, tp)
		i := slices.IndexFunc(specs, func(o LinkSpec) bool { return o.returns(spec, lane.Topic) })
		if !ok || !spec.has(lane.Topic) || i < 0 {
			rest[tp] = p
			continue
		}
		o := &opposite{tp: tp, there: spec.answerOf(d, lane), away: spec, back: specs[i], crossing: crossing{place: p}}
		if d == starferry.Back {
			o.away, o.back = o.back, o.away
		}
		both = append(both, o)
	}
	return both, rest
}

// Opposite names the link that leads the other way between these topics of a
// link, by their names on its source, or between all of them if none is given;
// empty if there is none.
func (c *Client) Opposite(ctx context.Context, name starferry.LinkName, topics ...starferry.Topic) (starferry.LinkName, error) {
	st, err := c.open(ctx)
	if err != nil {
		return "", err
	}
	spec, err := st.Link(ctx, name)
	if err != nil {
		return "", err
	}
	specs, err := c.specs(ctx, st)
	if err != nil {
		return "", err
	}
	if len(topics) == 0 {
		topics = spec.Topics
	}
	for _, o := range specs {
		open := func(t starferry.Topic) bool { return !o.returns(spec, t) }
		if len(topics) > 0 && !slices.ContainsFunc(topics, open) {
			return o.Name, nil
		}
	}
	return "", nil
}

// returns reports whether the link leads a topic of another link back to where
// that one reads it.
func (s LinkSpec) returns(o LinkSpec, t starferry.Topic) bool {
	far := o.TargetOf(t)
	return s.Source == o.Target && s.Target == o.Source && s.has(far) && s.TargetOf(far) == t
}

// change is the last one of a bucket. Numbers begin again when the bucket is made
// anew, so the time of that belongs to them.
type change struct {
	made   time.Time
	number uint64
}

// specs are all links, read again whenever one has changed.
func (c *Client) specs(ctx context.Context, st *store) ([]LinkSpec, error) {
	s, err := st.links.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("look at links: %w", err)
	}
	var last change
	if b, ok := s.(*jetstream.KeyValueBucketStatus); ok {
		i := b.StreamInfo()
		last = change{i.Created, i.State.LastSeq}
	}
	c.mu.Lock()
	known, at := c.known, c.knownAt
	c.mu.Unlock()
	if last.number == 0 || at != last {
		if known, err = st.Links(ctx); err != nil {
			return nil, err
		}
		c.mu.Lock()
		c.known, c.knownAt = known, last
		c.mu.Unlock()
	}
	return slices.Clone(known), nil
}

// cross translates the places of partitions that two links join.
func (c *Client) cross(ctx context.Context, st *store, both []*opposite, within time.Duration) (starferry.Translation, error) {
	t := newTranslation()
	tables, err := tablesOf(ctx, st, both)
	if err != nil {
		return t, err
	}
	for _, o := range both {
		if err := checkHandled(o.place); err != nil {
			t.Missing[o.tp] = err.Error()
		}
	}
	both = slices.DeleteFunc(slices.Clone(both), func(o *opposite) bool { return t.Missing[o.tp] != "" })
	for step := range 2 {
		r := &crossRound{c: c, tables: tables, within: within, out: newCrossReply(), in: newCrossReply()}
		for _, o := range both {
			q := crossingQuestion{Place: o.place}
			if step == 1 {
				q = o.question()
			}
			r.put(&r.out, o.away, starferry.Forward, o.tp, q)
			r.put(&r.in, o.back, starferry.Back, o.tp, q)
		}
		r.ask(ctx)
		left := both[:0]
		for _, o := range both {
			if !r.settle(o, &t) {
				left = append(left, o)
			}
		}
		both = left
	}
	for _, o := range both {
		t.Cut[o.there] = o.result().Place
		t.Answers[o.tp] = o.result().Answer
	}
	return t, nil
}

func checkHandled(p starferry.Place) error {
	low := p.Next
	for _, r := range p.Handled {
		if r.From < low || r.From >= r.To {
			return fmt.Errorf("handled range [%d, %d) does not ascend above %d", r.From, r.To, low)
		}
		low = r.To
	}
	return nil
}

func tablesOf(ctx context.Context, st *store, both []*opposite) (map[starferry.LinkName]Table, error) {
	tables := map[starferry.LinkName]Table{}
	for _, o := range both {
		for _, spec := range []LinkSpec{o.away, o.back} {
			if _, ok := tables[spec.Name]; ok {
				continue
			}
			t, err := st.Table(ctx, spec.Name)
			if err != nil {
				return nil, err
			}
			tables[spec.Name] = t
		}
	}
	return tables, nil
}

// crossRound is one step for all partitions at once.
type crossRound struct {
	c       *Client
	tables  map[starferry.LinkName]Table
	within  time.Duration
	asks    map[crossAsk]map[starferry.TopicPartition]crossingQuestion
	out, in crossReply
	mu      sync.Mutex
}

// crossAsk is whom to ask what.
type crossAsk struct {
	shard ShardID
	link  starferry.LinkName
	away  bool
}

func newCrossReply() crossReply {
	return crossReply{
		Answers: map[starferry.TopicPartition]crossingAnswer{}, Missing: map[starferry.TopicPartition]string{},
		Rested: map[starferry.TopicPartition]string{},
	}
}

// put adds a question to those for the owner of its lane.
func (r *crossRound) put(side *crossReply, spec LinkSpec, d starferry.Direction, tp starferry.TopicPartition, q crossingQuestion) {
	lane, _ := spec.laneOf(d, tp)
	n := spec.BucketOf(lane)
	owner := ownerOf(r.tables[spec.Name], n)
	if owner == "" {
		side.Missing[tp] = fmt.Sprintf("bucket %d of link %s has no owner", n, spec.Name)
		return
	}
	k := crossAsk{owner, spec.Name, d == starferry.Forward}
	if r.asks == nil {
		r.asks = map[crossAsk]map[starferry.TopicPartition]crossingQuestion{}
	}
	if r.asks[k] == nil {
		r.asks[k] = map[starferry.TopicPartition]crossingQuestion{}
	}
	r.asks[k][tp] = q
}

// ask puts all questions and waits for the answers.
func (r *crossRound) ask(ctx context.Context) {
	var wg sync.WaitGroup
	for k, qs := range r.asks {
		for _, part := range chunks(qs) {
			wg.Go(func() { r.askOne(ctx, k, part) })
		}
	}
	wg.Wait()
}

// chunks shares questions between messages that NATS can carry.
func chunks(qs map[starferry.TopicPartition]crossingQuestion) []map[starferry.TopicPartition]crossingQuestion {
	var out []map[starferry.TopicPartition]crossingQuestion
	var part map[starferry.TopicPartition]crossingQuestion
	ranges := 0
	for _, tp := range slices.SortedFunc(maps.Keys(qs), starferry.TopicPartition.Compare) {
		ranges += len(qs[tp].Place.Handled)
		if part == nil || len(part) == partLanes || ranges > partRanges {
			part, ranges = map[starferry.TopicPartition]crossingQuestion{}, len(qs[tp].Place.Handled)
			out = append(out, part)
		}
		part[tp] = qs[tp]
	}
	return out
}

func (r *crossRound) askOne(ctx context.Context, k crossAsk, qs map[starferry.TopicPartition]crossingQuestion) {
	side := &r.in
	if k.away {
		side = &r.out
	}
	for len(qs) > 0 {
		q := crossRequest{Link: k.link, Away: k.away, Ask: qs, WaitMS: max(0, r.within.Milliseconds())}
		var got crossReply
		err := r.c.ask(ctx, k.shard, "cross", q, &got, r.within)
		if err == nil && got.Error != "" {
			err = errors.New(got.Error)
		}
		if err == nil && len(got.Left) == len(qs) {
			err = fmt.Errorf("shard %s answers nothing of what it was asked", k.shard)
		}
		r.mu.Lock()
		if err != nil {
			for tp := range qs {
				side.Missing[tp] = err.Error()
			}
			r.mu.Unlock()
			return
		}
		maps.Copy(side.Answers, got.Answers)
		maps.Copy(side.Missing, got.Missing)
		maps.Copy(side.Rested, got.Rested)
		r.mu.Unlock()
		left := map[starferry.TopicPartition]crossingQuestion{}
		for _, tp := range got.Left {
			left[tp] = qs[tp]
		}
		qs = left
	}
}

// settle takes the answers for one partition, and reports whether that was all
// there will be of it.
func (r *crossRound) settle(o *opposite, t *starferry.Translation) bool {
	for _, side := range []*crossReply{&r.out, &r.in} {
		if why := side.Missing[o.tp]; why != "" {
			t.Missing[o.tp] = why
			return true
		}
		if _, ok := side.Answers[o.tp]; !ok {
			t.Missing[o.tp] = "a shard left it out of its answer"
			return true
		}
	}
	if err := o.take(r.out.Answers[o.tp], r.in.Answers[o.tp]); err != nil {
		t.Missing[o.tp] = fmt.Sprintf("translate offset %d by links %s and %s: %s", o.place.Next, o.away.Name, o.back.Name, err)
		return true
	}
	got, over := o.failed()
	if !over {
		if got = o.result(); got.Behind == 0 {
			return false
		}
	}
	t.Answers[o.tp] = got.Answer
	link, rested := o.away.Name, r.out.Rested[o.tp]
	if o.out.Unseen > 0 {
		link, rested = o.back.Name, r.in.Rested[o.tp]
	}
	switch {
	case got.Answer.Status == starferry.Unknown:
		t.Missing[o.tp] = fmt.Sprintf("the place of offset %d cannot be proven", o.place.Next)
	case got.Answer.Status == starferry.BeforeStart:
		t.Missing[o.tp] = fmt.Sprintf("offset %d is older than what the map of link %s remembers", o.place.Next, o.away.Name)
	case rested != "":
		t.Missing[o.tp] = fmt.Sprintf("link %s is %d offsets before it, and its lane is %s", link, got.Behind, rested)
	default:
		t.Behind[o.tp] = got.Behind
	}
	return true
}
