package builtins

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/scripting"
)

// Producers acts on the producers of topics.
type Producers interface {
	// SwitchProducers moves the producers of a topic. It returns when all write on
	// the target, or an error that tells what stands now. One that has been done is
	// not done again.
	SwitchProducers(ctx context.Context, r ProducerSwitch) (ProducerReport, error)
	// ProducersHome says where they write. An empty cluster: nobody says.
	ProducersHome(ctx context.Context, t starferry.Topic) (TopicHome, error)
	// Writing watches who writes a topic on every cluster, for some time.
	Writing(ctx context.Context, t starferry.Topic, during time.Duration) ([]Writing, error)
}

// ProducerSwitch asks for the producers of a topic to be moved.
type ProducerSwitch struct {
	Topic          starferry.Topic
	Source, Target starferry.ClusterName
	Link           starferry.LinkName
	Within, Hold   time.Duration
	OneWay         bool
	By, Why, Token string
	Progress       func(step, waits string)
}

// ProducerReport is what a switch of producers leaves behind.
type ProducerReport struct {
	Topic     starferry.Topic                  `json:"topic"`
	Source    starferry.ClusterName            `json:"source"`
	Target    starferry.ClusterName            `json:"target"`
	Epoch     starferry.Epoch                  `json:"epoch"`
	Changed   bool                             `json:"changed"`
	Producers []starferry.InstanceID           `json:"producers"`
	Gone      []starferry.InstanceID           `json:"gone"` // were there, and were not heard of any more
	Late      []starferry.InstanceID           `json:"late"` // had not said by the end that they write on the target
	HoldMS    map[starferry.InstanceID]float64 `json:"hold_ms"`
	ControlMS float64                          `json:"control_ms"`
}

// TopicHome is where the producers of a topic write.
type TopicHome struct {
	Topic     starferry.Topic                                `json:"topic"`
	Cluster   starferry.ClusterName                          `json:"cluster"`
	Epoch     starferry.Epoch                                `json:"epoch"`
	Token     string                                         `json:"-"`
	Producers map[starferry.InstanceID]starferry.ClusterName `json:"producers"` // where each says that it writes
}

// Writing is who wrote a topic on one cluster while it was watched.
type Writing struct {
	Cluster starferry.ClusterName `json:"cluster"`
	Records int64                 `json:"records"`
	Writers []Writer              `json:"writers"`
	Error   string                `json:"error,omitempty"`
}

// Writer is one of them. Kind is library, link, transactional or unknown.
type Writer struct {
	Who     string `json:"who"`
	Kind    string `json:"kind"`
	Records int64  `json:"records"`
}

func switchProducerEntry(p Ports, t typeSet) *scripting.Builtin {
	s := switchProducer{p}
	return &scripting.Builtin{
		Name: "switch_producer", Class: scripting.Effect, Rev: 1,
		Returns: "struct(topic, source, target, epoch, changed, producers, gone, late, hold_ms, control_ms)",
		Doc: `Moves the producers of a topic, those that use the producer library, to another cluster while they write.
They hold for milliseconds, until the copy has passed what they have written: the order of every key holds. Before the decision every failure leaves them where they were.`,
		Example: `switch_producer("orders", source = old, target = new, link = m.out.copy.link)`,
		Params: []scripting.Param{
			{Name: "topic", Type: t.text, Required: true, Doc: "the topic"},
			{Name: "source", Type: t.cluster, Required: true, Doc: "cluster they write to", Complete: "clusters"},
			{Name: "target", Type: t.cluster, Required: true, Doc: "cluster they are to write to", Complete: "clusters"},
			{Name: "link", Type: t.link, Required: true, Doc: "link that copies the topic from source to target, or its opposite", Complete: "links"},
			{Name: "within", Type: t.duration, Default: "30s", Doc: "until all are ready; then they stay where they are"},
			{Name: "hold", Type: t.duration, Default: "5s", Doc: "the longest they may hold; then they go on where they were"},
			{Name: "one_way", Type: t.yes, Default: false, Doc: "do without a link that brings back what is written on the target"},
		},
		Plan: s.plan, Run: s.run, Reconcile: s.reconcile, Inverse: s.inverse, InverseOf: s.inverseOf, Summary: s.summary,
	}
}

