package sidecar

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/starferry/starferry/control/consumer"
)

// Outcome is what a service says of a record.
type Outcome string

// The outcomes.
const (
	Handled    Outcome = "handled"
	Retry      Outcome = "retry"
	DeadLetter Outcome = "dead_letter"
)

// answerBody is what a service may say of single records beside 2xx.
type answerBody struct {
	Results []result `json:"results"`
}

type result struct {
	Index   int     `json:"index"` // of the delivery's records, from 0
	Outcome Outcome `json:"outcome"`
	AfterMS int64   `json:"after_ms,omitempty"`
	Reason  string  `json:"reason,omitempty"`
}

// Bytes of an answer that are read: as outcomes, and as a reason.
const (
	answerBytes = 1 << 20
	reasonBytes = 300
)

// errBehind is why a record comes again that nothing was said of.
var errBehind = errors.New("it is behind one that comes again, and by partition the order is kept")

// answer reads what became of n records: an error for each, or nil for all.
func (s *Sidecar) answer(resp *http.Response, n int) ([]error, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, answerBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer of %s: %w", s.cfg.To, err)
	}
	switch code := resp.StatusCode; {
	case code/100 == 2 && len(body) > answerBytes:
		return nil, fmt.Errorf("answer of %s: more than %d bytes: say only what was not handled", s.cfg.To, answerBytes)
	case code/100 == 2:
		errs, err := s.outcomes(resp.Header.Get("Content-Type"), bytes.TrimSpace(body), n)
		if err != nil {
			return nil, fmt.Errorf("answer of %s: %w", s.cfg.To, err)
		}
		return errs, nil
	case code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable:
		after := s.hush(resp.Header.Get("Retry-After"))
		return nil, &consumer.Again{After: after, Untried: true, Err: s.said(resp, body)}
	case refusal(code):
		return nil, &consumer.Hopeless{Err: s.said(resp, body)}
	}
	return nil, s.said(resp, body)
}

// refusal reports whether a status speaks of the records. Some of 4xx speak of
// the address, of who asks or of when: another record would be told the same.
func refusal(code int) bool {
	switch code {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusProxyAuthRequired,
		http.StatusRequestTimeout, http.StatusMisdirectedRequest, http.StatusTooEarly, http.StatusUpgradeRequired, http.StatusRequestHeaderFieldsTooLarge:
		return false
	}
	return code/100 == 4
}

func (s *Sidecar) said(resp *http.Response, body []byte) error {
	reason := strings.ToValidUTF8(string(body[:min(len(body), reasonBytes)]), "")
	if reason = strings.Join(strings.Fields(reason), " "); reason != "" {
		reason = ": " + reason
	}
	return fmt.Errorf("%s answers %s%s", s.cfg.To, resp.Status, reason)
}

// outcomes reads an answer of 2xx. One that says nothing in JSON has handled all.
func (s *Sidecar) outcomes(kind string, body []byte, n int) ([]error, error) {
	errs := make([]error, n)
	media, _, _ := mime.ParseMediaType(kind) //nolint:errcheck // what is no media type is not JSON
	if len(body) == 0 || body[0] != '{' && media != "application/json" {
		return errs, nil
	}
	var a answerBody
	if err := strictly(body, &a); err != nil {
		return nil, fmt.Errorf(`a body in JSON that is none of ours: %w: answer without a body, or with {"results": [{"index": 0, "outcome": "retry"}]}`, err)
	}
	named := make([]bool, n)
	stopped := n // by partition, what is behind it comes again
	for _, r := range a.Results {
		if r.Index < 0 || r.Index >= n || named[r.Index] {
			return nil, fmt.Errorf("index %d: want each of 0 to %d at most once", r.Index, n-1)
		}
		named[r.Index] = true
		var err error
		if errs[r.Index], err = r.read(); err != nil {
			return nil, err
		}
		if errs[r.Index] != nil && !(r.Outcome == DeadLetter && s.buries) {
			stopped = min(stopped, r.Index)
		}
	}
	for i := stopped; i < n && s.cfg.Order == ByPartition; i++ {
		if !named[i] {
			errs[i] = &consumer.Again{Untried: true, Err: errBehind}
		}
	}
	return errs, nil
}

// strictly reads JSON of which every field is known, and nothing behind it.
func strictly(body []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more behind it")
	}
	return nil
}

// read is what a result means; nil is handled.
func (r result) read() (outcome, wrong error) {
	if r.AfterMS < 0 || r.AfterMS > 0 && r.Outcome != Retry {
		return nil, fmt.Errorf("index %d: after_ms %d with outcome %q: a pause of 0 or more goes with retry", r.Index, r.AfterMS, r.Outcome)
	}
	why := errors.New("the service says: " + or(r.Reason, "no reason"))
	switch r.Outcome {
	case Handled:
		return nil, nil
	case Retry:
		return &consumer.Again{After: time.Duration(r.AfterMS) * time.Millisecond, Err: why}, nil
	case DeadLetter:
		return &consumer.Hopeless{Err: why}, nil
	}
	return nil, fmt.Errorf("index %d: outcome %q is unknown: use handled, retry or dead_letter", r.Index, r.Outcome)
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// hush notes how long a service asks to be left alone, RFC 9110 10.2.3; 0 if it
// does not say.
func (s *Sidecar) hush(after string) time.Duration {
	var d time.Duration
	if n, err := strconv.Atoi(after); err == nil {
		d = time.Duration(min(n, int(MaxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(after); err == nil {
		d = time.Until(at)
	}
	if d = min(d, MaxRetryAfter); d <= 0 {
		return 0
	}
	s.quiet.Store(time.Now().Add(d).UnixNano())
	return d
}

// hushed is how long the service is still to be left alone.
func (s *Sidecar) hushed() time.Duration {
	return max(0, time.Until(time.Unix(0, s.quiet.Load())))
}
