package checker

import (
	"slices"

	"github.com/starferry/starferry"
)

// copied compares the target's logs with the source's: each record once, in
// order, byte for byte. It compares nothing for partitions that only one side
// has been read of.
func copied(e Evidence, v *Verdict) {
	source, target := e.Logs[e.Source], e.Logs[e.Target]
	var parts []starferry.TopicPartition
	for tp := range source {
		if _, ok := target[tp]; ok {
			parts = append(parts, tp)
		}
	}
	slices.SortFunc(parts, starferry.TopicPartition.Compare)
	for _, tp := range parts {
		compare(e, v, tp, source[tp], target[tp])
	}
}

// compare walks both logs of one partition side by side and stops at the first
// difference, because all that follows would differ too.
func compare(e Evidence, v *Verdict, tp starferry.TopicPartition, source, target Log) {
	wrong := func(n int, format string, args ...any) {
		v.CopiedWrong += n
		v.find("copied wrong", "%s: "+format, append([]any{tp}, args...)...)
	}
	for i, t := range target {
		if i >= len(source) {
			wrong(len(target)-i, "%s holds %d records more than %s, from record %d at offset %d on", e.Target, len(target)-i, e.Source, t.ID, t.Offset)
			return
		}
		s := source[i]
		if s.ID != t.ID {
			wrong(1, "%s has record %d at offset %d where record %d (offset %d of %s) should follow", e.Target, t.ID, t.Offset, s.ID, s.Offset, e.Source)
			return
		}
		if s.Sum != t.Sum {
			wrong(1, "record %d differs: offset %d of %s and offset %d of %s", s.ID, s.Offset, e.Source, t.Offset, e.Target)
			return
		}
	}
	if missing := len(source) - len(target); e.Copied && missing > 0 {
		wrong(missing, "%s lacks the last %d records, from record %d on", e.Target, missing, source[len(target)].ID)
	}
}
