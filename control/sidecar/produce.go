package sidecar

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/producer"
)

// produceBytes bounds a request to produce.
const produceBytes = 32 << 20

// order is a request to produce records.
type order struct {
	Records []ordered `json:"records"`
}

// ordered is a record to be produced. A field of bytes that is left out is null.
type ordered struct {
	Partition   *starferry.Partition `json:"partition"`
	Timestamp   int64                `json:"timestamp"` // Unix milliseconds; 0: now
	Key         json.RawMessage      `json:"key"`
	KeyBase64   *string              `json:"key_base64"`
	Value       json.RawMessage      `json:"value"`
	ValueBase64 *string              `json:"value_base64"`
	Headers     []orderedHeader      `json:"headers"`
}

type orderedHeader struct {
	Key         string          `json:"key"`
	Value       json.RawMessage `json:"value"`
	ValueBase64 *string         `json:"value_base64"`
}

// produced is what became of a record. Without an error it was written.
type produced struct {
	Cluster   starferry.ClusterName `json:"cluster,omitempty"`
	Partition starferry.Partition   `json:"partition"`
	Offset    starferry.Offset      `json:"offset"`
	Error     string                `json:"error,omitempty"`
	InDoubt   bool                  `json:"in_doubt,omitempty"` // it may have been written
}

func (s *Sidecar) serveProduce(w http.ResponseWriter, r *http.Request) {
	topic := starferry.Topic(r.PathValue("topic"))
	if !slices.Contains(s.cfg.Produce, topic) {
		http.Error(w, fmt.Sprintf("topic %q is none that this sidecar produces to, which are %v: name it when the sidecar is started", topic, s.cfg.Produce), http.StatusNotFound)
		return
	}
	// Pages of a browser send this type only to whom they may talk to.
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		http.Error(w, "want Content-Type: application/json", http.StatusUnsupportedMediaType)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, produceBytes))
	if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
		http.Error(w, fmt.Sprintf("more than %d bytes: send fewer records at once", produceBytes), http.StatusRequestEntityTooLarge)
		return
	}
	if err != nil {
		return // whoever asked has gone
	}
	rs, err := s.ordered(topic, body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	results, err := s.producer.Produce(r.Context(), rs...)
	out := make([]produced, len(rs))
	for i := range out {
		if i >= len(results) { // nobody waited for it
			out[i] = produced{Offset: starferry.NoOffset, Error: err.Error(), InDoubt: errors.Is(err, producer.ErrInDoubt)}
			continue
		}
		k := results[i]
		out[i] = produced{Cluster: k.Cluster, Partition: k.Partition, Offset: k.Offset}
		if k.Err != nil {
			out[i] = produced{Offset: starferry.NoOffset, Error: k.Err.Error(), InDoubt: errors.Is(k.Err, producer.ErrInDoubt)}
		}
	}
	status := http.StatusOK
	if err != nil {
		status = http.StatusServiceUnavailable
	}
	answerJSON(w, status, map[string]any{"results": out})
}

// ordered reads the records of a request.
func (s *Sidecar) ordered(topic starferry.Topic, body []byte) ([]producer.Record, error) {
	var o order
	if err := strictly(body, &o); err != nil {
		return nil, fmt.Errorf(`read records: %w: want {"records": [{"key": …, "value": …}]}`, err)
	}
	if len(o.Records) == 0 {
		return nil, errors.New("read records: there are none")
	}
	out := make([]producer.Record, len(o.Records))
	for i, r := range o.Records {
		p := producer.Record{Topic: topic, Partition: r.Partition}
		var err error
		field := func(name string, v json.RawMessage, coded *string, raw bool) []byte {
			b, wrong := s.unpack(v, coded, raw)
			if wrong != nil && err == nil {
				err = fmt.Errorf("read record %d: %s: %w", i, name, wrong)
			}
			return b
		}
		p.Key = field("key", r.Key, r.KeyBase64, false)
		p.Value = field("value", r.Value, r.ValueBase64, s.cfg.Encoding == JSON)
		for _, h := range r.Headers {
			p.Headers = append(p.Headers, producer.Header{Key: h.Key, Value: field("header "+h.Key, h.Value, h.ValueBase64, false)})
		}
		if r.Timestamp != 0 {
			p.Timestamp = time.UnixMilli(r.Timestamp)
		}
		if err != nil {
			return nil, err
		}
		out[i] = p
	}
	return out, nil
}

// unpack is bytes out of JSON, as writer puts them in.
func (s *Sidecar) unpack(v json.RawMessage, coded *string, raw bool) ([]byte, error) {
	switch {
	case v != nil && coded != nil:
		return nil, errors.New("as it is and in base64: keep one")
	case coded != nil:
		b, err := base64.StdEncoding.DecodeString(*coded)
		if err != nil {
			return nil, fmt.Errorf("no base64: %w", err)
		}
		return b, nil
	case v == nil:
		return nil, nil
	case raw:
		return v, nil
	case s.cfg.Encoding == Base64:
		return nil, errors.New("want it in base64, under the name with _base64; or start the sidecar with another encoding")
	}
	var text *string
	if err := json.Unmarshal(v, &text); err != nil || text == nil {
		return nil, fmt.Errorf("want a string, found %s; leave it out for null", strings.ToValidUTF8(string(v[:min(len(v), 40)]), ""))
	}
	return []byte(*text), nil
}
