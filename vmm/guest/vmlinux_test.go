package guest

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os/exec"
	"testing"
)

// bzImage is the least that has a boot header around a payload.
func bzImage(payload []byte) []byte {
	const setup = 5 * 512
	image := make([]byte, setup, setup+len(payload))
	image[0x1f1] = 4
	copy(image[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(image[0x206:], 0x20f)
	binary.LittleEndian.PutUint32(image[0x24c:], uint32(len(payload)))
	return append(image, payload...)
}

// kernel is something that looks like one and can be compressed.
func kernel() []byte {
	r := rand.New(rand.NewPCG(1, 2))
	k := []byte(elf)
	for len(k) < 300_000 {
		if run := r.IntN(600); r.IntN(2) == 0 {
			k = append(k, bytes.Repeat([]byte{byte(r.Uint32())}, run)...)
		} else {
			for range run {
				k = append(k, byte(r.Uint32()))
			}
		}
	}
	return k
}

func withSize(p []byte, n int) []byte { return binary.LittleEndian.AppendUint32(p, uint32(n)) }

func TestVmlinux(t *testing.T) {
	want := kernel()
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	_, _ = w.Write(want)
	_ = w.Close()
	payloads := map[string][]byte{"plain": want, "gzip": gz.Bytes()}
	for name, args := range map[string][]string{"lz4": {"lz4", "-l", "-c"}, "xz": {"xz", "--check=crc32", "-c"}, "zstd": {"zstd", "-c"}} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdin = bytes.NewReader(want)
		packed, err := cmd.Output()
		if err != nil {
			t.Logf("%s not tried: %v", name, err)
			continue
		}
		payloads[name] = withSize(packed, len(want))
	}
	for name, p := range payloads {
		got, err := Vmlinux(bzImage(p))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(want))
		}
	}
}

func TestVmlinuxRefusesWhatIsNoKernel(t *testing.T) {
	lz4 := func(size int, block ...byte) []byte {
		p := []byte{0x02, 0x21, 0x4c, 0x18, byte(len(block)), 0, 0, 0}
		return withSize(append(p, block...), size)
	}
	for name, image := range map[string][]byte{
		"empty":            nil,
		"text":             bytes.Repeat([]byte("no kernel "), 1000),
		"cut short":        bzImage(kernel())[:4000],
		"no payload":       bzImage(nil),
		"not ELF":          bzImage(lz4(2, 0x20, 'h', 'i')),
		"unknown":          bzImage([]byte("unknown compression")),
		"lz4 too long":     bzImage(lz4(1, 0x20, 'h', 'i')),
		"lz4 too short":    bzImage(lz4(9, 0x20, 'h', 'i')),
		"lz4 reaches back": bzImage(lz4(9, 0x10, 'h', 9, 0)),
		"lz4 back by none": bzImage(lz4(9, 0x10, 'h', 0, 0)),
		"lz4 huge":         bzImage(lz4(1<<31, 0x20, 'h', 'i')),
		"lz4 unended":      bzImage(lz4(9, 0xf0, 255)),
	} {
		if _, err := Vmlinux(image); !errors.Is(err, ErrKernel) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzVmlinux(f *testing.F) {
	f.Add([]byte{0x10, 'h', 1, 0, 0}, uint32(64))
	f.Fuzz(func(t *testing.T, block []byte, size uint32) {
		p := append([]byte{0x02, 0x21, 0x4c, 0x18}, binary.LittleEndian.AppendUint32(nil, uint32(len(block)))...)
		_, _ = Vmlinux(bzImage(withSize(append(p, block...), int(size%(1<<20)))))
	})
}
