package switchover

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"reflect"
	"slices"
	"unsafe"

	"github.com/starferry/starferry"
)

// The exhaustive search keeps a state of the world as a short row of numbers:
// each names one interned part (a member, a placement, what a coordinator
// knows). Parts never change; a step makes new ones. What only counts on
// (generations, KV revisions) is kept as ranks, so that states that differ in
// nothing else are one.

// seen are the revisions, and the generations of the old and of the new cluster,
// that a part mentions, as sets of bits. The last two are those generations of
// which it matters whether another follows directly.
type seen [5]uint64

func (n *seen) revision(v uint64) {
	if v != 0 {
		n[0] |= 1 << v
	}
}

func (n *seen) generation(g starferry.Generation) {
	if g >= newGenerations {
		n[2] |= 1 << (g - newGenerations)
	} else if g != 0 {
		n[1] |= 1 << g
	}
}

// before notes a generation whose direct follower is told from others.
func (n *seen) before(g starferry.Generation) {
	if g >= newGenerations {
		n[4] |= 1 << (g - newGenerations)
	} else if g != 0 {
		n[3] |= 1 << g
	}
}

// newGenerations is added to the generations of the new cluster, to tell them
// from those of the old one.
const newGenerations = 100

// ranks says what becomes of each number.
type ranks struct {
	from seen
	to   [3][64]uint8
	same bool
}

// rank gives the numbers of a set new ones from 2 on. Their order stays, and,
// where that matters, whether one follows the other directly.
func rank(n seen) *ranks {
	r := &ranks{from: n, same: true}
	for k := range r.to {
		next, last := uint8(2), -1
		for b := n[k]; b != 0; b &= b - 1 {
			v := bits.TrailingZeros64(b)
			switch {
			case last >= 0 && v-last > 1 && k > 0 && n[k+2]>>last&1 == 1:
				next += 2
			case last >= 0:
				next++
			}
			r.to[k][v] = next
			r.same = r.same && int(next) == v
			last = v
		}
	}
	return r
}

func (r *ranks) revision(v uint64) uint64 { return uint64(r.to[0][v]) }

func (r *ranks) generation(g starferry.Generation) starferry.Generation {
	switch {
	case g >= newGenerations:
		return newGenerations + starferry.Generation(r.to[2][g-newGenerations])
	case g != 0:
		return starferry.Generation(r.to[1][g])
	}
	return 0
}

// shelf interns values of one kind by what they hold, exported or not.
type shelf[T any] struct {
	ids     map[string]uint32
	vals    []*T
	nums    []seen
	renamed map[renaming]uint32
	buf     []byte
}

type renaming struct {
	id   uint32
	from seen
}

func newShelf[T any]() *shelf[T] {
	s := &shelf[T]{ids: map[string]uint32{}, renamed: map[renaming]uint32{}, vals: []*T{nil}, nums: make([]seen, 1)}
	return s // 0 is nothing
}

func (s *shelf[T]) id(v *T) uint32 {
	if v == nil {
		return 0
	}
	var n seen
	s.buf = encode(s.buf[:0], reflect.ValueOf(v).Elem(), &n)
	if id, ok := s.ids[string(s.buf)]; ok {
		return id
	}
	s.vals, s.nums = append(s.vals, v), append(s.nums, n)
	id := uint32(len(s.vals) - 1)
	s.ids[string(s.buf)] = id
	return id
}

// copy returns the part with a number, to be changed.
func (s *shelf[T]) copy(id uint32) *T { return duplicate(s.vals[id], nil) }

// rename returns the number of the same part with other ranks.
func (s *shelf[T]) rename(id uint32, r *ranks) uint32 {
	n := s.nums[id]
	if n == (seen{}) {
		return id
	}
	k := renaming{id, r.from}
	if to, ok := s.renamed[k]; ok {
		return to
	}
	to := s.id(duplicate(s.vals[id], r))
	s.renamed[k] = to
	return to
}

var (
	generationType = reflect.TypeFor[starferry.Generation]()
	revisionType   = reflect.TypeFor[uint64]()
	sideType       = reflect.TypeFor[side]()

	handledGenField = func() int { f, _ := sideType.FieldByName("handledGen"); return f.Index[0] }()
)

