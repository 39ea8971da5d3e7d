package wire

import (
	"bufio"
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Whatever a peer sends, reading it ends in an answer or an error.
func FuzzAnswer(f *testing.F) {
	resp := kmsg.NewPtrFetchResponse()
	resp.SetVersion(12)
	resp.Topics = []kmsg.FetchResponseTopic{{Topic: "t", Partitions: []kmsg.FetchResponseTopicPartition{{RecordBatches: []byte("batch")}}}}
	f.Add(append([]byte{0, 0, 0, 200, 0, 0, 0, 1, 0}, resp.AppendTo(nil)...))
	f.Add([]byte{0x7f, 0xff, 0xff, 0xff, 0})
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	f.Add([]byte{0x15, 3, 3, 0, 2, 2, 70})
	f.Add([]byte{0, 0, 0, 8, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := readFrame(bufio.NewReader(bytes.NewReader(b)), 1<<16, nil)
		if err != nil {
			return
		}
		for key := range kmsg.MaxKey + 1 {
			req := kmsg.RequestForKey(int16(key))
			if req == nil {
				continue
			}
			for v := range req.MaxVersion() + 1 {
				resp := req.ResponseKind()
				resp.SetVersion(v)
				_ = decode(frame, resp)
			}
		}
	})
}

func TestBytesOfAnAnswerAliasItsFrame(t *testing.T) {
	resp := kmsg.NewPtrFetchResponse()
	resp.SetVersion(12)
	resp.Topics = []kmsg.FetchResponseTopic{{Topic: "t", Partitions: []kmsg.FetchResponseTopicPartition{{RecordBatches: []byte("batch")}}}}
	frame := append([]byte{0, 0, 0, 1, 0}, resp.AppendTo(nil)...)
	got := kmsg.NewPtrFetchResponse()
	got.SetVersion(12)
	require.NoError(t, decode(frame, got))
	copy(got.Topics[0].Partitions[0].RecordBatches, "BATCH")
	require.True(t, bytes.Contains(frame, []byte("BATCH")), "records were copied")
}

func TestEveryCapIsWithinTheCodec(t *testing.T) {
	for key := range kmsg.MaxKey + 1 {
		req := kmsg.RequestForKey(int16(key))
		if req == nil {
			continue
		}
		s := spoken(req)
		require.LessOrEqual(t, s.max, req.MaxVersion(), kmsg.NameForKey(int16(key)))
		require.LessOrEqual(t, s.min, s.max, kmsg.NameForKey(int16(key)))
	}
}
