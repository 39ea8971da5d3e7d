package replication

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/starferry/starferry"
)

// A spec travels as one value of NATS, which takes 1 MiB unless told otherwise.
// Each topic's name stands in it once and each token once, and what is not small
// is compressed: 20,000 topics fit whatever they are called.
const (
	compressAbove = 4 << 10
	maxStored     = 256 << 20 // decompressed
)

// storedSpec is a LinkSpec as it is stored.
type storedSpec struct {
	plainSpec
	Topics  []storedTopic `json:"topics"`
	Tokens  []string      `json:"tokens,omitempty"`
	AddedBy *struct{}     `json:"added_by,omitempty"` // these hide the ones inside
	Begin   *struct{}     `json:"begin,omitempty"`
	Ends    *struct{}     `json:"ends,omitempty"`
	MadeBy  int           `json:"made_by,omitempty"` // place of the token, from 1
}

type plainSpec LinkSpec

type storedTopic struct {
	Name  starferry.Topic    `json:"n"`
	By    int                `json:"by,omitempty"` // place of the token, from 1
	Begin []starferry.Offset `json:"b,omitempty"`  // by partition; -1: none
	Ends  []starferry.Offset `json:"e,omitempty"`
}

// byTopic makes lists by partition of offsets.
func byTopic(m map[starferry.TopicPartition]starferry.Offset) map[starferry.Topic][]starferry.Offset {
	out := map[starferry.Topic][]starferry.Offset{}
	for _, tp := range slices.SortedFunc(maps.Keys(m), starferry.TopicPartition.Compare) {
		for starferry.Partition(len(out[tp.Topic])) < tp.Partition {
			out[tp.Topic] = append(out[tp.Topic], -1)
		}
		out[tp.Topic] = append(out[tp.Topic], m[tp])
	}
	return out
}

// byPartition adds what byTopic has made of a topic; a nil map is made.
func byPartition(m map[starferry.TopicPartition]starferry.Offset, t starferry.Topic, list []starferry.Offset) map[starferry.TopicPartition]starferry.Offset {
	for p, o := range list {
		if m == nil {
			m = map[starferry.TopicPartition]starferry.Offset{}
		}
		if o >= 0 {
			m[starferry.TopicPartition{Topic: t, Partition: starferry.Partition(p)}] = o
		}
	}
	return m
}

// encodeSpec makes the stored form.
func encodeSpec(s LinkSpec) ([]byte, error) {
	out := storedSpec{plainSpec: plainSpec(s)}
	places := map[string]int{}
	place := func(t starferry.Topic) int {
		token, ok := s.AddedBy[t]
		if !ok {
			return 0
		}
		if places[token] == 0 {
			out.Tokens = append(out.Tokens, token)
			places[token] = len(out.Tokens)
		}
		return places[token]
	}
	out.MadeBy = place("")
	begin, ends := byTopic(s.Begin), byTopic(s.Ends)
	for _, t := range s.Topics {
		out.Topics = append(out.Topics, storedTopic{Name: t, By: place(t), Begin: begin[t], Ends: ends[t]})
	}
	b, err := json.Marshal(out)
	if err != nil || len(b) <= compressAbove {
		return b, err
	}
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
	if err != nil {
		return nil, err
	}
	defer func() { _ = w.Close() }() // writes nowhere
	return w.EncodeAll(b, nil), nil
}

// decodeSpec reads the stored form.
func decodeSpec(b []byte) (LinkSpec, error) {
	if !bytes.HasPrefix(b, []byte("{")) {
		r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxStored))
		if err != nil {
			return LinkSpec{}, err
		}
		defer r.Close()
		if b, err = r.DecodeAll(b, nil); err != nil {
			return LinkSpec{}, err
		}
	}
	var in storedSpec
	if err := json.Unmarshal(b, &in); err != nil {
		return LinkSpec{}, err
	}
	s := LinkSpec(in.plainSpec)
	if s.Version != specVersion {
		return s, fmt.Errorf("it has version %d, and this starferry understands %d: let all shards and agents be of one version", s.Version, specVersion)
	}
	s.Topics, s.AddedBy = make([]starferry.Topic, len(in.Topics)), make(map[starferry.Topic]string, len(in.Topics)+1)
	token := func(t starferry.Topic, place int) error {
		if place < 0 || place > len(in.Tokens) {
			return fmt.Errorf("topic %q refers to token %d of %d", t, place, len(in.Tokens))
		}
		if place > 0 {
			s.AddedBy[t] = in.Tokens[place-1]
		}
		return nil
	}
	if err := token("", in.MadeBy); err != nil {
		return s, err
	}
	for i, t := range in.Topics {
		if s.Topics[i] = t.Name; i > 0 && cmp.Compare(in.Topics[i-1].Name, t.Name) >= 0 {
			return s, fmt.Errorf("topic %q is out of order", t.Name)
		}
		if err := token(t.Name, t.By); err != nil {
			return s, err
		}
		s.Begin, s.Ends = byPartition(s.Begin, t.Name, t.Begin), byPartition(s.Ends, t.Name, t.Ends)
	}
	s.Topics = slices.Clip(s.Topics)
	return s, s.Check()
}
