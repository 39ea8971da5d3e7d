package replication

import (
	"time"

	"golang.org/x/sys/unix"
)

// bootTime is the time since boot, suspended time included: a laptop's lid or a
// paused virtual machine must not make an expired lease look alive.
func bootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return wallTime()
	}
	return time.Duration(ts.Nano())
}
