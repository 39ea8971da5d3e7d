package replication

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/replication/offsetmap"
)

// A shard answers on starferry.shard.ID.WHAT with JSON. Every answer is bounded:
// lanes come in pages, cuts in parts.
const (
	subjectPrefix = "starferry.shard."
	pageLanes     = 1000
	partLanes     = 500
	maxWait       = 30 * time.Second
	maxServing    = 64
)

type statusRequest struct {
	Link  starferry.LinkName       `json:"link"`
	After starferry.TopicPartition `json:"after,omitzero"` // the last lane of the page before
}

type statusReply struct {
	Lanes []LaneStatus `json:"lanes"`
	More  bool         `json:"more,omitempty"`
	Error string       `json:"error,omitempty"`
	// Revision of the spec that the shard works by.
	Revision uint64 `json:"revision"`
	// Problems say why topics that match a pattern are not copied.
	Problems map[starferry.Topic]string `json:"problems,omitempty"`
	// Denied is an ACL that the shard lacks.
	Denied string `json:"denied,omitempty"`
	// Notes tell of buckets whose lanes are not known yet.
	Notes map[int]string `json:"notes,omitempty"`
}

type translateRequest struct {
	Link      starferry.LinkName  `json:"link"`
	Direction starferry.Direction `json:"direction"`
	Cut       starferry.Cut       `json:"cut"`
	// WaitMS is how long the shard may wait for the copy to pass the cut.
	WaitMS int64 `json:"wait_ms,omitempty"`
}

type translateReply struct {
	starferry.Translation
	Error string `json:"error,omitempty"`
}

type lagRequest struct {
	Link starferry.LinkName `json:"link"`
}

type lagReply struct {
	Lanes   int    `json:"lanes"`
	Records int64  `json:"records"` // over all lanes whose lag is known
	Worst   int64  `json:"worst"`
	Unknown int    `json:"unknown"` // lanes whose lag is not known
	Error   string `json:"error,omitempty"`
}

func subject(s ShardID, what string) string { return subjectPrefix + string(s) + "." + what }

// serve answers requests until the context ends.
func (s *Shard) serve(ctx context.Context) error {
	slots := make(chan struct{}, maxServing)
	for what, answer := range map[string]func(context.Context, []byte) any{
		"status":    s.answerStatus,
		"translate": s.answerTranslate,
		"cross":     s.answerCross,
		"lag":       s.answerLag,
		"rates":     s.answerRates,
		"map":       s.answerMap,
		"fill":      s.answerFill,
		"verify":    s.answerVerify,
	} {
		sub, err := s.cfg.NATS.Subscribe(subject(s.cfg.ID, what), func(m *nats.Msg) {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			s.wg.Go(func() {
				defer func() { <-slots }()
				s.reply(m, answer(ctx, m.Data))
			})
		})
		if err != nil {
			return fmt.Errorf("answer on %s: %w", subject(s.cfg.ID, what), err)
		}
		s.subs = append(s.subs, sub)
	}
	return s.cfg.NATS.Flush()
}

func (s *Shard) reply(m *nats.Msg, v any) {
	b, err := json.Marshal(v)
	if err == nil {
		err = m.Respond(b)
	}
	if err != nil {
		s.log.Warn("answer not sent", "subject", m.Subject, "err", err)
	}
}

func (s *Shard) link(name starferry.LinkName) (*copier, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.copiers[name]
	if c == nil {
		return nil, fmt.Sprintf("shard %s does not run link %s", s.cfg.ID, name)
	}
	return c, ""
}

func (s *Shard) answerStatus(_ context.Context, data []byte) any {
	var q statusRequest
	if err := json.Unmarshal(data, &q); err != nil {
		return statusReply{Error: "read request: " + err.Error()}
	}
	c, why := s.link(q.Link)
	if c == nil {
		return statusReply{Error: why}
	}
	lanes := c.all()
	slices.SortFunc(lanes, func(a, b *lane) int { return a.tp.Compare(b.tp) })
	out := statusReply{Revision: c.wanted().Revision}
	if q.After.Topic == "" {
		c.mu.Lock()
		out.Problems = c.problems
		c.mu.Unlock()
	}
	for _, l := range lanes {
		if q.After.Topic != "" && l.tp.Compare(q.After) <= 0 {
			continue
		}
		if len(out.Lanes) == pageLanes {
			out.More = true
			break
		}
		out.Lanes = append(out.Lanes, l.status())
	}
	out.Notes, out.Denied = c.notes(), c.denied()
	return out
}

