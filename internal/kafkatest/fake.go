package kafkatest

import (
	"math"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TellAborted makes an in-process cluster tell readers of committed records all
// that was aborted, as Apache Kafka does. By itself it leaves the list of aborted
// transactions out of the last partition of an answer that the bytes of the whole
// request end, not those of the partition: aborted records then look committed.
// So only a partition's bytes end its part of an answer.
func TellAborted(c *kfake.Cluster) {
	c.ControlKey(int16(kmsg.Fetch), func(r kmsg.Request) (kmsg.Response, error, bool) {
		if f, ok := r.(*kmsg.FetchRequest); ok && f.IsolationLevel == 1 {
			f.MaxBytes = math.MaxInt32
		}
		return nil, nil, false
	})
}
