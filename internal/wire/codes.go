package wire

import (
	"errors"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// tryAgain returns the error of an answer that says the request was not carried
// out and may be repeated: the coordinator has moved, is loading, is not there
// yet, or is busy ending a transaction.
func tryAgain(resp kmsg.Response) error {
	for _, code := range codes(resp) {
		switch e := kafka.Error(code); e {
		case kafka.GroupLoadInProgress, kafka.GroupCoordinatorNotAvailable, kafka.NotCoordinatorForGroup, kafka.ConcurrentTransactions:
			return e
		}
	}
	return nil
}

// between reports whether an error will pass by itself.
func between(err error) bool {
	for _, e := range []kafka.Error{
		kafka.LeaderNotAvailable, kafka.GroupLoadInProgress, kafka.GroupCoordinatorNotAvailable, kafka.NotCoordinatorForGroup, kafka.BrokerNotAvailable,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// controllerMoved returns kafka.NotController if an answer says so.
func controllerMoved(resp kmsg.Response) error {
	for _, code := range codes(resp) {
		if kafka.Error(code) == kafka.NotController {
			return kafka.NotController
		}
	}
	return nil
}

// codes lists the error codes of an answer that speak of the request as a
// whole. Kafka puts them at the top in some answers, and repeats them for each
// partition in others.
func codes(resp kmsg.Response) []int16 {
	switch r := resp.(type) {
	case *kmsg.JoinGroupResponse:
		return []int16{r.ErrorCode}
	case *kmsg.SyncGroupResponse:
		return []int16{r.ErrorCode}
	case *kmsg.HeartbeatResponse:
		return []int16{r.ErrorCode}
	case *kmsg.LeaveGroupResponse:
		return []int16{r.ErrorCode}
	case *kmsg.OffsetFetchResponse:
		return []int16{r.ErrorCode}
	case *kmsg.OffsetDeleteResponse:
		return []int16{r.ErrorCode}
	case *kmsg.InitProducerIDResponse:
		return []int16{r.ErrorCode}
	case *kmsg.AddOffsetsToTxnResponse:
		return []int16{r.ErrorCode}
	case *kmsg.EndTxnResponse:
		return []int16{r.ErrorCode}
	case *kmsg.ListGroupsResponse:
		return []int16{r.ErrorCode}
	case *kmsg.ConsumerGroupHeartbeatResponse:
		return []int16{r.ErrorCode}
	}
	return spreadCodes(resp)
}

// spreadCodes is codes for answers that carry them per item.
func spreadCodes(resp kmsg.Response) (all []int16) {
	switch r := resp.(type) {
	case *kmsg.OffsetCommitResponse:
		for _, t := range r.Topics {
			for _, p := range t.Partitions {
				all = append(all, p.ErrorCode)
			}
		}
	case *kmsg.TxnOffsetCommitResponse:
		for _, t := range r.Topics {
			for _, p := range t.Partitions {
				all = append(all, p.ErrorCode)
			}
		}
	case *kmsg.AddPartitionsToTxnResponse:
		for _, t := range r.Topics {
			for _, p := range t.Partitions {
				all = append(all, p.ErrorCode)
			}
		}
	case *kmsg.DescribeGroupsResponse:
		for _, g := range r.Groups {
			all = append(all, g.ErrorCode)
		}
	case *kmsg.ConsumerGroupDescribeResponse:
		for _, g := range r.Groups {
			all = append(all, g.ErrorCode)
		}
	case *kmsg.DeleteGroupsResponse:
		for _, g := range r.Groups {
			all = append(all, g.ErrorCode)
		}
	case *kmsg.CreateTopicsResponse:
		for _, t := range r.Topics {
			all = append(all, t.ErrorCode)
		}
	case *kmsg.DeleteTopicsResponse:
		for _, t := range r.Topics {
			all = append(all, t.ErrorCode)
		}
	}
	return all
}
