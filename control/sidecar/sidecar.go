package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/control/producer"
)

// troubleAfter is how long a service may take nothing before Health says so.
const troubleAfter = 5 * time.Second

// Sidecar is one instance of a group whose records a service beside it handles.
type Sidecar struct {
	cfg    Config
	log    *slog.Logger
	buries bool // records that are refused have a place to go to
	writer writer
	client *http.Client
	slots  chan struct{} // one for each delivery under way
	gather *gatherer
	meter  *meter
	quiet  atomic.Int64 // the service is left alone until then, Unix nanoseconds

	consumer *consumer.Consumer
	producer *producer.Producer // nil: nothing is produced
	server   *server            // nil: it does not listen

	ctx    context.Context // of deliveries
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	trouble *trouble // nil: the service takes records
}

// State is what a sidecar says of itself.
type State struct {
	Consumer control.Lease   `json:"consumer"`
	Producer *producer.State `json:"producer,omitempty"`
	Service  ServiceState    `json:"service"`
}

// ServiceState is how the service does.
type ServiceState struct {
	To string `json:"to"`
	// Trouble is why it takes no records, and Since the time from when it does
	// not, Unix milliseconds.
	Trouble string `json:"trouble,omitempty"`
	Since   int64  `json:"since,omitempty"`
}

// Open starts a sidecar. It returns once the configuration is known to be usable;
// neither clusters nor the service need be reachable yet. ctx bounds Open alone.
func Open(ctx context.Context, cfg Config) (*Sidecar, error) {
	cfg, err := cfg.checked()
	if err != nil {
		return nil, fmt.Errorf("open sidecar of %s: %w", cfg.Consumer.Group, err)
	}
	s := &Sidecar{
		cfg: cfg, log: cfg.Logger.With("group", cfg.Consumer.Group), buries: cfg.Consumer.Failure.DeadLetter != "",
		slots: make(chan struct{}, cfg.Requests), meter: newMeter(),
		client: &http.Client{
			Transport:     &http.Transport{MaxIdleConns: cfg.Requests, MaxIdleConnsPerHost: cfg.Requests, IdleConnTimeout: time.Minute, DisableCompression: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	s.gather = &gatherer{s: s}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open sidecar of %s: %w", cfg.Consumer.Group, err), s.Close(ctx))
	}
	return s, nil
}

func (s *Sidecar) open(ctx context.Context) (err error) {
	c := s.cfg.Consumer
	if c.Instance == "" {
		c.Instance = name()
	}
	s.writer = writer{encoding: s.cfg.Encoding, group: c.Group, instance: c.Instance}
	if len(s.cfg.Produce) > 0 {
		if s.producer, err = producer.Open(ctx, s.cfg.producer(c.Instance, c.NATS)); err != nil {
			return err
		}
	}
	if s.cfg.Order == ByKey {
		s.consumer, err = consumer.Open(ctx, c, s.one)
	} else {
		s.consumer, err = consumer.OpenBatches(ctx, c, s.batch)
	}
	if err != nil || s.cfg.Listen == "" {
		return err
	}
	s.server, err = s.listen(s.cfg.Listen)
	return err
}

// Address is where the service asks it, host:port; empty: nowhere.
func (s *Sidecar) Address() string {
	if s.server == nil {
		return ""
	}
	return s.server.address
}

// Health is nil while the instance does its work and the service takes what it
// is given. Otherwise it says what is wrong, and what to do.
func (s *Sidecar) Health(ctx context.Context) error {
	err := s.consumer.Health(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.trouble; t != nil && time.Since(t.since) > troubleAfter {
		err = errors.Join(err, fmt.Errorf("the service has taken nothing for %s: %s", time.Since(t.since).Round(time.Second), t.why))
	}
	return err
}

// State says how the sidecar and its service stand.
func (s *Sidecar) State(ctx context.Context) (State, error) {
	lease, err := s.consumer.State(ctx)
	if err != nil {
		return State{}, err
	}
	out := State{Consumer: lease, Service: ServiceState{To: s.cfg.To}}
	if s.producer != nil {
		p := s.producer.State()
		out.Producer = &p
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.trouble; t != nil {
		out.Service.Trouble, out.Service.Since = t.why, t.since.UnixMilli()
	}
	return out, nil
}

// Close stops handing out, waits for answers, commits, leaves the group, writes
// what was taken to be produced, and releases everything. When ctx ends first,
// deliveries are broken off: their records are handed out again to another
// instance, and the error says so.
func (s *Sidecar) Close(ctx context.Context) error {
	var errs []error
	if s.consumer != nil {
		errs = append(errs, s.consumer.Close(ctx))
	}
	s.cancel()
	s.wg.Wait()
	if s.server != nil { // the service may ask until its last record is handled
		errs = append(errs, s.server.close(ctx))
	}
	if s.producer != nil {
		errs = append(errs, s.producer.Close(ctx))
	}
	s.client.CloseIdleConnections()
	return errors.Join(errs...)
}
