package desired

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/jet"
)

// Event is one entry of the audit trail.
type Event struct {
	Group starferry.Group `json:"group"`
	// What was asked for or has happened: "switch", "switched", "switch failed",
	// "skip", "throttle", …
	What  string `json:"what"`
	Who   string `json:"who"`
	When  int64  `json:"when"` // Unix milliseconds; 0 is filled in
	Why   string `json:"why,omitempty"`
	Token string `json:"token,omitempty"`
	// Detail is for people, Data for programs.
	Detail string          `json:"detail,omitempty"`
	Data   json.RawMessage `json:"data,omitempty"`
	// Instances are the results one by one.
	Instances map[starferry.InstanceID]string `json:"instances,omitempty"`
	// Sequence is the event's place in the trail; set when read.
	Sequence uint64 `json:"-"`
}

// AuditFilter chooses events. The zero value chooses all.
type AuditFilter struct {
	Group starferry.Group // empty: all groups
	Since time.Time       // zero: from the beginning
	Last  int             // only the last so many; 0: all
}

func (s *Store) ensureAudit(ctx context.Context) error {
	_, err := jet.Stream(ctx, s.js, jetstream.StreamConfig{
		Name: AuditStream, Description: "starferry: who asked for what, when and why",
		Subjects: []string{auditPrefix + ">"}, Storage: jetstream.FileStorage,
		Replicas: s.o.Replicas, MaxAge: s.o.AuditAge, DenyDelete: true, AllowDirect: true,
	})
	return explain("stream "+AuditStream, err)
}

// Audit writes an event and returns when it is stored. What the event tells of
// must not be done before.
func (s *Store) Audit(ctx context.Context, e Event) error {
	if err := checkGroup(e.Group); err != nil {
		return err
	}
	if e.When == 0 {
		e.When = time.Now().UnixMilli()
	}
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("audit %s of %s: %w", e.What, e.Group, err)
	}
	subject := auditPrefix + EncodeKey(string(e.Group))
	_, err = s.js.Publish(ctx, subject, data)
	if gone(err) && s.nc.IsConnected() {
		if err = s.ensureAudit(ctx); err == nil {
			_, err = s.js.Publish(ctx, subject, data)
		}
	}
	if err != nil {
		return fmt.Errorf("audit %s of %s: %w; nothing was done, since what is not recorded is not done", e.What, e.Group, err)
	}
	return nil
}

// AuditLog reads events in the order they were written.
func (s *Store) AuditLog(ctx context.Context, f AuditFilter) ([]Event, error) {
	cfg := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy}
	if f.Group != "" {
		cfg.FilterSubjects = []string{auditPrefix + EncodeKey(string(f.Group))}
	}
	if !f.Since.IsZero() {
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &f.Since
	}
	events, err := s.readAudit(ctx, cfg)
	if gone(err) && s.nc.IsConnected() { // emptied: what it told of is lost
		if err = s.ensureAudit(ctx); err == nil {
			events, err = s.readAudit(ctx, cfg)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read audit trail: %w", err)
	}
	if f.Last > 0 && len(events) > f.Last {
		events = events[len(events)-f.Last:]
	}
	return events, nil
}

func (s *Store) readAudit(ctx context.Context, cfg jetstream.OrderedConsumerConfig) (events []Event, err error) {
	err = jet.Ordered(ctx, s.js, AuditStream, cfg, func(c jetstream.Consumer) error {
		events, err = fetchAudit(ctx, c)
		return err
	})
	return events, err
}

// fetchAudit reads what a consumer has to deliver.
func fetchAudit(ctx context.Context, c jetstream.Consumer) ([]Event, error) {
	info, err := c.Info(ctx)
	if err != nil {
		return nil, err
	}
	var events []Event
	for left := int(info.NumPending); left > 0; {
		batch, err := c.Fetch(min(left, 500), jetstream.FetchMaxWait(2*time.Second))
		if err != nil {
			return nil, err
		}
		got := 0
		for m := range batch.Messages() {
			got++
			var e Event
			if err := json.Unmarshal(m.Data(), &e); err != nil {
				return nil, fmt.Errorf("an event on %s is no JSON of ours: %w", m.Subject(), err)
			}
			if meta, err := m.Metadata(); err == nil {
				e.Sequence = meta.Sequence.Stream
			}
			events = append(events, e)
		}
		if err := batch.Error(); err != nil {
			return nil, err
		}
		if got == 0 {
			break
		}
		left -= got
	}
	return events, nil
}
