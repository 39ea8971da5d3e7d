package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/starferry/starferry/agent/api"
	"github.com/starferry/starferry/scripting"
)

// serve answers the subjects of package api until the agent closes.
func (a *Agent) serve() error {
	handlers := map[string]handler{
		api.SubjectRun:  a.handleStart,
		api.SubjectExec: a.handleStart,
		api.SubjectPlan: func(ctx context.Context, who string, data []byte) (any, error) {
			var r api.RunRequest
			if err := request(data, &r); err != nil {
				return nil, err
			}
			r.By = signed(who, r.By)
			return a.Plan(ctx, r)
		},
		api.SubjectResume:   a.named(a.Resume),
		api.SubjectRollback: a.named(a.Rollback),
		api.SubjectRuns: func(ctx context.Context, _ string, _ []byte) (any, error) {
			runs, err := a.Runs(ctx)
			if runs == nil {
				runs = []scripting.Status{}
			}
			return runs, err
		},
		api.SubjectStatus: func(ctx context.Context, _ string, data []byte) (any, error) {
			var r api.NameRequest
			if err := request(data, &r); err != nil {
				return nil, err
			}
			return a.Status(ctx, r.Run)
		},
		api.SubjectHistory: func(ctx context.Context, _ string, data []byte) (any, error) {
			var r api.NameRequest
			if err := request(data, &r); err != nil {
				return nil, err
			}
			return a.runner("", nil).History(ctx, r.Run)
		},
	}
	for subject, handle := range handlers {
		for _, subject := range []string{subject, subject + ".*"} {
			sub, err := a.nc.QueueSubscribe(subject, api.Queue, func(m *nats.Msg) {
				a.wg.Go(func() {
					answer, err := a.admit(m, handle)
					a.respond(m, answer, err)
				})
			})
			if err != nil {
				return fmt.Errorf("serve %s: %w", subject, err)
			}
			a.subs = append(a.subs, sub)
		}
	}
	words, err := a.world.AnswerLastWords(api.Queue)
	if err != nil {
		return err
	}
	a.subs = append(a.subs, words)
	return a.nc.Flush()
}

// handler answers a request; who is the name that the operator has at NATS.
type handler func(ctx context.Context, who string, data []byte) (any, error)

// admit hands a request on, if it may come without a name.
func (a *Agent) admit(m *nats.Msg, handle handler) (any, error) {
	who := api.Operator(m.Subject)
	if who == "" && a.cfg.NATS.NamedOperators {
		return nil, &scripting.UsageError{Text: "this agent takes orders under the name of an operator alone: set nats.operator in your configuration to the name that NATS knows you by, and see `starferry nats permissions --operator NAME`"}
	}
	return handle(a.ctx, who, m.Data)
}

// signed says who gives an order: the name that NATS vouches for, and what the
// command line says of itself.
func signed(who, says string) string {
	switch {
	case who == "":
		return says
	case says == "":
		return who + " (by NATS)"
	}
	return who + " (by NATS), " + says
}

func (a *Agent) handleStart(ctx context.Context, who string, data []byte) (any, error) {
	var r api.RunRequest
	if err := request(data, &r); err != nil {
		return nil, err
	}
	r.By = signed(who, r.By)
	run, err := a.Start(ctx, r)
	return api.RunAnswer{Run: run}, err
}

func (a *Agent) named(do func(ctx context.Context, run, by string) error) handler {
	return func(ctx context.Context, who string, data []byte) (any, error) {
		var r api.NameRequest
		if err := request(data, &r); err != nil {
			return nil, err
		}
		return api.RunAnswer{Run: r.Run}, do(ctx, r.Run, signed(who, r.By))
	}
}

func request(data []byte, into any) error {
	if err := json.Unmarshal(data, into); err != nil {
		return &scripting.UsageError{Text: fmt.Sprintf("the request cannot be read: %v: are agent and command line of the same version?", err)}
	}
	return nil
}

func (a *Agent) respond(m *nats.Msg, answer any, err error) {
	body, sealErr := api.Seal(answer, err)
	if sealErr != nil {
		a.log.Error("answer cannot be sent", "subject", m.Subject, "err", sealErr)
		return
	}
	err = m.Respond(body)
	if errors.Is(err, nats.ErrMaxPayload) { // whoever asked must not wait for nothing
		large := fmt.Errorf("the answer has %d bytes, more than NATS takes (%w): raise max_payload of the NATS server", len(body), err)
		if body, err = api.Seal(nil, large); err == nil {
			err = m.Respond(body)
		}
	}
	if err != nil {
		a.log.Warn("answer cannot be sent", "subject", m.Subject, "err", err)
	}
}
