package replication

import (
	"math"
	"time"
)

// flow is how many bytes a second a lane has copied of late: a byte counts the
// less, the longer ago it was copied. The zero value has seen none.
type flow struct {
	rate float64 // bytes a second, as of at
	at   time.Time
}

// flowOver is after which time a byte counts a third.
const flowOver = 10 * time.Second

// add counts bytes that were copied just now.
func (f *flow) add(n int64, now time.Time) {
	f.rate, f.at = f.as(now)+float64(n)/flowOver.Seconds(), now
}

// as is the rate as of a later time.
func (f *flow) as(now time.Time) float64 {
	if f.rate == 0 {
		return 0
	}
	return f.rate * math.Exp(-now.Sub(f.at).Seconds()/flowOver.Seconds())
}
