package sidecar

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/starferry/starferry/control/consumer/metrics"
)

// server is what the service asks.
type server struct {
	http    *http.Server
	address string
	ended   chan error
}

// listen begins to answer at an address.
func (s *Sidecar) listen(address string) (*server, error) {
	at, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w: give another address", address, err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics.New(s.consumer))
	s.meter.register(registry)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /health", s.serveHealth)
	mux.HandleFunc("GET /state", s.serveState)
	mux.HandleFunc("POST /produce/{topic}", s.serveProduce)
	v := &server{http: &http.Server{Handler: s.guard(mux), ReadHeaderTimeout: 5 * time.Second}, address: at.Addr().String(), ended: make(chan error, 1)}
	go func() { defer close(v.ended); v.ended <- v.http.Serve(at) }()
	return v, nil
}

// close stops answering, and waits for what is being answered.
func (v *server) close(ctx context.Context) error {
	err := v.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("stop listening at %s: %w", v.address, err), v.http.Close())
	}
	if over := <-v.ended; over != nil && !errors.Is(over, http.ErrServerClosed) {
		err = errors.Join(err, over)
	}
	return err
}

// guard keeps pages of a browser out, which reach this machine's addresses under
// names of their own.
func (s *Sidecar) guard(next http.Handler) http.Handler {
	if s.cfg.Beyond {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		if !local(host) {
			http.Error(w, fmt.Sprintf("host %q is not this machine: ask 127.0.0.1 or localhost", host), http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Sidecar) serveHealth(w http.ResponseWriter, r *http.Request) {
	if err := s.Health(r.Context()); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("healthy\n")) // whoever asked has gone
}

func (s *Sidecar) serveState(w http.ResponseWriter, r *http.Request) {
	state, err := s.State(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	answerJSON(w, http.StatusOK, state)
}

func answerJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // whoever asked has gone
}