// encode writes all that a value holds, and notes the numbers that count on.
func encode(b []byte, v reflect.Value, n *seen) []byte {
	switch v.Kind() {
	case reflect.Bool:
		if v.Bool() {
			return append(b, 1)
		}
		return append(b, 0)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if v.Type() == generationType {
			n.generation(starferry.Generation(v.Int()))
		}
		return binary.AppendVarint(b, v.Int())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if v.Type() == revisionType {
			n.revision(v.Uint())
		}
		return binary.AppendUvarint(b, v.Uint())
	case reflect.Float64:
		return binary.AppendUvarint(b, uint64(v.Float()))
	case reflect.String:
		return append(binary.AppendUvarint(b, uint64(v.Len())), v.String()...)
	case reflect.Pointer:
		if v.IsNil() {
			return append(b, 0)
		}
		return encode(append(b, 1), v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type() == sideType && i == handledGenField {
				n.before(starferry.Generation(v.Field(i).Int()))
			}
			b = encode(b, v.Field(i), n)
		}
		return b
	case reflect.Slice, reflect.Array:
		b = binary.AppendUvarint(b, uint64(v.Len()))
		for i := range v.Len() {
			b = encode(b, v.Index(i), n)
		}
		return b
	case reflect.Map:
		return encodeMap(b, v, n)
	}
	panic(fmt.Sprintf("the search cannot keep a %s", v.Type()))
}

func encodeMap(b []byte, v reflect.Value, n *seen) []byte {
	if v.IsNil() {
		return append(b, 0)
	}
	var all [][]byte
	for it := v.MapRange(); it.Next(); {
		all = append(all, encode(encode(nil, it.Key(), n), it.Value(), n))
	}
	slices.SortFunc(all, bytes.Compare)
	b = binary.AppendUvarint(b, uint64(len(all))+1)
	for _, e := range all {
		b = append(b, e...)
	}
	return b
}

// duplicate copies a value in depth, with other ranks if asked for.
func duplicate[T any](v *T, r *ranks) *T {
	out := new(T)
	into(reflect.ValueOf(out).Elem(), reflect.ValueOf(v).Elem(), r)
	return out
}

// into copies src over dst; both are addressable.
func into(dst, src reflect.Value, r *ranks) {
	switch src.Kind() {
	case reflect.Pointer:
		if !src.IsNil() {
			p := reflect.New(src.Type().Elem())
			into(p.Elem(), src.Elem(), r)
			dst.Set(p)
		}
	case reflect.Struct:
		for i := range src.NumField() {
			into(open(dst.Field(i)), open(src.Field(i)), r)
		}
	case reflect.Slice:
		if !src.IsNil() {
			dst.Set(reflect.MakeSlice(src.Type(), src.Len(), src.Len()))
			for i := range src.Len() {
				into(dst.Index(i), src.Index(i), r)
			}
		}
	case reflect.Map:
		if src.IsNil() {
			return
		}
		dst.Set(reflect.MakeMapWithSize(src.Type(), src.Len()))
		for it := src.MapRange(); it.Next(); {
			e, was := reflect.New(src.Type().Elem()).Elem(), reflect.New(src.Type().Elem()).Elem()
			was.Set(it.Value())
			into(e, was, r)
			dst.SetMapIndex(it.Key(), e)
		}
	default:
		dst.Set(src)
		if r == nil {
			return
		}
		switch src.Type() {
		case generationType:
			dst.SetInt(int64(r.generation(starferry.Generation(src.Int()))))
		case revisionType:
			dst.SetUint(r.revision(src.Uint()))
		}
	}
}

// open makes an unexported field of an addressable struct readable and settable.
func open(v reflect.Value) reflect.Value {
	return reflect.NewAt(v.Type(), unsafe.Pointer(v.UnsafeAddr())).Elem()
}

// rack interns small values that can be compared.
type rack[T comparable] struct {
	ids  map[T]uint32
	vals []T
}

func newRack[T comparable]() *rack[T] {
	var zero T
	return &rack[T]{ids: map[T]uint32{zero: 0}, vals: []T{zero}}
}

func (s *rack[T]) id(v T) uint32 {
	if id, ok := s.ids[v]; ok {
		return id
	}
	id := uint32(len(s.vals))
	s.ids[v], s.vals = id, append(s.vals, v)
	return id
}
