package batch

import (
	"fmt"
	"testing"

	"github.com/starferry/starferry"
)

// thousandBytes are n records of 1 KB.
func thousandBytes(base starferry.Offset, n int) []Record {
	rs := make([]Record, n)
	for i := range rs {
		rs[i] = Record{Offset: base + starferry.Offset(i), Value: make([]byte, 1000)}
	}
	return rs
}

func BenchmarkStamp(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		batch := build(b, thousandBytes(0, n), Options{})
		b.Run(fmt.Sprintf("%dKB", n), func(b *testing.B) {
			for i := int32(0); b.Loop(); i++ {
				Stamp(batch, 77, 5, i)
			}
		})
	}
}

func BenchmarkMergeOfSingleRecords(b *testing.B) {
	var bs []Batch
	for o := range starferry.Offset(100) {
		bs = append(bs, build(b, thousandBytes(o, 1), Options{}))
	}
	b.SetBytes(100 * 1000)
	for b.Loop() {
		if _, err := Merge(bs, nil, Limits{limit, limit}); err != nil {
			b.Fatal(err)
		}
	}
}
