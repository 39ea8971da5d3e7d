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
	handlers := map[string]func(ctx context.Context, data []byte) (any, error){
		api.SubjectRun:  a.handleStart,
		api.SubjectExec: a.handleStart,
		api.SubjectPlan: func(ctx context.Context, data []byte) (any, error) {
			var r api.RunRequest
			if err := request(data, &r); err != nil {
				return nil, err
			}
			return a.Plan(ctx, r)
		},
		api.SubjectResume:   a.named(a.Resume),
		api.SubjectRollback: a.named(a.Rollback),
		api.SubjectRuns: func(ctx context.Context, _ []byte) (any, error) {
			runs, err := a.Runs(ctx)
			if runs == nil {
				runs = []scripting.Status{}
			}
			return runs, err
		},
		api.SubjectStatus: func(ctx context.Context, data []byte) (any, error) {
			var r api.NameRequest
			if err := request(data, &r); err != nil {
				return nil, err
			}
			return a.Status(ctx, r.Run)
		},
		api.SubjectHistory: func(ctx context.Context, data []byte) (any, error) {
			var r api.NameRequest
			if err := request(data, &r); err != nil {
				return nil, err
			}
			return a.runner("", nil).History(ctx, r.Run)
		},
	}
	for subject, handle := range handlers {
		sub, err := a.nc.QueueSubscribe(subject, api.Queue, func(m *nats.Msg) {
			a.wg.Go(func() {
				answer, err := handle(a.ctx, m.Data)
				a.respond(m, answer, err)
			})
		})
		if err != nil {
			return fmt.Errorf("serve %s: %w", subject, err)
		}
		a.subs = append(a.subs, sub)
	}
	return a.nc.Flush()
}

func (a *Agent) handleStart(ctx context.Context, data []byte) (any, error) {
	var r api.RunRequest
	if err := request(data, &r); err != nil {
		return nil, err
	}
	run, err := a.Start(ctx, r)
	return api.RunAnswer{Run: run}, err
}

func (a *Agent) named(do func(ctx context.Context, run, by string) error) func(context.Context, []byte) (any, error) {
	return func(ctx context.Context, data []byte) (any, error) {
		var r api.NameRequest
		if err := request(data, &r); err != nil {
			return nil, err
		}
		return api.RunAnswer{Run: r.Run}, do(ctx, r.Run, r.By)
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
