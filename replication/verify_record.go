package replication

import (
	"bytes"
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"time"

	"github.com/starferry/starferry/replication/batch"
)

// difference compares a record with its copy and describes the first field
// that is not the same; Field is empty if all are. Contents of records may be
// secret: they are shown only if asked for.
func difference(r, c batch.Record, times, contents bool) Difference {
	d := Difference{Source: r.Offset, Target: c.Offset}
	show := func(field string, a, b []byte) Difference {
		d.Field, d.SourceHas, d.TargetHas = field, describeBytes(a, contents), describeBytes(b, contents)
		return d
	}
	switch {
	case !sameBytes(r.Key, c.Key):
		return show("key", r.Key, c.Key)
	case !sameBytes(r.Value, c.Value):
		return show("value", r.Value, c.Value)
	case len(r.Headers) != len(c.Headers):
		d.Field, d.SourceHas, d.TargetHas = "headers", describeHeaders(r, contents), describeHeaders(c, contents)
		return d
	case times && r.Time != c.Time:
		d.Field, d.SourceHas, d.TargetHas = "time", describeTime(r.Time), describeTime(c.Time)
		return d
	}
	for i := range r.Headers {
		a, b := r.Headers[i], c.Headers[i]
		if a.Key != b.Key {
			return show(fmt.Sprintf("key of header %d", i), []byte(a.Key), []byte(b.Key))
		}
		if !sameBytes(a.Value, b.Value) {
			return show(fmt.Sprintf("value of header %d", i), a.Value, b.Value)
		}
	}
	return d
}

// sameBytes compares bytes, and null with empty.
func sameBytes(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

// shownBytes is how much of a field is shown.
const shownBytes = 64

// describeBytes tells the size and a hash, or the beginning.
func describeBytes(b []byte, contents bool) string {
	if b == nil {
		return "null"
	}
	if !contents {
		sum := sha256.Sum256(b)
		return fmt.Sprintf("%d bytes (sha256 %s)", len(b), hex.EncodeToString(sum[:6]))
	}
	if len(b) > shownBytes {
		return fmt.Sprintf("%d bytes %+q…", len(b), b[:shownBytes])
	}
	return fmt.Sprintf("%d bytes %+q", len(b), b)
}

func describeHeaders(r batch.Record, contents bool) string {
	s := fmt.Sprintf("%d headers", len(r.Headers))
	if !contents {
		return s
	}
	for i, h := range r.Headers {
		if i == 4 {
			return s + ", …"
		}
		s += fmt.Sprintf(", %s=%s", describeBytes([]byte(h.Key), true), describeBytes(h.Value, true))
	}
	return s
}

func describeTime(ms int64) string {
	return fmt.Sprintf("%d (%s)", ms, time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z"))
}

// digests hash the compared records of both sides in order.
type digests struct {
	source, target hash.Hash
	buf            []byte
}

// newDigests goes on from states that save returned, or begins if there are
// none.
func newDigests(source, target []byte) (*digests, error) {
	d := &digests{source: sha256.New(), target: sha256.New()}
	for i, h := range []hash.Hash{d.source, d.target} {
		state := [][]byte{source, target}[i]
		if len(state) == 0 {
			continue
		}
		if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(state); err != nil {
			return nil, fmt.Errorf("read state of a hash: %w", err)
		}
	}
	return d, nil
}

func (d *digests) add(r, c batch.Record, times bool) {
	d.source.Write(d.encode(r, times))
	d.target.Write(d.encode(c, times))
}

// encode writes a record so that no two different ones look the same.
func (d *digests) encode(r batch.Record, times bool) []byte {
	b := d.buf[:0]
	if times {
		b = binary.AppendVarint(b, r.Time)
	}
	b = appendField(appendField(b, r.Key), r.Value)
	b = binary.AppendVarint(b, int64(len(r.Headers)))
	for _, h := range r.Headers {
		b = appendField(appendField(b, []byte(h.Key)), h.Value)
	}
	d.buf = b
	return b
}

func appendField(b, field []byte) []byte {
	if field == nil {
		return binary.AppendVarint(b, -1)
	}
	return append(binary.AppendVarint(b, int64(len(field))), field...)
}

// save returns the states to go on from, and the hashes so far.
func (d *digests) save() (states [2][]byte, sums [2]string, err error) {
	for i, h := range []hash.Hash{d.source, d.target} {
		if states[i], err = h.(encoding.BinaryMarshaler).MarshalBinary(); err != nil {
			return states, sums, fmt.Errorf("save state of a hash: %w", err)
		}
		sums[i] = hex.EncodeToString(h.Sum(nil))
	}
	return states, sums, nil
}