// notes tell why buckets have no lanes to show.
func (c *copier) notes() map[int]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[int]string{}
	for n, r := range c.buckets {
		r.bucket.mu.Lock()
		if r.note != "" && len(r.bucket.lanes) == 0 {
			out[n] = r.note
		}
		r.bucket.mu.Unlock()
	}
	return out
}

func (s *Shard) answerLag(_ context.Context, data []byte) any {
	var q lagRequest
	if err := json.Unmarshal(data, &q); err != nil {
		return lagReply{Error: "read request: " + err.Error()}
	}
	c, why := s.link(q.Link)
	if c == nil {
		return lagReply{Error: why}
	}
	var out lagReply
	for _, l := range c.all() {
		st := l.status()
		out.Lanes++
		if st.Lag < 0 {
			out.Unknown++
			continue
		}
		out.Records += st.Lag
		out.Worst = max(out.Worst, st.Lag)
	}
	return out
}

func (s *Shard) answerTranslate(ctx context.Context, data []byte) any {
	var q translateRequest
	if err := json.Unmarshal(data, &q); err != nil {
		return translateReply{Error: "read request: " + err.Error()}
	}
	if q.Direction != starferry.Forward && q.Direction != starferry.Back {
		return translateReply{Error: fmt.Sprintf("direction %q: want %s or %s", q.Direction, starferry.Forward, starferry.Back)}
	}
	out := translateReply{Translation: newTranslation()}
	c, why := s.link(q.Link)
	if c == nil {
		for tp := range q.Cut {
			out.Missing[tp] = why
		}
		return out
	}
	if q.Direction == starferry.Forward && q.WaitMS > 0 {
		c.await(ctx, q.Cut, min(time.Duration(q.WaitMS)*time.Millisecond, maxWait))
	}
	for tp, p := range q.Cut {
		c.translate(ctx, &out.Translation, q.Direction, tp, p)
	}
	return out
}

func newTranslation() starferry.Translation {
	return starferry.Translation{
		Cut: starferry.Cut{}, Answers: map[starferry.TopicPartition]starferry.Answer{},
		Missing: map[starferry.TopicPartition]string{}, Behind: map[starferry.TopicPartition]int64{},
	}
}

// await returns when the copy has passed the cut, or after d.
func (c *copier) await(ctx context.Context, cut starferry.Cut, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for tp, p := range cut {
		l, _ := c.lane(tp)
		if l == nil {
			continue
		}
		done, forget := l.passed(p.Next)
		select {
		case <-done:
		case <-ctx.Done():
			forget()
			return
		}
	}
}

// translate answers for one partition. What is asked and why it is not answered
// goes by the partition of the question; the cut by that of the other side.
func (c *copier) translate(ctx context.Context, t *starferry.Translation, d starferry.Direction, tp starferry.TopicPartition, p starferry.Place) {
	from, ok := c.spec.laneOf(d, tp)
	if !ok {
		t.Missing[tp] = fmt.Sprintf("link %s copies no topic to %s", c.spec.Name, tp.Topic)
		return
	}
	l, why := c.lane(from)
	if l == nil {
		t.Missing[tp] = why
		return
	}
	l.mu.Lock()
	m, state, reason := l.omap, l.state, l.reason
	l.mu.Unlock()
	if m == nil || !m.Begun() || state == Recovering {
		t.Missing[tp] = fmt.Sprintf("lane %s is %s: %s", tp, state, reason)
		return
	}
	ask := m.TranslateForward
	if d == starferry.Back {
		ask = m.TranslateBack
	}
	got, err := ask(p)
	if errors.Is(err, offsetmap.ErrDamaged) {
		l.damaged(m, err)
	}
	if err == nil {
		t.Missing[tp], err = c.turned(ctx, l.to.Topic, m)
	}
	if err != nil {
		t.Missing[tp] = err.Error()
	}
	if t.Missing[tp] != "" {
		return
	}
	delete(t.Missing, tp)
	t.Answers[tp] = got.Answer
	switch {
	case got.Answer.Status == starferry.Unknown:
		t.Missing[tp] = fmt.Sprintf("the place of offset %d cannot be proven", p.Next)
	case got.Answer.Status == starferry.BeforeStart:
		t.Missing[tp] = fmt.Sprintf("offset %d is older than what the map remembers", p.Next)
	case got.Behind > 0 && (state == Stopped || state == Paused || state == Done):
		t.Missing[tp] = fmt.Sprintf("the copy is %s %d offsets before it: %s", state, got.Behind, reason)
	default:
		t.Cut[c.spec.answerOf(d, from)] = got.Place
		if got.Behind > 0 {
			t.Behind[tp] = got.Behind
		}
	}
}
