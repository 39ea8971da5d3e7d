// Package journal keeps the journals of runs in a JetStream stream: one subject
// a run, one message a record. A record stands when JetStream has acknowledged
// it; any agent that reaches NATS can read a run and take it over.
//
// # Rules
//
//   - One writer a run: every append names the run's last record as its writer
//     knows it, and the server refuses it if another record stands there.
//   - An append whose acknowledgement was lost is looked up, never repeated
//     blindly: each record carries an id of its own.
//   - A stream that has vanished, because NATS was emptied, is made again: what
//     stood in it is lost, and new runs go on.
package journal

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/starferry/starferry/internal/jet"
	"github.com/starferry/starferry/scripting"
)

const (
	// StreamName is the stream that holds all journals.
	StreamName    = "starferry_journal"
	subjectPrefix = "starferry.run."

	publishWithin = 5 * time.Second
	retryPause    = 200 * time.Millisecond
)

// Journal implements scripting.Journal.
type Journal struct {
	js     jetstream.JetStream
	stream jetstream.Stream
}

var _ scripting.Journal = (*Journal)(nil)

// Open finds the stream, or creates it.
func Open(ctx context.Context, js jetstream.JetStream) (*Journal, error) {
	stream, err := jet.Stream(ctx, js, config())
	if err != nil {
		return nil, fmt.Errorf("open journal %s: %w: is JetStream enabled on the NATS server, and may this user manage streams?", StreamName, err)
	}
	return &Journal{js: js, stream: stream}, nil
}

func config() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        StreamName,
		Description: "journals of starferry's runs",
		Subjects:    []string{subjectPrefix + "*"},
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		DenyDelete:  true,
		AllowDirect: true,
	}
}

// remade reports whether an error says that the stream is gone, and makes it
// again.
func (j *Journal) remade(ctx context.Context, err error) bool {
	if !errors.Is(err, jetstream.ErrStreamNotFound) && !errors.Is(err, jetstream.ErrNoStreamResponse) && !errors.Is(err, nats.ErrNoResponders) {
		return false
	}
	_, err = jet.Stream(ctx, j.js, config())
	return err == nil
}

// Append implements scripting.Journal.
func (j *Journal) Append(ctx context.Context, after uint64, r scripting.Record) (uint64, error) {
	if r.Run == "" {
		return 0, errors.New("append to journal: record without a run")
	}
	body, err := json.Marshal(r)
	if err != nil {
		return 0, fmt.Errorf("append to journal of %s: %w", r.Run, err)
	}
	m := &nats.Msg{Subject: subject(r.Run), Data: body, Header: nats.Header{}}
	id := nuid.Next()
	m.Header.Set(jetstream.MsgIDHeader, id)
	for {
		seq, err := j.publish(ctx, m, after)
		if errors.Is(err, nats.ErrMaxPayload) { // it would be so for ever
			return 0, fmt.Errorf("%w: the record of %s has %d bytes: raise max_payload of the NATS server", err, cmp.Or(r.Step, string(r.Kind)), len(body))
		}
		if err == nil || errors.Is(err, scripting.ErrFenced) || ctx.Err() != nil {
			return seq, err
		}
		j.remade(ctx, err)
		switch found, seq := j.lookUp(ctx, m.Subject, id, after); found {
		case ours:
			return seq, nil
		case another:
			return 0, fenced(r.Run)
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("append to journal of %s: %w (%w)", r.Run, err, context.Cause(ctx))
		case <-time.After(retryPause):
		}
	}
}

func (j *Journal) publish(ctx context.Context, m *nats.Msg, after uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, publishWithin)
	defer cancel()
	ack, err := j.js.PublishMsg(ctx, m, jetstream.WithExpectLastSequencePerSubject(after),
		jetstream.WithExpectStream(StreamName), jetstream.WithRetryAttempts(0))
	if err == nil {
		return ack.Sequence, nil
	}
	run := runOf(m.Subject)
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
		// The record that stands there may be this very one, sent before an
		// acknowledgement was lost.
		if found, seq := j.lookUp(ctx, m.Subject, m.Header.Get(jetstream.MsgIDHeader), after); found == ours {
			return seq, nil
		}
		return 0, fenced(run)
	}
	return 0, fmt.Errorf("append to journal of %s: %w", run, err)
}

func fenced(run string) error {
	return fmt.Errorf("append to journal of %s: %w: look at it with `starferry runs`", run, scripting.ErrFenced)
}

// finding is what stands at the end of a run after an append that failed.
type finding int

const (
	unclear finding = iota // the question was not answered
	nothing                // what stood there before
	ours                   // the record that was to be appended
	another                // the record of another writer
)

