//go:build !linux

package consumer

import "time"

// sinceBoot is nanoseconds of the wall clock, the one clock that goes on in a
// suspended machine on every system.
func sinceBoot() int64 { return time.Now().UnixNano() }
