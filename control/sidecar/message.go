package sidecar

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"unicode/utf8"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/consumer"
)

// Version is that of the messages.
const Version = 1

// writer puts records into JSON. It appends, as a delivery may be large and
// there are many.
type writer struct {
	encoding Encoding
	group    starferry.Group
	instance starferry.InstanceID
}

// delivery is the body of a request.
func (w writer) delivery(b []byte, rs []consumer.Record) []byte {
	b = append(b, `{"version":`...)
	b = strconv.AppendInt(b, Version, 10)
	b = text(append(b, `,"group":`...), string(w.group))
	b = text(append(b, `,"instance":`...), string(w.instance))
	b = append(b, `,"records":[`...)
	for i, r := range rs {
		if i > 0 {
			b = append(b, ',')
		}
		b = w.record(b, r)
	}
	return append(b, "]}\n"...)
}

func (w writer) record(b []byte, r consumer.Record) []byte {
	b = text(append(b, `{"cluster":`...), string(r.Cluster))
	b = text(append(b, `,"topic":`...), string(r.Topic))
	b = strconv.AppendInt(append(b, `,"partition":`...), int64(r.Partition), 10)
	b = strconv.AppendInt(append(b, `,"offset":`...), int64(r.Offset), 10)
	b = strconv.AppendInt(append(b, `,"timestamp":`...), r.Timestamp.UnixMilli(), 10)
	b = strconv.AppendInt(append(b, `,"attempt":`...), int64(r.Attempts+r.Tries+1), 10)
	b = w.bytes(b, ",", "key", r.Key, false)
	b = w.bytes(b, ",", "value", r.Value, w.encoding == JSON)
	b = append(b, `,"headers":[`...)
	for i, h := range r.Headers {
		if i > 0 {
			b = append(b, ',')
		}
		b = text(append(b, `{"key":`...), h.Key)
		b = append(w.bytes(b, ",", "value", h.Value, false), '}')
	}
	return append(b, "]}"...)
}

// bytes appends a field of bytes: as they are, or under the name with _base64. Of
// null there is neither.
func (w writer) bytes(b []byte, sep, name string, v []byte, raw bool) []byte {
	if v == nil {
		return b
	}
	b = append(append(append(b, sep...), '"'), name...)
	switch {
	case raw && json.Valid(v):
		return append(append(b, `":`...), v...)
	case !raw && w.encoding != Base64 && utf8.Valid(v):
		return text(append(b, `":`...), string(v))
	}
	b = base64.StdEncoding.AppendEncode(append(b, `_base64":"`...), v)
	return append(b, '"')
}

// text appends a string. What is no UTF-8 in it is replaced.
func text(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			quoted, err := json.Marshal(s)
			if err != nil { // a string always can be
				return append(b, `""`...)
			}
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}