type switchProducer struct{ p Ports }

func topicArg(c scripting.Call) starferry.Topic { return starferry.Topic(c.Args.Text("topic")) }

func (s switchProducer) home(ctx context.Context, c scripting.Call) (TopicHome, error) {
	if clusterArg(c, "source") == clusterArg(c, "target") {
		return TopicHome{}, fmt.Errorf("switch_producer: source and target are both %s; name two clusters", clusterArg(c, "source"))
	}
	h, err := s.p.Producers.ProducersHome(ctx, topicArg(c))
	if err != nil {
		return h, fmt.Errorf("find where %s is written: %w", topicArg(c), err)
	}
	return h, nil
}

// there reports whether the topic lives on the target and nobody writes elsewhere.
func there(h TopicHome, target starferry.ClusterName) bool {
	for _, on := range h.Producers {
		if on != target {
			return false
		}
	}
	return h.Cluster == target
}

func (s switchProducer) plan(ctx context.Context, c scripting.Call) (scripting.Prediction, error) {
	h, err := s.home(ctx, c)
	if err != nil {
		return scripting.Prediction{}, err
	}
	t, source, target := topicArg(c), clusterArg(c, "source"), clusterArg(c, "target")
	result := unknownFields("epoch", "changed", "producers", "gone", "late", "hold_ms", "control_ms")
	result["topic"], result["source"], result["target"] = t, typedCluster(source), typedCluster(target)
	pred := scripting.Prediction{Verdict: scripting.WillDo, Result: result, AtMost: c.Args.Duration("within") + c.Args.Duration("hold"),
		Text: fmt.Sprintf("move the producers of %s (%s) from %s to %s over link %s", t, count(len(h.Producers), "producer"), source, target, c.Args.Text("link"))}
	switch {
	case planned(c, "switch_producer", "topic", string(t)):
	case there(h, target):
		pred.Verdict, pred.Text, pred.AtMost = scripting.NoChange, fmt.Sprintf("%s is written on %s already", t, target), 0
	case h.Cluster != "" && h.Cluster != source && h.Cluster != target:
		pred.Verdict, pred.Text = scripting.FailsNow, fmt.Sprintf("%s is written on %s, neither on %s nor on %s", t, h.Cluster, source, target)
	}
	return pred, nil
}

func (s switchProducer) request(c scripting.Call) ProducerSwitch {
	return ProducerSwitch{Topic: topicArg(c), Source: clusterArg(c, "source"), Target: clusterArg(c, "target"), Link: starferry.LinkName(c.Args.Text("link")),
		Within: c.Args.Duration("within"), Hold: c.Args.Duration("hold"), OneWay: c.Args.Bool("one_way"), By: c.By, Why: c.Why(), Token: c.Token,
		Progress: func(step, waits string) {
			if waits != "" {
				step += ": waits for " + waits
			}
			c.Progress(step)
		}}
}

func (s switchProducer) run(ctx context.Context, c scripting.Call) (any, error) {
	if _, err := s.home(ctx, c); err != nil {
		return nil, err
	}
	r, err := s.p.Producers.SwitchProducers(ctx, s.request(c))
	if err != nil {
		return nil, err
	}
	return s.result(r)
}

func (s switchProducer) result(r ProducerReport) (any, error) {
	r.Producers, r.Gone, r.Late = filledList(r.Producers), filledList(r.Gone), filledList(r.Late)
	if r.HoldMS == nil {
		r.HoldMS = map[starferry.InstanceID]float64{}
	}
	return fields(r, nil)
}

