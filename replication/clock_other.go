//go:build !linux

package replication

import "time"

// bootTime counts suspended time: outside Linux only the wall clock does.
func bootTime() time.Duration { return wallTime() }
