package builtins

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/scripting"
)

func verifyCopyEntry(p Ports, t typeSet) *scripting.Builtin {
	v := verifyCopy{p}
	return &scripting.Builtin{
		Name: "verify_copy", Class: scripting.Check, Returns: "struct(verdict, identical, compared, differences, first, notes, lanes, bytes)",
		Doc: `Compares the copies of a link with their source, record by record: keys, values, headers and times, and what is not copied with its reason.
There are three answers, PASS, FAIL and UNKNOWN; only PASS passes. All of the copy is read on both clusters, so it takes as long as copying it again; rate and topics make it lighter.`,
		Example: `verify_copy(m.out.copy.link, topics = ["orders"], rate = "20MB/s")`,
		Params: []scripting.Param{
			{Name: "link", Type: t.link, Required: true, Doc: "the link", Complete: "links"},
			{Name: "topics", Type: t.list, Doc: "only these topics, by their names on the source", Complete: "topics"},
			{Name: "from_", Type: t.whole, Default: 0, Doc: "first source offset to compare in each partition"},
			{Name: "to", Type: t.whole, Default: 0, Doc: "source offset to end before; 0: as far as the copy is"},
			{Name: "rate", Type: t.rate, Doc: "limit of what is read, in bytes, such as 20MB/s; none if left out"},
		},
		Plan: v.plan, Run: v.run,
	}
}

type verifyCopy struct{ p Ports }

func (v verifyCopy) request(c scripting.Call) (VerifyRequest, error) {
	q := VerifyRequest{
		Link: starferry.LinkName(c.Args.Text("link")), Topics: topicsArg(c), Progress: c.Progress,
		Range: starferry.Range{From: starferry.Offset(c.Args.Int("from_")), To: starferry.Offset(c.Args.Int("to"))},
	}
	if q.Range.From < 0 || q.Range.To < 0 || q.Range.To > 0 && q.Range.To <= q.Range.From {
		return q, fmt.Errorf("verify_copy: source offsets %d to %d: want from_ below to, or to = 0 for all that is copied", q.Range.From, q.Range.To)
	}
	if c.Args.Has("rate") {
		rate := c.Args.Rate("rate")
		if q.Rate = int64(rate.PerSecond); !rate.Bytes || q.Rate < 1 {
			return q, fmt.Errorf("verify_copy: rate %s: a comparison is limited in bytes, such as 20MB/s", rate)
		}
	}
	return q, nil
}

func (v verifyCopy) expected(q VerifyRequest) string {
	s := "every record that link " + string(q.Link) + " copied is the same on both sides"
	if len(q.Topics) > 0 {
		s += ", of " + topicNames(q.Topics)
	}
	if q.Range != (starferry.Range{}) {
		s += fmt.Sprintf(", from source offset %d", q.Range.From)
	}
	if q.Range.To > 0 {
		s += fmt.Sprintf(" to %d", q.Range.To-1)
	}
	return s
}

func (v verifyCopy) run(ctx context.Context, c scripting.Call) (any, error) {
	q, err := v.request(c)
	if err != nil {
		return nil, err
	}
	r, err := v.p.Prover.Verify(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("verify copy of link %s: %w", q.Link, err)
	}
	if r.Verdict != "PASS" {
		return nil, scripting.Unmet(v.expected(q), r.Verdict+": "+r.Text())
	}
	return fields(r, nil)
}

// plan reads no records: comparing everything is for the run.
func (v verifyCopy) plan(ctx context.Context, c scripting.Call) (scripting.Prediction, error) {
	q, err := v.request(c)
	if err != nil {
		return scripting.Prediction{}, err
	}
	pred := scripting.Prediction{Verdict: scripting.UnknownUntilRun, Text: v.expected(q),
		Result: unknownFields("verdict", "identical", "compared", "differences", "first", "notes", "lanes", "bytes")}
	_, err = v.p.Copier.Link(ctx, q.Link)
	if errors.Is(err, ErrNotFound) && len(c.Earlier) == 0 {
		pred.Verdict, pred.Text = scripting.FailsNow, err.Error()
		return pred, nil
	}
	if errors.Is(err, ErrNotFound) {
		err = nil
	}
	return pred, err
}

// Text tells the report in a line.
func (r VerifyReport) Text() string {
	s := fmt.Sprintf("%d of %d records in %s identical", r.Identical, r.Compared, count(r.Lanes, "partition"))
	if r.First != "" {
		s += "; first difference: " + r.First
	}
	if r.Notes != "" {
		s += "; " + r.Notes
	}
	return strings.TrimSpace(s)
}