// reconcile reads where the topic is written. A switch whose agent died before
// the decision is none: its producers go on where they were by themselves.
func (s switchProducer) reconcile(ctx context.Context, c scripting.Call) (scripting.Finding, any, error) {
	h, err := s.home(ctx, c)
	target := clusterArg(c, "target")
	switch {
	case err != nil:
		return scripting.Unclear, nil, err
	case h.Cluster != target:
		return scripting.DidNot, nil, nil
	case h.Token != c.Token:
		return scripting.Unclear, nil, fmt.Errorf("%s is written on %s since epoch %d, but another switch brought it there", h.Topic, target, h.Epoch)
	}
	r, err := s.p.Producers.SwitchProducers(ctx, s.request(c)) // ends what is left of it
	if err != nil {
		return scripting.Unclear, nil, err
	}
	r.Changed = true
	v, err := s.result(r)
	return scripting.Happened, v, err
}

func (s switchProducer) inverse(_ context.Context, c scripting.Call) (*scripting.Undo, error) {
	args := scripting.Args{"topic": c.Args.Text("topic"), "source": c.Args.Text("target"), "target": c.Args.Text("source"), "link": c.Args.Text("link"),
		"within": c.Args.Text("within"), "hold": c.Args.Text("hold"), "one_way": c.Args.Bool("one_way")}
	return &scripting.Undo{Builtin: "switch_producer", Args: args,
		Text: fmt.Sprintf("move the producers of %s back from %s to %s", c.Args.Text("topic"), c.Args.Text("target"), c.Args.Text("source"))}, nil
}

func (s switchProducer) inverseOf(ctx context.Context, c scripting.Call, result json.RawMessage) (*scripting.Undo, error) {
	var r ProducerReport
	if err := json.Unmarshal(result, &struct {
		Changed *bool `json:"changed"`
	}{&r.Changed}); err != nil || !r.Changed {
		return nil, err
	}
	return s.inverse(ctx, c)
}

func (s switchProducer) summary(result json.RawMessage) string {
	var r struct {
		Changed   bool               `json:"changed"`
		Producers []string           `json:"producers"`
		Gone      []string           `json:"gone"`
		HoldMS    map[string]float64 `json:"hold_ms"`
		ControlMS float64            `json:"control_ms"`
	}
	if json.Unmarshal(result, &r) != nil {
		return ""
	}
	if !r.Changed {
		return "nothing to do, it was written there already"
	}
	worst := 0.0
	for _, ms := range r.HoldMS {
		worst = max(worst, ms)
	}
	text := fmt.Sprintf("%s, held %.0f ms (worst), %.0f ms from hold to announcement", count(len(r.Producers), "producer"), worst, r.ControlMS)
	if len(r.Gone) > 0 {
		text += "; gone meanwhile: " + strings.Join(r.Gone, ", ")
	}
	return text
}

func watchProducersEntry(p Ports, t typeSet) *scripting.Builtin {
	watch := func(ctx context.Context, c scripting.Call) (any, error) {
		ws, err := p.Producers.Writing(ctx, topicArg(c), c.Args.Duration("for_"))
		if err != nil {
			return nil, fmt.Errorf("watch who writes %s: %w", topicArg(c), err)
		}
		on := map[string]any{}
		for _, w := range ws {
			w.Writers = filledList(w.Writers)
			v, err := fields(w, nil)
			if err != nil {
				return nil, err
			}
			on[string(w.Cluster)] = v
		}
		return map[string]any{"topic": topicArg(c), "on": on}, nil
	}
	return &scripting.Builtin{
		Name: "watch_producers", Class: scripting.Check, Returns: "struct(topic, on)",
		Doc:     "Watches who writes a topic, on every cluster: library producers, links, transactional ids, and what nobody answers for.",
		Example: `watch_producers("orders", for_ = "10s").on["old"].records`,
		Params: []scripting.Param{
			{Name: "topic", Type: t.text, Required: true, Doc: "the topic"},
			{Name: "for_", Type: t.duration, Default: "5s", Doc: "how long to watch"},
		},
		Plan: func(_ context.Context, c scripting.Call) (scripting.Prediction, error) {
			return scripting.Prediction{Verdict: scripting.HoldsNow, Text: "watch who writes " + string(topicArg(c)), AtMost: c.Args.Duration("for_"), Result: unknownFields("topic", "on")}, nil
		},
		Run: watch,
	}
}

