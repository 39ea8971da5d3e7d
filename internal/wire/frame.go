package wire

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// readFrame reads one length-prefixed frame into what admit gives for its size,
// or into a slice of its own.
func readFrame(r *bufio.Reader, limit int, admit func(int) ([]byte, error)) ([]byte, error) {
	var prefix [4]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return nil, err
	}
	n := int64(int32(binary.BigEndian.Uint32(prefix[:])))
	switch {
	case string(prefix[:]) == "HTTP":
		return nil, fmt.Errorf("%w: the peer speaks HTTP: check the port", ErrFrame)
	case prefix[0] == 0x15 && prefix[1] == 3:
		return nil, fmt.Errorf("%w: the peer speaks TLS: set tls for this cluster", ErrFrame)
	case n < 4:
		return nil, fmt.Errorf("%w: frame of %d bytes", ErrFrame, n)
	case n > int64(limit):
		return nil, fmt.Errorf("%w: frame of %d bytes is above the limit of %d", ErrFrame, n, limit)
	}
	var frame []byte
	if admit != nil {
		var err error
		if frame, err = admit(int(n)); err != nil {
			return nil, err
		}
	}
	if int64(len(frame)) != n {
		frame = make([]byte, n)
	}
	_, err := io.ReadFull(r, frame)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return frame, err
}

// correlation returns the correlation id of a frame.
func correlation(frame []byte) int32 { return int32(binary.BigEndian.Uint32(frame)) }

// decode reads the answer in a frame into resp, whose version is set. Byte
// fields of resp alias the frame.
func decode(frame []byte, resp kmsg.Response) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: decode %s v%d: %v", ErrFrame, kmsg.NameForKey(resp.Key()), resp.GetVersion(), p)
		}
	}()
	body := frame[4:]
	// The header of an ApiVersions answer never has tags: whoever asks does not
	// know yet what the broker speaks (KIP-511).
	if resp.IsFlexible() && resp.Key() != kmsg.ApiVersions.Int16() {
		if body, err = skipTags(body); err != nil {
			return err
		}
	}
	if err := resp.ReadFrom(body); err != nil {
		return fmt.Errorf("%w: decode %s v%d of %d bytes: %w", ErrFrame, kmsg.NameForKey(resp.Key()), resp.GetVersion(), len(frame), err)
	}
	return nil
}

// skipTags passes the tagged fields of a response header (KIP-482).
func skipTags(b []byte) ([]byte, error) {
	bad := fmt.Errorf("%w: broken tags in the header", ErrFrame)
	next := func() (uint64, bool) {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return 0, false
		}
		b = b[n:]
		return v, true
	}
	count, ok := next()
	if !ok {
		return nil, bad
	}
	for ; count > 0; count-- {
		if _, ok := next(); !ok {
			return nil, bad
		}
		size, ok := next()
		if !ok || size > uint64(len(b)) {
			return nil, bad
		}
		b = b[size:]
	}
	return b, nil
}
