package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// header is the beginning of a request (versions 1 and 2 of its format).
type header struct {
	key, version int16
	correlation  int32
	client       string
	body         int // where the request itself begins, the frame's length counted
}

func parseHeader(frame []byte) (header, error) {
	short := fmt.Errorf("request of %d bytes", len(frame))
	if len(frame) < 14 {
		return header{}, short
	}
	h := header{
		key: int16(binary.BigEndian.Uint16(frame[4:])), version: int16(binary.BigEndian.Uint16(frame[6:])),
		correlation: int32(binary.BigEndian.Uint32(frame[8:])), body: 14,
	}
	if n := int(int16(binary.BigEndian.Uint16(frame[12:]))); n > 0 {
		h.body += n
	}
	if h.body > len(frame) {
		return header{}, short
	}
	h.client = string(frame[14:h.body])
	if req := kmsg.RequestForKey(h.key); req != nil {
		req.SetVersion(h.version)
		if req.IsFlexible() {
			h.body++ // no client here sends tags in the header
		}
	}
	if h.body > len(frame) {
		return header{}, short
	}
	return h, nil
}

// decode reads an answer and says where its body begins.
func decode(q request, frame []byte) (resp kmsg.Response, body int, err error) {
	resp = kmsg.ResponseForKey(q.key)
	if resp == nil {
		return nil, 0, fmt.Errorf("no request has the key %d", q.key)
	}
	resp.SetVersion(q.version)
	body = 8
	if resp.IsFlexible() && q.key != kmsg.ApiVersions.Int16() {
		body++ // brokers send no tags in the header
	}
	if body > len(frame) {
		return nil, 0, errors.New("the answer ends in its header")
	}
	return resp, body, resp.ReadFrom(frame[body:])
}

// encode puts an answer behind the header of the frame it came in.
func encode(resp kmsg.Response, frame []byte, body int) []byte {
	out := resp.AppendTo(append([]byte(nil), frame[:body]...))
	binary.BigEndian.PutUint32(out, uint32(len(out)-4))
	return out
}

// rewrite makes an answer that names brokers name their ways through the proxy.
func (p *Proxy) rewrite(q request, frame []byte) ([]byte, error) {
	switch kmsg.Key(q.key) {
	case kmsg.Metadata, kmsg.FindCoordinator, kmsg.DescribeCluster:
	default:
		return frame, nil
	}
	resp, body, err := decode(q, frame)
	if err != nil {
		return nil, err
	}
	switch r := resp.(type) {
	case *kmsg.MetadataResponse:
		for i := range r.Brokers {
			err = errors.Join(err, p.redirect(&r.Brokers[i].Host, &r.Brokers[i].Port))
		}
	case *kmsg.FindCoordinatorResponse:
		err = p.redirect(&r.Host, &r.Port)
		for i := range r.Coordinators {
			err = errors.Join(err, p.redirect(&r.Coordinators[i].Host, &r.Coordinators[i].Port))
		}
	case *kmsg.DescribeClusterResponse:
		for i := range r.Brokers {
			err = errors.Join(err, p.redirect(&r.Brokers[i].Host, &r.Brokers[i].Port))
		}
	}
	return encode(resp, frame, body), err
}

func (p *Proxy) redirect(host *string, port *int32) error {
	if *host == "" || *port <= 0 {
		return nil // there is no coordinator just now
	}
	address, err := p.Address(net.JoinHostPort(*host, strconv.Itoa(int(*port))))
	if err != nil {
		return err
	}
	h, text, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(text)
	*host, *port = h, int32(n)
	return err
}

// refusal is the answer to a request that the broker never sees.
func refusal(h header, frame []byte, code int16) ([]byte, error) {
	req := kmsg.RequestForKey(h.key)
	if req == nil {
		return nil, fmt.Errorf("no request has the key %d", h.key)
	}
	req.SetVersion(h.version)
	if err := req.ReadFrom(frame[h.body:]); err != nil {
		return nil, err
	}
	resp := req.ResponseKind()
	resp.SetVersion(h.version)
	mirror(req, resp)
	if err := condemn(resp, code); err != nil {
		return nil, err
	}
	head := binary.BigEndian.AppendUint32(make([]byte, 4), uint32(h.correlation))
	if resp.IsFlexible() {
		head = append(head, 0)
	}
	return encode(resp, head, len(head)), nil
}

// mirror gives an answer a place for each thing that was asked for.
func mirror(req kmsg.Request, resp kmsg.Response) {
	switch q := req.(type) {
	case *kmsg.ProduceRequest:
		r := resp.(*kmsg.ProduceResponse)
		for _, t := range q.Topics {
			rt := kmsg.NewProduceResponseTopic()
			rt.Topic, rt.TopicID = t.Topic, t.TopicID
			for _, p := range t.Partitions {
				rp := kmsg.NewProduceResponseTopicPartition()
				rp.Partition = p.Partition
				rt.Partitions = append(rt.Partitions, rp)
			}
			r.Topics = append(r.Topics, rt)
		}
	case *kmsg.OffsetCommitRequest:
		r := resp.(*kmsg.OffsetCommitResponse)
		for _, t := range q.Topics {
			rt := kmsg.NewOffsetCommitResponseTopic()
			rt.Topic, rt.TopicID = t.Topic, t.TopicID
			for _, p := range t.Partitions {
				rp := kmsg.NewOffsetCommitResponseTopicPartition()
				rp.Partition = p.Partition
				rt.Partitions = append(rt.Partitions, rp)
			}
			r.Topics = append(r.Topics, rt)
		}
	case *kmsg.OffsetFetchRequest:
		r := resp.(*kmsg.OffsetFetchResponse)
		for _, g := range q.Groups {
			rg := kmsg.NewOffsetFetchResponseGroup()
			rg.Group = g.Group
			r.Groups = append(r.Groups, rg)
		}
	}
}

// falsify turns an answer into an error.
func falsify(q request, frame []byte, code int16) ([]byte, error) {
	resp, body, err := decode(q, frame)
	if err != nil {
		return nil, err
	}
	if err := condemn(resp, code); err != nil {
		return nil, err
	}
	return encode(resp, frame, body), nil
}

// condemn writes an error into every place of an answer that has room for one.
func condemn(resp kmsg.Response, code int16) error {
	switch r := resp.(type) {
	case *kmsg.ProduceResponse:
		for i := range r.Topics {
			for j := range r.Topics[i].Partitions {
				p := &r.Topics[i].Partitions[j]
				p.ErrorCode, p.BaseOffset = code, -1
			}
		}
	case *kmsg.OffsetCommitResponse:
		for i := range r.Topics {
			for j := range r.Topics[i].Partitions {
				r.Topics[i].Partitions[j].ErrorCode = code
			}
		}
	case *kmsg.OffsetFetchResponse:
		r.ErrorCode = code
		for i := range r.Groups {
			r.Groups[i].ErrorCode, r.Groups[i].Topics = code, nil
		}
	case *kmsg.HeartbeatResponse:
		r.ErrorCode = code
	case *kmsg.JoinGroupResponse:
		r.ErrorCode = code
	case *kmsg.SyncGroupResponse:
		r.ErrorCode = code
	default:
		return fmt.Errorf("answers to %s are not made errors", kmsg.NameForKey(resp.Key()))
	}
	return nil
}
