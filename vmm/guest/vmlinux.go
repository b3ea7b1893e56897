package guest

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrKernel is a file that is no bzImage, or one we cannot unpack.
var ErrKernel = errors.New("not a kernel that can be unpacked")

// Vmlinux takes the ELF kernel out of a bzImage. Firecracker boots nothing
// else, and QEMU boots it sooner, as an emulated processor need not unpack it.
//
// A bzImage says itself where its compressed payload is
// (Documentation/arch/x86/boot.rst, from protocol 2.08 on).
func Vmlinux(bzImage []byte) ([]byte, error) {
	payload, err := payload(bzImage)
	if err != nil {
		return nil, err
	}
	elf, err := inflate(payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKernel, err)
	}
	if !bytes.HasPrefix(elf, []byte("\x7fELF")) {
		return nil, fmt.Errorf("%w: what it holds is not ELF", ErrKernel)
	}
	return elf, nil
}

func payload(image []byte) ([]byte, error) {
	const setupSects, magic, version, offset, length, headerEnd = 0x1f1, 0x202, 0x206, 0x248, 0x24c, 0x250
	if len(image) < headerEnd || string(image[magic:magic+4]) != "HdrS" {
		return nil, fmt.Errorf("%w: no boot header", ErrKernel)
	}
	le := binary.LittleEndian
	if v := le.Uint16(image[version:]); v < 0x208 {
		return nil, fmt.Errorf("%w: boot protocol %#x does not say where the payload is", ErrKernel, v)
	}
	sects := uint64(image[setupSects])
	if sects == 0 {
		sects = 4 // as the protocol has it
	}
	from := (sects+1)*512 + uint64(le.Uint32(image[offset:]))
	to := from + uint64(le.Uint32(image[length:]))
	if to > uint64(len(image)) || to-from < 8 {
		return nil, fmt.Errorf("%w: it is cut short", ErrKernel)
	}
	return image[from:to], nil
}

// inflate undoes whichever compression the kernel was built with. All but
// gzip have the size of the result appended, in 4 bytes.
func inflate(p []byte) ([]byte, error) {
	body, size := p[:len(p)-4], binary.LittleEndian.Uint32(p[len(p)-4:])
	switch {
	case bytes.HasPrefix(p, []byte("\x7fELF")):
		return p, nil
	case bytes.HasPrefix(p, []byte{0x1f, 0x8b}):
		r, err := gzip.NewReader(bytes.NewReader(p))
		if err != nil {
			return nil, err
		}
		r.Multistream(false)
		return io.ReadAll(r)
	case bytes.HasPrefix(p, []byte{0x02, 0x21, 0x4c, 0x18}):
		return unlz4(body[4:], size)
	case bytes.HasPrefix(p, []byte("\xfd7zXZ\x00")):
		return unpack("xz", body)
	case bytes.HasPrefix(p, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return unpack("zstd", body)
	}
	return nil, fmt.Errorf("its compression is not gzip, lz4, xz or zstd: it begins with % x", p[:4])
}
