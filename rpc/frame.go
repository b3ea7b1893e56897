package rpc

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// A frame is its length, four bytes big-endian, and that many bytes.
const (
	frameHead = 4
	// maxFrame bounds one envelope. The largest are a Grant with every
	// assignment of a host and a batch of log entries: a few MiB.
	maxFrame = 64 << 20
	// chunk is a frame's size where big things are cut.
	chunk = 256 << 10
)

// appendFrame appends one frame to a buffer.
func appendFrame(buf, payload []byte) []byte {
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(payload)))
	return append(buf, payload...)
}

// readFrame reads one frame into buf, which it empties first. Memory is taken
// as bytes come, not as the head promises: a head costs a liar four bytes.
func readFrame(r io.Reader, buf *bytes.Buffer, limit uint32) error {
	var head [frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > limit {
		return fmt.Errorf("a frame of %d bytes is longer than %d", n, limit)
	}
	buf.Reset()
	got, err := io.CopyN(buf, r, int64(n))
	if err == io.EOF && got < int64(n) {
		return io.ErrUnexpectedEOF
	}
	return err
}
