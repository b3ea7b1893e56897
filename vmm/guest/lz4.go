package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// maxKernel bounds what a damaged file can make us allocate.
const maxKernel = 256 << 20

var errLZ4 = errors.New("the lz4 data is damaged")

// unlz4 undoes the "legacy" lz4 format that kernels use, its magic removed:
// blocks of 8 MiB, each after its compressed size. It is written out here
// because it is shorter than what a dependency would cost.
func unlz4(p []byte, size uint32) ([]byte, error) {
	if size > maxKernel {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", errLZ4, size, maxKernel)
	}
	out := make([]byte, 0, size)
	for len(p) > 0 {
		if len(p) < 4 {
			return nil, errLZ4
		}
		n := uint64(binary.LittleEndian.Uint32(p))
		if p = p[4:]; n > uint64(len(p)) {
			return nil, errLZ4
		}
		var err error
		if out, err = lz4Block(out, p[:n], int(size)); err != nil {
			return nil, err
		}
		p = p[n:]
	}
	if len(out) != int(size) {
		return nil, fmt.Errorf("%w: %d bytes, want %d", errLZ4, len(out), size)
	}
	return out, nil
}

// lz4Block appends one block to out: runs of literal bytes, each followed by
// a copy from what this block gave so far.
//
// Invariant: len(out) <= limit.
func lz4Block(out, p []byte, limit int) ([]byte, error) {
	start := len(out)
	// extra reads the bytes that lengthen a length of 15.
	extra := func(n int) (int, bool) {
		if n < 15 {
			return n, true
		}
		for len(p) > 0 && n <= limit {
			b := p[0]
			p = p[1:]
			n += int(b)
			if b < 255 {
				return n, true
			}
		}
		return 0, false
	}
	for len(p) > 0 {
		token := p[0]
		p = p[1:]
		n, ok := extra(int(token >> 4))
		if !ok || n > len(p) || len(out)+n > limit {
			return nil, errLZ4
		}
		out, p = append(out, p[:n]...), p[n:]
		if len(p) == 0 {
			return out, nil // a block ends with literals
		}
		if len(p) < 2 {
			return nil, errLZ4
		}
		back := int(binary.LittleEndian.Uint16(p))
		p = p[2:]
		n, ok = extra(int(token & 15))
		n += 4
		if !ok || back == 0 || back > len(out)-start || len(out)+n > limit {
			return nil, errLZ4
		}
		for ; n > 0; n-- { // byte by byte, since a copy may overlap itself
			out = append(out, out[len(out)-back])
		}
	}
	return out, nil
}
