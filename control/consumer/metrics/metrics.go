// Package metrics shows a consumer to Prometheus. It is apart from the library
// so that a service that has other metrics does not link this one.
//
//	prometheus.MustRegister(metrics.New(c))
//
// What is shown is what the instance's lease says at the moment of the scrape:
// per partition position, committed low-water mark, end, lag, records handled
// since it was assigned, records in flight, and whether one is blocked.
package metrics

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starferry/starferry/control"
)

// Source is what is shown: a *consumer.Consumer.
type Source interface {
	State(ctx context.Context) (control.Lease, error)
	Health(ctx context.Context) error
}

// within bounds how long a scrape waits for the consumer.
const within = 2 * time.Second

// collector asks its source at each scrape.
type collector struct {
	of                                                     Source
	up, epoch, position, committed, end, lag, flight, done *prometheus.Desc
	blocked                                                *prometheus.Desc
}

// New returns a collector for one consumer.
func New(of Source) prometheus.Collector {
	instance := []string{"group", "instance", "cluster"}
	partition := append(instance[:len(instance):len(instance)], "topic", "partition")
	desc := func(name, help string, labels []string) *prometheus.Desc {
		return prometheus.NewDesc("starferry_consumer_"+name, help, labels, nil)
	}
	return &collector{
		of:        of,
		up:        desc("healthy", "1 while the instance does its work on the cluster where its group lives.", instance),
		epoch:     desc("home_epoch", "Epoch of the decision that put the group where it lives.", instance),
		position:  desc("position", "Next offset to hand out.", partition),
		committed: desc("committed", "Committed low-water mark.", partition),
		end:       desc("end", "End of the partition as last seen; transactions that are open end it.", partition),
		lag:       desc("lag_records", "Offsets between position and end.", partition),
		flight:    desc("in_flight_records", "Records that a handler has.", partition),
		done:      desc("handled_records_total", "Records handled since the partition was assigned.", partition),
		blocked:   desc("blocked", "1 while a handler has had one record for over a second.", partition),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.up, c.epoch, c.position, c.committed, c.end, c.lag, c.flight, c.done, c.blocked} {
		out <- d
	}
}

// Collect implements prometheus.Collector. A consumer that is closed, or does
// not answer, shows nothing.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	l, err := c.of.State(ctx)
	if err != nil {
		return
	}
	instance := []string{string(l.Group), string(l.Instance), string(l.Home)}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(c.up, one(c.of.Health(ctx) == nil), instance...)
	gauge(c.epoch, float64(l.HomeEpoch), instance...)
	for _, p := range l.Partitions {
		labels := []string{
			string(l.Group), string(l.Instance), string(p.Cluster),
			string(p.Partition.Topic), strconv.Itoa(int(p.Partition.Partition)),
		}
		gauge(c.position, float64(p.Position), labels...)
		gauge(c.committed, float64(p.Committed), labels...)
		if p.End >= 0 {
			gauge(c.end, float64(p.End), labels...)
			gauge(c.lag, float64(max(0, p.End-p.Position)), labels...)
		}
		gauge(c.flight, float64(p.InFlight), labels...)
		out <- prometheus.MustNewConstMetric(c.done, prometheus.CounterValue, float64(p.Handled), labels...)
		gauge(c.blocked, one(p.Blocked != nil), labels...)
	}
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
