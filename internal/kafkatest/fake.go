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
// So the request's bytes become those of each partition, which alone end its part.
func TellAborted(c *kfake.Cluster) {
	c.ControlKey(int16(kmsg.Fetch), func(r kmsg.Request) (kmsg.Response, error, bool) {
		f, ok := r.(*kmsg.FetchRequest)
		if !ok || f.IsolationLevel != 1 || f.MaxBytes == math.MaxInt32 {
			return nil, nil, false
		}
		for i := range f.Topics {
			for j := range f.Topics[i].Partitions {
				p := &f.Topics[i].Partitions[j]
				p.PartitionMaxBytes = min(p.PartitionMaxBytes, f.MaxBytes)
			}
		}
		f.MaxBytes = math.MaxInt32
		return nil, nil, false
	})
}
