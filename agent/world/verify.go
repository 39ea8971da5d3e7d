package world

import (
	"context"
	"fmt"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/replication"
)

var _ builtins.Prover = (*Links)(nil)

// tellEvery is how often people are told how far a comparison is.
const tellEvery = time.Second

// Prove compares a link's copies with their source.
func (l *Links) Prove(ctx context.Context, name starferry.LinkName, q replication.VerifyRequest) (replication.Proof, error) {
	p, err := l.client.Verify(ctx, name, q)
	return p, notFound(name, err)
}

// Verify implements builtins.Prover.
func (l *Links) Verify(ctx context.Context, r builtins.VerifyRequest) (builtins.VerifyReport, error) {
	q := replication.VerifyRequest{Topics: r.Topics, Range: r.Range, Rate: r.Rate}
	if r.Progress != nil {
		q.Progress = Now(r.Progress)
	}
	p, err := l.Prove(ctx, r.Link, q)
	if err != nil {
		return builtins.VerifyReport{}, err
	}
	return report(p), nil
}

// Now returns a teller of progress that speaks once a second.
func Now(tell func(string)) func(replication.Proof) {
	last := time.Now()
	return func(p replication.Proof) {
		if time.Since(last) < tellEvery {
			return
		}
		last = time.Now()
		t := p.Total()
		var done, all int64
		for _, l := range p.Lanes {
			done, all = done+int64(l.Next-l.From), all+int64(max(l.To, l.Next)-l.From)
		}
		tell(fmt.Sprintf("link %s: %d records identical, %d differences; %d of %d offsets, %d MB read", p.Link, t.Identical, t.Differences, done, all, t.Bytes>>20))
	}
}

// report makes a proof as scripts see it.
func report(p replication.Proof) builtins.VerifyReport {
	t := p.Total()
	for _, l := range p.Lanes {
		if l.Error != "" {
			t.Error = fmt.Sprintf("%s: %s", l.Partition, l.Error)
			break
		}
	}
	r := builtins.VerifyReport{
		Verdict: "UNKNOWN", Identical: t.Identical, Compared: t.Compared(), Differences: t.Differences,
		Notes: t.Notes(), Lanes: len(p.Lanes), Bytes: t.Bytes,
	}
	if t.First != nil {
		r.First = t.First.String()
	}
	switch p.Verdict() {
	case replication.Identical:
		r.Verdict = "PASS"
	case replication.Different:
		r.Verdict = "FAIL"
	case replication.Unproven:
	}
	return r
}
