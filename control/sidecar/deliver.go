package sidecar

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/starferry/starferry/control/consumer"
)

// wholeTries is how often a batch is delivered whole: once it has failed so
// often, each record is delivered alone, so that the one it fails for is known.
const wholeTries = 2

var (
	errHushed = errors.New("the service asked to be left alone for a while")
	errSlow   = errors.New("no answer in time")
)

// batch is the handler by partition.
func (s *Sidecar) batch(ctx context.Context, rs []consumer.Record) error {
	if len(rs) > 1 && rs[0].Tries >= wholeTries {
		return s.each(ctx, rs)
	}
	errs, err := s.deliver(ctx, rs)
	if err != nil { // the library takes apart what is refused
		return err
	}
	for _, e := range errs {
		if e != nil {
			return &consumer.Partly{Errs: errs}
		}
	}
	return nil
}

// each delivers records one by one, up to one that has to come again.
func (s *Sidecar) each(ctx context.Context, rs []consumer.Record) error {
	errs := make([]error, len(rs))
	stopped := false
	for i := range rs {
		if stopped {
			errs[i] = &consumer.Again{Untried: true, Err: errBehind}
			continue
		}
		errs[i] = s.alone(ctx, rs[i])
		stopped = errs[i] != nil && !(s.buries && hopeless(errs[i]))
	}
	return &consumer.Partly{Errs: errs}
}

// one is the handler by key. What failed beside others is delivered alone at
// once, and what failed before is from the beginning.
func (s *Sidecar) one(ctx context.Context, r consumer.Record) error {
	if r.Tries == 0 {
		if t := s.gather.deliver(ctx, r); !t.beside {
			return t.err
		}
	}
	return s.alone(ctx, r)
}

func (s *Sidecar) alone(ctx context.Context, r consumer.Record) error {
	errs, err := s.deliver(ctx, []consumer.Record{r})
	if err != nil {
		return err
	}
	return errs[0]
}

func hopeless(err error) bool {
	var h *consumer.Hopeless
	return errors.As(err, &h)
}

func untried(err error) bool {
	var again *consumer.Again
	return errors.As(err, &again) && again.Untried
}

// deliver posts records once. The error is one of all of them; without it there
// is one for each, nil being handled.
func (s *Sidecar) deliver(ctx context.Context, rs []consumer.Record) ([]error, error) {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-s.slots }()
	if left := s.hushed(); left > 0 {
		return nil, &consumer.Again{After: left, Untried: true, Err: errHushed}
	}
	began := time.Now()
	status, errs, err := s.post(ctx, rs)
	if ctx.Err() != nil && err != nil {
		s.meter.count("broken off", time.Since(began), rs, nil, err)
		return nil, context.Cause(ctx)
	}
	s.meter.count(status, time.Since(began), rs, errs, err)
	s.note(err)
	return errs, err
}

// post is one request and its answer.
func (s *Sidecar) post(ctx context.Context, rs []consumer.Record) (status string, errs []error, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.Timeout, errSlow)
	defer cancel()
	size := 256
	for _, r := range rs {
		size += 192 + (len(r.Key)+len(r.Value))*4/3
	}
	body := s.writer.delivery(make([]byte, 0, size), rs)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.cfg.To, bytes.NewReader(body))
	if err != nil {
		return "none", nil, fmt.Errorf("deliver to %s: %w", s.cfg.To, err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		return "none", nil, s.unanswered(ctx, err)
	}
	defer func() {
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, answerBytes)) // so that the connection serves again
		_ = resp.Body.Close()                                              // it was read
	}()
	errs, err = s.answer(resp, len(rs))
	return fmt.Sprint(resp.StatusCode), errs, err
}

// unanswered is the error of a request without an answer. One that never reached
// the service has tried nothing.
func (s *Sidecar) unanswered(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errSlow) {
		return fmt.Errorf("deliver to %s: %w, which is %s; see to the service, or raise the timeout", s.cfg.To, cause, s.cfg.Timeout)
	}
	err = fmt.Errorf("deliver: %w", err)
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return &consumer.Again{Untried: true, Err: err}
	}
	return err
}

// trouble is since when, and why, the service takes nothing.
type trouble struct {
	since time.Time
	why   string
}

// note follows whether the service takes records. A refusal is an answer too.
func (s *Sidecar) note(err error) {
	if hopeless(err) {
		err = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch was := s.trouble; {
	case err == nil && was != nil:
		s.log.Info("service takes records again", "to", s.cfg.To, "after", time.Since(was.since).Round(time.Millisecond))
		s.trouble = nil
	case err != nil && was == nil:
		s.log.Warn("service does not take records", "to", s.cfg.To, "error", err)
		s.trouble = &trouble{time.Now(), err.Error()}
	case err != nil:
		s.trouble = &trouble{was.since, err.Error()}
	}
}
