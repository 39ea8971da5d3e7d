package bench

import (
	"fmt"
	"maps"
	"slices"
)

// Values are what a part measured, by the names of figures.
type Values map[string]float64

// Figure is one number of the report.
type Figure struct {
	Name  string
	Text  string // for the table
	Unit  string
	Bar   *Bar // nil: it is there to compare with
	Value float64
}

// Bar is what a figure has to reach.
type Bar struct {
	Least bool // else at most
	Limit float64
}

// String is the bar as a reader sees it.
func (b *Bar) String() string {
	switch {
	case b == nil:
		return ""
	case b.Least:
		return "≥ " + number(b.Limit)
	case b.Limit == 0:
		return "0"
	}
	return "≤ " + number(b.Limit)
}

// Met reports whether the figure has no bar or reaches it.
func (f Figure) Met() bool {
	switch {
	case f.Bar == nil:
		return true
	case f.Bar.Least:
		return f.Value >= f.Bar.Limit
	}
	return f.Value <= f.Bar.Limit
}

func least(limit float64) *Bar { return &Bar{Least: true, Limit: limit} }
func most(limit float64) *Bar  { return &Bar{Limit: limit} }

// catalogue is every figure there is, in the order of the report.
func catalogue() []Figure {
	var out []Figure
	for _, c := range []struct{ prefix, text string }{{"copy", "uncompressed"}, {"copy_lz4", "lz4"}} {
		out = append(out,
			Figure{Name: c.prefix + "_rps", Text: "records/s of one link, " + c.text, Unit: "records/s"},
			Figure{Name: c.prefix + "_rps_mm2", Text: "records/s of MirrorMaker 2, " + c.text, Unit: "records/s"},
			Figure{Name: c.prefix + "_rps_ratio_mm2", Text: "records/s beside MirrorMaker 2, " + c.text, Unit: "ratio", Bar: least(2)},
			Figure{Name: c.prefix + "_cpu_s_per_gb", Text: "CPU per GB of values, " + c.text, Unit: "s/GB"},
			Figure{Name: c.prefix + "_cpu_s_per_gb_mm2", Text: "CPU per GB of MirrorMaker 2, " + c.text, Unit: "s/GB"},
			Figure{Name: c.prefix + "_cpu_ratio_mm2", Text: "CPU of MirrorMaker 2 beside ours, " + c.text, Unit: "ratio", Bar: least(12)},
			Figure{Name: c.prefix + "_cpu_s_per_gb_broker", Text: "CPU per GB of the target broker meanwhile, " + c.text, Unit: "s/GB"},
		)
	}
	out = append(out, consumerFigures()...)
	out = append(out, producerFigures()...)
	out = append(out, handFigures()...)
	out = append(out, redistributeFigures()...)
	out = append(out, sidecarFigures()...)
	return append(out,
		Figure{Name: "relay_cpu_s_per_gb", Text: "CPU per GB of a bare TCP relay with a CRC32-C", Unit: "s/GB"},
		Figure{Name: "copy_cpu_ratio_relay", Text: "CPU per GB beside the bare relay, uncompressed", Unit: "ratio", Bar: most(2)},
		Figure{Name: "tiny_batch_rps", Text: "records/s, one record a batch", Unit: "records/s"},
		Figure{Name: "tiny_batch_rps_mm2", Text: "records/s of MirrorMaker 2, one record a batch", Unit: "records/s"},
		Figure{Name: "tiny_batch_cpu_ratio_mm2", Text: "records per CPU second beside MirrorMaker 2, one record a batch", Unit: "ratio", Bar: least(3)},
		Figure{Name: "latency_load_rps", Text: "load while latency is measured", Unit: "records/s"},
		Figure{Name: "latency_p50_ms", Text: "source to target at a tenth of the load, p50", Unit: "ms", Bar: most(2)},
		Figure{Name: "latency_p99_ms", Text: "source to target at a tenth of the load, p99", Unit: "ms", Bar: most(10)},
		Figure{Name: "latency_source_p50_ms", Text: "of that until the source has acknowledged, p50", Unit: "ms"},
		Figure{Name: "latency_source_p99_ms", Text: "of that until the source has acknowledged, p99", Unit: "ms"},
		Figure{Name: "latency_added_p50_ms", Text: "from the source's acknowledgement to a reader of the target, p50", Unit: "ms"},
		Figure{Name: "latency_added_p99_ms", Text: "from the source's acknowledgement to a reader of the target, p99", Unit: "ms"},
		Figure{Name: "latency_target_p50_ms", Text: "meanwhile a batch written to the target directly, until acknowledged, p50", Unit: "ms"},
		Figure{Name: "latency_target_p99_ms", Text: "meanwhile a batch written to the target directly, until acknowledged, p99", Unit: "ms"},
		Figure{Name: "map_bytes_per_run", Text: "offset map of a compacted topic, on disk", Unit: "bytes/run", Bar: most(16)},
		Figure{Name: "map_plain_runs", Text: "runs of the map of a plain topic", Unit: "runs", Bar: most(1)},
		Figure{Name: "map_cold_lookup_p99_us", Text: "lookup in a cold map of 1,000,000 runs, p99", Unit: "µs", Bar: most(1000)},
		Figure{Name: "map_hot_lookups_per_s", Text: "lookups in a hot map", Unit: "1/s", Bar: least(1_000_000)},
		Figure{Name: "recovery_10000_batches_s", Text: "kill -9 and map deleted: until every lane copies again", Unit: "s", Bar: most(5)},
		Figure{Name: "recovery_10000_batches_with_lease_s", Text: "the same with the wait for the dead process's lease", Unit: "s"},
		Figure{Name: "recovery_batches", Text: "batches read back", Unit: "batches"},
		Figure{Name: "recovery_lost", Text: "records lost by it", Unit: "records", Bar: most(0)},
		Figure{Name: "recovery_doubled", Text: "records doubled by it", Unit: "records", Bar: most(0)},
		Figure{Name: "takeover_64_buckets_s", Text: "another shard takes over 64 buckets of 1,000 lanes, from the lease's end", Unit: "s", Bar: most(10)},
		Figure{Name: "reread_after_translation_records", Text: "records a partition read again by a caught-up group", Unit: "records", Bar: most(0)},
		Figure{Name: "reread_after_translation_records_behind", Text: "the same by a group 10,000 behind", Unit: "records", Bar: most(0)},
		Figure{Name: "reread_after_translation_records_mm2", Text: "after MirrorMaker 2's translation, caught up", Unit: "records"},
		Figure{Name: "reread_after_translation_records_mm2_behind", Text: "after MirrorMaker 2's translation, 10,000 behind", Unit: "records"},
		Figure{Name: "switch_spacing_ms", Text: "slowest partition without a switch, record to record, p50", Unit: "ms"},
		Figure{Name: "switch_pause_p50_ms", Text: "pause of a switched group above that, p50", Unit: "ms", Bar: most(20)},
		Figure{Name: "switch_pause_p99_ms", Text: "pause of a switched group above that, p99", Unit: "ms", Bar: most(100)},
		Figure{Name: "switch_back_standby_p50_ms", Text: "the same, only back to the standby, p50", Unit: "ms", Bar: most(20)},
		Figure{Name: "switch_control_p50_ms", Text: "from the order to drain to the decision, p50", Unit: "ms", Bar: most(15)},
		Figure{Name: "switch_control_p99_ms", Text: "from the order to drain to the decision, p99", Unit: "ms", Bar: most(50)},
		Figure{Name: "switch_control_sync_p50_ms", Text: "the same with every order on disk first, p50", Unit: "ms", Bar: most(30)},
		Figure{Name: "switch_round_trips", Text: "what 5 ms more of round trip add to the pause", Unit: "trips", Bar: most(10)},
		Figure{Name: "leave_join_pause_p50_ms", Text: "pause of the same group when it leaves and joins", Unit: "ms"},
		Figure{Name: "leave_join_ratio", Text: "that beside the pause of the switch", Unit: "ratio", Bar: least(100)},
		Figure{Name: "switches", Text: "switches under load in all these runs", Unit: "switches"},
		Figure{Name: "switch_lost", Text: "records lost by them", Unit: "records", Bar: most(0)},
		Figure{Name: "switch_twice", Text: "records handled twice", Unit: "records", Bar: most(0)},
		Figure{Name: "switch_out_of_order", Text: "records handled out of order", Unit: "records", Bar: most(0)},
		Figure{Name: "copy_rps_with_group", Text: "records/s of one link beside a live group on the same clusters", Unit: "records/s"},
		Figure{Name: "copy_rps_with_switch", Text: "the same while that group is switched to and fro", Unit: "records/s"},
		Figure{Name: "copy_rps_with_switch_ratio", Text: "the second beside the first", Unit: "ratio", Bar: least(0.9)},
		Figure{Name: "switches_beside_copy", Text: "switches during that copy", Unit: "switches"},
		Figure{Name: "switch_pause_beside_copy_p50_ms", Text: "pause of the group meanwhile, spacing of its records included, p50", Unit: "ms"},
		Figure{Name: "rss_1000_lanes_mb", Text: "memory of a shard with 1,000 lanes that copy a little", Unit: "MB", Bar: most(128)},
		Figure{Name: "rss_10000_idle_lanes_mb", Text: "memory of a shard with 10,000 lanes, most of them idle", Unit: "MB", Bar: most(512)},
		Figure{Name: "rss_10000_lanes_peak_mb", Text: "its peak since it started", Unit: "MB"},
		Figure{Name: "idle_lane_cpu_us_per_s", Text: "CPU of an idle lane", Unit: "µs/s", Bar: most(5)},
	)
}

// assemble puts the values into the catalogue and adds the ratios between
// parts.
func assemble(values Values) ([]Figure, error) {
	values = maps.Clone(values)
	ours, haveOurs := values["copy_cpu_s_per_gb"]
	bare, haveBare := values["relay_cpu_s_per_gb"]
	if haveOurs && haveBare && bare > 0 {
		values["copy_cpu_ratio_relay"] = ours / bare
	}
	var out []Figure
	for _, f := range catalogue() {
		v, ok := values[f.Name]
		if !ok {
			continue
		}
		f.Value = v
		out = append(out, f)
		delete(values, f.Name)
	}
	if len(values) > 0 {
		return nil, fmt.Errorf("assemble figures: the catalogue does not know %v", slices.Sorted(maps.Keys(values)))
	}
	return out, nil
}
