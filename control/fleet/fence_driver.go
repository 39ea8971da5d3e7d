package fleet

import (
	"bytes"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Several agents may stand in one fence: those that keep it, which commit
// nothing, and those that drive a switch, which do. Two that drive, one of them
// woken up late or cut off from NATS, would stand in the same generation, and
// what one has read the other could change before it commits. So the leader of
// each generation lets one of them drive: the one that has begun last, on both
// clusters the same. The others wait until it has gone, which makes a new
// generation.

const driverWord = "drive"

// claim is what a fence says of itself as it joins. Its last word is always
// new, for a member that joins with changed metadata forces a generation.
func (x *fence) claim() []byte {
	if x.drives == 0 {
		return fmt.Appendf(nil, "keep %d", time.Now().UnixNano())
	}
	return fmt.Appendf(nil, "%s %d %d", driverWord, x.drives, time.Now().UnixNano())
}

// claimed reads since when a member wants to drive; 0: it does not.
func claimed(metadata []byte) int64 {
	words := bytes.Fields(metadata)
	if len(words) != 3 || string(words[0]) != driverWord {
		return 0
	}
	since, err := strconv.ParseInt(string(words[1]), 10, 64)
	if err != nil {
		return 0
	}
	return since
}

// assign is what the leader of a generation tells its members: who drives.
func assign(members []kmsg.JoinGroupResponseMember) []kmsg.SyncGroupRequestGroupAssignment {
	var all []kmsg.SyncGroupRequestGroupAssignment
	newest, driver := int64(0), -1
	for i, m := range members {
		a := kmsg.NewSyncGroupRequestGroupAssignment()
		a.MemberID = m.MemberID
		all = append(all, a)
		if since := claimed(m.ProtocolMetadata); since > newest || since > 0 && since == newest && m.MemberID > members[driver].MemberID {
			newest, driver = since, i
		}
	}
	if driver >= 0 {
		all[driver].MemberAssignment = []byte(driverWord)
	}
	return all
}