// lookUp asks what stands at the end of a run.
func (j *Journal) lookUp(ctx context.Context, subject, id string, after uint64) (finding, uint64) {
	m, err := j.stream.GetLastMsgForSubject(ctx, subject)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return nothing, 0
	case err != nil:
		return unclear, 0
	case m.Header.Get(jetstream.MsgIDHeader) == id:
		return ours, m.Sequence
	case m.Sequence == after:
		return nothing, after
	}
	return another, 0
}

// Last is the sequence number of a run's last record, 0 if it has none.
func (j *Journal) Last(ctx context.Context, run string) (uint64, error) {
	m, err := j.stream.GetLastMsgForSubject(ctx, subject(run))
	if err != nil && j.remade(ctx, err) {
		m, err = j.stream.GetLastMsgForSubject(ctx, subject(run))
	}
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("read journal of %s: %w", run, err)
	}
	return m.Sequence, nil
}

// Read implements scripting.Journal. It returns all records, from the first to
// the last one that stood when it was called, or an error: never a part.
func (j *Journal) Read(ctx context.Context, run string) ([]scripting.Record, error) {
	last, err := j.Last(ctx, run)
	if err != nil || last == 0 {
		return nil, err
	}
	var records []scripting.Record
	err = j.deliver(ctx, run, func(r scripting.Record) bool {
		records = append(records, r)
		return r.Seq < last
	})
	if err != nil {
		return nil, err
	}
	return records, nil
}

// deliver hands a run's records to fn, in order, until it returns false. Each
// record says which one it follows, so that a gap cannot go unseen.
func (j *Journal) deliver(ctx context.Context, run string, fn func(scripting.Record) bool) error {
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject(run)}, DeliverPolicy: jetstream.DeliverAllPolicy}
	err := jet.Ordered(ctx, j.js, StreamName, cfg, func(c jetstream.Consumer) error { return iterate(ctx, c, fn) })
	if err != nil {
		return fmt.Errorf("read journal of %s: %w", run, err)
	}
	return nil
}

// iterate hands the records that a consumer delivers to fn, until it returns
// false.
func iterate(ctx context.Context, c jetstream.Consumer, fn func(scripting.Record) bool) error {
	it, err := c.Messages()
	if err != nil {
		return err
	}
	defer it.Stop()
	var before uint64
	for {
		m, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		r, err := decode(m)
		if err != nil {
			return err
		}
		if after := m.Headers().Get(jetstream.ExpectedLastSubjSeqHeader); after != "" && after != strconv.FormatUint(before, 10) {
			return fmt.Errorf("record %d follows record %s, and %d was delivered before it: something between them is missing; ask again, and if it stays so, restore stream %s", r.Seq, after, before, StreamName)
		}
		before = r.Seq
		if !fn(r) {
			return nil
		}
	}
}

func decode(m jetstream.Msg) (scripting.Record, error) {
	var r scripting.Record
	meta, err := m.Metadata()
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(m.Data(), &r); err != nil {
		return r, fmt.Errorf("record %d cannot be read: %w: was it written by a newer version?", meta.Sequence.Stream, err)
	}
	r.Seq = meta.Sequence.Stream
	return r, nil
}

// Runs implements scripting.Journal.
func (j *Journal) Runs(ctx context.Context) ([]string, error) {
	info, err := j.stream.Info(ctx, jetstream.WithSubjectFilter(subjectPrefix+"*"))
	if err != nil && j.remade(ctx, err) {
		info, err = j.stream.Info(ctx, jetstream.WithSubjectFilter(subjectPrefix+"*"))
	}
	if err != nil {
		return nil, fmt.Errorf("list runs: %w", err)
	}
	type first struct {
		run string
		seq uint64
	}
	runs := make([]first, 0, len(info.State.Subjects))
	for s := range info.State.Subjects {
		m, err := j.stream.GetMsg(ctx, 0, jetstream.WithGetMsgSubject(s))
		if err != nil {
			return nil, fmt.Errorf("list runs: read the first record of %s: %w", runOf(s), err)
		}
		runs = append(runs, first{runOf(s), m.Sequence})
	}
	slices.SortFunc(runs, func(a, b first) int { return int(int64(a.seq) - int64(b.seq)) })
	names := make([]string, len(runs))
	for i, r := range runs {
		names[i] = r.run
	}
	return names, nil
}

// subject writes a run's name as one token of a NATS subject: what NATS gives a
// meaning to, and the escape itself, as %XX.
func subject(run string) string {
	var b strings.Builder
	b.WriteString(subjectPrefix)
	for i := 0; i < len(run); i++ {
		switch c := run[i]; {
		case c == '.' || c == '*' || c == '>' || c == '%' || c <= ' ' || c == 0x7f:
			fmt.Fprintf(&b, "%%%02X", c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

func runOf(subject string) string {
	s := strings.TrimPrefix(subject, subjectPrefix)
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(n))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
