package consumer

import (
	"errors"

	"github.com/segmentio/kafka-go"

	"github.com/starferry/starferry/control"
)

// outcome says what is known of a commit by its error. Only a coordinator's
// own refusal is a refusal; whatever else went wrong leaves it unclear whether
// the commit was or will be applied.
func outcome(err error) (result, detail string) {
	if err == nil {
		return control.Accepted, ""
	}
	for _, code := range []kafka.Error{
		kafka.IllegalGeneration, kafka.UnknownMemberId, kafka.RebalanceInProgress, kafka.FencedInstanceID,
		kafka.GroupAuthorizationFailed, kafka.TopicAuthorizationFailed, kafka.OffsetMetadataTooLarge,
		kafka.InvalidGroupId, kafka.InvalidCommitOffsetSize, kafka.UnknownTopicOrPartition,
	} {
		if errors.Is(err, code) {
			return control.Refused, err.Error()
		}
	}
	return control.Unclear, err.Error()
}
