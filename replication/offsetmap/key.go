package offsetmap

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/starferry/starferry"
)

// LaneKey names a lane in a store.
type LaneKey struct {
	Link starferry.LinkName
	starferry.TopicPartition
	// Incarnation tells a topic from another of the same name that was deleted:
	// the topic's id, or whatever the shard knows it by.
	Incarnation string
}

// String returns "link topic/partition (incarnation)".
func (k LaneKey) String() string {
	s := string(k.Link) + " " + k.TopicPartition.String()
	if k.Incarnation != "" {
		s += " (" + k.Incarnation + ")"
	}
	return s
}

// Keys of a lane are its prefix, then a kind, and for blocks generation and
// source offset, big-endian so that they are in the map's order:
//
//	link 0 topic 0 incarnation 0 partition  0
//	link 0 topic 0 incarnation 0 partition  1 generation source
const (
	kindHeader = 0
	kindBlock  = 1
	kindEnd    = 2 // above all of a lane
	blockTail  = 1 + 4 + 8
)

// prefix is what all keys of the lane begin with.
func (k LaneKey) prefix() ([]byte, error) {
	var out []byte
	for _, part := range []string{string(k.Link), string(k.Topic), k.Incarnation} {
		if strings.ContainsRune(part, 0) {
			return nil, fmt.Errorf("name lane %q: names contain no zero bytes", k.String())
		}
		out = append(append(out, part...), 0)
	}
	if k.Topic == "" || k.Partition < 0 {
		return nil, fmt.Errorf("name lane %q: want a topic and a partition", k.String())
	}
	return binary.BigEndian.AppendUint32(out, uint32(k.Partition)), nil
}

// parsePrefix is the lane that a key belongs to, and its prefix.
func parsePrefix(key []byte) (LaneKey, []byte, bool) {
	var parts [3]string
	rest := key
	for i := range parts {
		part, after, ok := bytes.Cut(rest, []byte{0})
		if !ok {
			return LaneKey{}, nil, false
		}
		parts[i], rest = string(part), after
	}
	if len(rest) < 5 {
		return LaneKey{}, nil, false
	}
	k := LaneKey{Link: starferry.LinkName(parts[0]), Incarnation: parts[2]}
	k.Topic, k.Partition = starferry.Topic(parts[1]), starferry.Partition(binary.BigEndian.Uint32(rest))
	return k, key[:len(key)-len(rest)+4], true
}

func headerKey(prefix []byte) []byte { return append(bytes.Clone(prefix), kindHeader) }

func blockKey(prefix []byte, generation uint32, source starferry.Offset) []byte {
	out := make([]byte, 0, len(prefix)+blockTail)
	out = append(append(out, prefix...), kindBlock)
	out = binary.BigEndian.AppendUint32(out, generation)
	return binary.BigEndian.AppendUint64(out, uint64(source))
}

// parseBlockKey reads what blockKey wrote behind the prefix.
func parseBlockKey(prefix, key []byte) (generation uint32, source starferry.Offset, ok bool) {
	tail := key[len(prefix):]
	if len(tail) != blockTail || tail[0] != kindBlock {
		return 0, 0, false
	}
	return binary.BigEndian.Uint32(tail[1:]), starferry.Offset(binary.BigEndian.Uint64(tail[5:])), true
}
