package consumer

import "golang.org/x/sys/unix"

// sinceBoot is nanoseconds of a clock that goes on while the machine is
// suspended and the process is stopped. Go's monotonic clock stands still in a
// suspended machine, and a member that trusts it would hand out records of
// partitions it lost in its sleep.
func sinceBoot() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0 // never good: every hand-out asks the coordinator first
	}
	return ts.Nano()
}
