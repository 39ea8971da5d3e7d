package sidecar

import (
	"crypto/rand"
	"encoding/hex"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/consumer"
)

// meter counts deliveries.
type meter struct {
	deliveries *prometheus.CounterVec
	records    *prometheus.CounterVec
	seconds    prometheus.Histogram
}

func newMeter() *meter {
	return &meter{
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "starferry_sidecar_deliveries_total", Help: "Deliveries by the status of their answers; none: there was no answer; broken off: it was not waited for.",
		}, []string{"status"}),
		records: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "starferry_sidecar_records_total", Help: "Records by what their deliveries came to.",
		}, []string{"outcome"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "starferry_sidecar_delivery_seconds", Help: "Time from a delivery to its answer.", Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9),
		}),
	}
}

// register shows the counts.
func (m *meter) register(r *prometheus.Registry) {
	r.MustRegister(m.deliveries, m.records, m.seconds)
}

// count counts a delivery, and its records by what it came to.
func (m *meter) count(status string, took time.Duration, rs []consumer.Record, errs []error, err error) {
	m.deliveries.WithLabelValues(status).Inc()
	m.seconds.Observe(took.Seconds())
	sums := map[string]int{}
	for i := range rs {
		why := err
		if err == nil {
			why = errs[i]
		}
		switch {
		case why == nil:
			sums[string(Handled)]++
		case hopeless(why):
			sums["refused"]++
		default:
			sums[string(Retry)]++
		}
	}
	for outcome, n := range sums {
		m.records.WithLabelValues(outcome).Add(float64(n))
	}
}

// name makes a name for an instance.
func name() starferry.InstanceID {
	b := make([]byte, 4)
	rand.Read(b) //nolint:errcheck // crypto/rand.Read never returns an error
	return starferry.InstanceID("sidecar-" + hex.EncodeToString(b))
}
