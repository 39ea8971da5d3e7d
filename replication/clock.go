package replication

import "time"

func wallTime() time.Duration { return time.Duration(time.Now().UnixNano()) }

// clock is what a lease counts by. Tests stop it.
type clock func() time.Duration
