package wire

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// span is a closed range of versions of one request.
type span struct{ min, max int16 }

// String returns "v4 to v12", or "v2" for a single version.
func (s span) String() string {
	if s.min == s.max {
		return fmt.Sprintf("v%d", s.min)
	}
	return fmt.Sprintf("v%d to v%d", s.min, s.max)
}

// spoken returns the versions of a request that this code understands. The
// upper ends are where the meaning of fields changes in ways the code above
// does not follow; what is not listed goes up to what kmsg encodes.
func spoken(req kmsg.Request) span {
	switch kmsg.Key(req.Key()) {
	case kmsg.Produce:
		return span{3, 11} // 3: record batches v2. 12 adds partitions to transactions by itself (KIP-890), 13 wants topic ids
	case kmsg.Fetch:
		return span{4, 12} // 4: record batches v2 and aborted lists. 13 wants topic ids (KIP-516)
	case kmsg.ListOffsets:
		return span{2, 7} // 2: isolation level. Above 7 are special timestamps that nothing here asks for
	case kmsg.Metadata:
		return span{4, 12} // 4: can forbid topic creation. 13 has a top-level error that asks for a new bootstrap (KIP-1102)
	case kmsg.OffsetCommit:
		return span{2, 9} // 2: generation and member, retention left to the broker. 10 wants topic ids
	case kmsg.OffsetFetch:
		return span{2, 7} // 2: all partitions. 7: stable offsets only (KIP-447). 8 puts groups in an array, 10 wants topic ids
	case kmsg.FindCoordinator:
		return span{1, 3} // 1: transaction coordinators. 4 puts keys in an array
	case kmsg.JoinGroup:
		return span{1, 9} // 1: rebalance timeout
	case kmsg.LeaveGroup:
		return span{0, 5} // below 3 only one member at a time; see downgrade
	case kmsg.DescribeGroups:
		return span{0, 5} // 6 makes an unknown group an error; up to 5 its state is Dead
	case kmsg.ListGroups:
		return span{0, 5} // 4: states. 5: kinds (KIP-848)
	case kmsg.SASLHandshake:
		return span{1, 1} // 1: tokens travel in SaslAuthenticate (KIP-152)
	case kmsg.ApiVersions:
		return span{0, 3}
	case kmsg.CreateTopics:
		return span{2, 7}
	case kmsg.DeleteTopics:
		return span{1, 5} // 6 names topics by id or name in another array
	case kmsg.InitProducerID:
		return span{0, 4} // 5 opts in to transactions v2 (KIP-890), which bumps epochs by itself; 6 to two-phase commit
	case kmsg.AddPartitionsToTxn:
		return span{0, 3} // 4 is for brokers
	case kmsg.AddOffsetsToTxn:
		return span{0, 3} // as InitProducerID
	case kmsg.EndTxn:
		return span{0, 3} // 5 answers with a new epoch (KIP-890); a fence must keep the one it has
	case kmsg.TxnOffsetCommit:
		return span{3, 3} // 3: fenced by generation (KIP-447). 5 is transactions v2
	}
	return span{0, req.MaxVersion()}
}

// agree picks the version of a request for a broker that speaks theirs.
func agree(ours, theirs span) (int16, bool) {
	v := min(ours.max, theirs.max)
	return v, v >= ours.min && v >= theirs.min
}

// downgrade fills the fields of old versions from those of new ones, so that
// callers write a request once.
func downgrade(req kmsg.Request) error {
	switch r := req.(type) {
	case *kmsg.LeaveGroupRequest:
		if r.Version >= 3 || r.MemberID != "" || len(r.Members) == 0 {
			return nil
		}
		if len(r.Members) > 1 {
			return fmt.Errorf("broker speaks LeaveGroup v%d, which takes one member at a time, not %d", r.Version, len(r.Members))
		}
		r.MemberID = r.Members[0].MemberID
	case *kmsg.ProduceRequest:
		if r.Acks == 0 {
			return fmt.Errorf("produce with acks=0 gets no answer; ask for acks=1 or all")
		}
	}
	return nil
}
