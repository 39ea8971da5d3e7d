package control

import (
	"fmt"
	"strings"
)

// UserData is what an instance puts beside its subscription when it joins a
// group, so that a coordinator's description tells it from other clients. A
// static member says nothing of its process: boot is empty. The number makes it
// differ from what was sent before, which forces a generation.
func UserData(boot string, n int64) []byte {
	if boot == "" {
		return fmt.Appendf(nil, "starferry n=%d", n)
	}
	return fmt.Appendf(nil, "starferry boot=%s n=%d", boot, n)
}

// ReadUserData reads what UserData wrote. For the user data of any other client
// ours is false.
func ReadUserData(data []byte) (boot string, ours bool) {
	rest, ours := strings.CutPrefix(string(data), "starferry ")
	for _, field := range strings.Fields(rest) {
		if v, ok := strings.CutPrefix(field, "boot="); ok && ours {
			boot = v
		}
	}
	return boot, ours
}
