package replication

import (
	"slices"

	"github.com/starferry/starferry/replication/batch"
)

// Tiny batches that wait are merged, since brokers and consumers work per batch.
// Only what waits anyway is, so nothing waits for it.
const (
	tinyBatch   = 16 << 10
	mergedBytes = 128 << 10
	mergedMost  = 1000 // batches
	// A compressed batch that unpacks to more is left as it is.
	mergedUnpacked = 256 << 10
	unpackedMost   = 100 // batches
)

// merge makes one entry of the tiny ones that wait next, with the holes between
// them, and returns it; nil if there is nothing to merge. Bytes that turn out
// damaged are left as they are, for the target to refuse.
func (p *pipeline) merge(limit int) *entry {
	first := slices.IndexFunc(p.queue, func(e *entry) bool { return e.phase == waiting })
	if first < 0 || !p.queue[first].tiny() {
		return nil
	}
	group := p.group(first, min(limit, mergedBytes))
	if len(group) < 2 {
		return nil
	}
	var made []byte
	if codec := group[0].codec(); codec == batch.None {
		made = join(group)
	} else {
		made = repack(group, min(limit, mergedBytes))
	}
	if made == nil {
		for _, e := range group {
			e.alone = true
		}
		return nil
	}
	last := slices.Index(p.queue, group[len(group)-1])
	merged := &entry{batch: made}
	p.bytes += int64(len(made))
	for _, e := range p.queue[first : last+1] {
		merged.pieces = append(merged.pieces, e.pieces...)
		merged.records += e.records
		merged.epoch = e.epoch
		p.bytes -= int64(len(e.batch))
		e.drop()
	}
	merged.pieces = joinPieces(merged.pieces)
	p.queue = slices.Replace(p.queue, first, last+1, merged)
	return merged
}

// tiny reports whether an entry is worth being merged.
func (e *entry) tiny() bool {
	return !e.alone && !e.stamped && len(e.batch) > 0 && len(e.batch) <= tinyBatch
}

func (e *entry) codec() batch.Codec { return batch.Batch(e.batch).Codec() }

// group lists entries from the first on that may become one of at most limit
// bytes.
func (p *pipeline) group(first, limit int) (out []*entry) {
	codec := p.queue[first].codec()
	most, size := mergedMost, 0
	if codec != batch.None {
		most = unpackedMost
	}
	for _, e := range p.queue[first:] {
		if e.batch == nil {
			continue // a hole
		}
		if !e.tiny() || e.phase != waiting || e.codec() != codec || len(out) == most {
			break
		}
		b := batch.Batch(e.batch)
		n := b.JoinedSize()
		if codec == batch.None && !b.Joinable() || batchHeader+size+n > limit {
			break
		}
		size += n
		out = append(out, e)
	}
	return out
}

func join(group []*entry) []byte {
	bs := make([]batch.Batch, len(group))
	for i, e := range group {
		bs[i] = e.batch
	}
	b, err := batch.Join(bs)
	if err != nil {
		return nil
	}
	return b
}

// repack merges compressed batches.
func repack(group []*entry, limit int) []byte {
	bs := make([]batch.Batch, len(group))
	for i, e := range group {
		bs[i] = e.batch
	}
	copies, err := batch.Merge(bs, nil, batch.Limits{Decompressed: mergedUnpacked, Batch: limit})
	if err != nil || len(copies) != 1 {
		return nil
	}
	return copies[0].Batch
}

// joinPieces makes one piece of each stretch of copied records.
func joinPieces(in []piece) []piece {
	out := in[:0]
	for _, p := range in {
		if n := len(out); n > 0 && p.hole == "" && out[n-1].hole == "" && out[n-1].end() == p.source {
			out[n-1].count += p.count
			continue
		}
		out = append(out, p)
	}
	return out
}