func assertProducersEntry(p Ports, t typeSet) *scripting.Builtin {
	a := assertProducers{p}
	return &scripting.Builtin{
		Name: "assert_producers", Class: scripting.Check, Returns: "struct(verdict, records)",
		Doc: `Checks that a topic is written on one cluster alone, by log growth and producer ids; copies by links do not count.
There are three answers, PASS, FAIL and UNKNOWN; only PASS passes. It is the gate for producers without the library.`,
		Example: `assert_producers("orders", on = new, hold = "10s", within = "30m")`,
		Params: []scripting.Param{
			{Name: "topic", Type: t.text, Required: true, Doc: "the topic"},
			{Name: "on", Type: t.cluster, Required: true, Doc: "the cluster it is to be written on", Complete: "clusters"},
			{Name: "hold", Type: t.duration, Default: "5s", Doc: "for how long nobody may write elsewhere"},
			{Name: "within", Type: t.duration, Doc: "wait this long for it to become so; left out: it must be so now"},
		},
		Plan: a.plan, Run: a.run,
	}
}

type assertProducers struct{ p Ports }

func (a assertProducers) expected(c scripting.Call) string {
	return fmt.Sprintf("nobody writes %s but on %s for %s", topicArg(c), clusterArg(c, "on"), c.Args.Text("hold"))
}

func (a assertProducers) plan(ctx context.Context, c scripting.Call) (scripting.Prediction, error) {
	return scripting.Prediction{Verdict: scripting.UnknownUntilRun, Text: a.expected(c), AtMost: c.Args.Duration("within") + c.Args.Duration("hold"),
		Result: unknownFields("verdict", "records")}, nil
}

// judge says what one watch has found.
func (a assertProducers) judge(ws []Writing, h TopicHome, on starferry.ClusterName) (verdict, found string) {
	var elsewhere, unknown []string
	seen := false
	for _, w := range ws {
		seen = seen || w.Cluster == on && w.Error == ""
		if w.Error != "" {
			unknown = append(unknown, fmt.Sprintf("%s: %s", w.Cluster, w.Error))
			continue
		}
		for _, x := range w.Writers {
			if w.Cluster != on && x.Kind != "link" {
				elsewhere = append(elsewhere, fmt.Sprintf("%s wrote %s on %s", x.Who, count(int(x.Records), "record"), w.Cluster))
			}
		}
	}
	for who, where := range h.Producers {
		if where != on {
			elsewhere = append(elsewhere, fmt.Sprintf("producer %s is at %s", who, where))
		}
	}
	slices.Sort(elsewhere)
	switch {
	case len(elsewhere) > 0:
		return "FAIL", "FAIL: " + firstFew(elsewhere)
	case len(unknown) > 0 || !seen:
		return "UNKNOWN", "UNKNOWN: " + firstFew(append(unknown, fmt.Sprintf("%s was looked at: %v", on, seen)))
	}
	return "PASS", "PASS"
}

func (a assertProducers) run(ctx context.Context, c scripting.Call) (any, error) {
	t, on, start := topicArg(c), clusterArg(c, "on"), c.Clock.Now()
	for {
		ws, err := a.p.Producers.Writing(ctx, t, c.Args.Duration("hold"))
		if err != nil {
			return nil, fmt.Errorf("watch who writes %s: %w", t, err)
		}
		h, err := a.p.Producers.ProducersHome(ctx, t)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, fmt.Errorf("find where %s is written: %w", t, err)
		}
		verdict, found := a.judge(ws, h, on)
		if verdict == "PASS" {
			var n int64
			for _, w := range ws {
				if w.Cluster == on {
					n = w.Records
				}
			}
			return map[string]any{"verdict": verdict, "records": n}, nil
		}
		if c.Clock.Now().Sub(start) >= c.Args.Duration("within") {
			return nil, scripting.Unmet(a.expected(c), found)
		}
		c.Progress(found + "; waiting for " + a.expected(c))
		if err := c.Clock.Sleep(ctx, lagPoll); err != nil {
			return nil, err
		}
	}
}
