package runner

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
)

// from gives the parts of a list, one after the other.
func from(parts []*blixardv1.VolumeData) func() (*blixardv1.VolumeData, error) {
	return func() (*blixardv1.VolumeData, error) {
		if len(parts) == 0 {
			return nil, io.EOF
		}
		p := parts[0]
		parts = parts[1:]
		return p, nil
	}
}

// What a volume holds is sent, and makes another one with just that, in both
// formats; and whatever is cut off or changed on the way makes none.
func TestAVolumeIsCopied(t *testing.T) {
	t.Parallel()
	for _, format := range []blixardv1.VolumeFormat{rawFormat, qcow2Format} {
		t.Run(format.String(), func(t *testing.T) {
			b := newBench(t)
			source, target := order("1-1", 4, format), order("1-2", 4, format)
			target.Written = true
			b.give(vmm.Action{ID: 1 << 40, Verb: vmm.Keep, Volumes: orders(source, target), Revision: 3})
			b.await("the volume", func(o core.Observed) bool { return len(o.Volumes.GetVolumes()) == 1 })
			f, err := os.OpenFile(b.h.volumes.disk("1-1"), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			if format == rawFormat {
				for _, at := range []int64{0, 1 << 20, 4<<20 - 3} {
					if _, err := f.WriteAt([]byte("abc"), at); err != nil {
						t.Fatal(err)
					}
				}
			}
			f.Close()
			var parts []*blixardv1.VolumeData
			if err := b.h.ReadDisk(context.Background(), "1-1", "", "", func(p *blixardv1.VolumeData) error {
				parts = append(parts, p)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if len(parts) > 10 {
				t.Errorf("%d parts of nearly nothing", len(parts))
			}
			refuses := func(what string, list []*blixardv1.VolumeData) {
				t.Helper()
				if err := b.h.WriteVolume(context.Background(), "1-2", from(list)); err == nil || b.h.volumes.has("1-2") {
					t.Fatalf("%s: %v", what, err)
				}
			}
			for n := range parts {
				refuses("cut off", parts[:n])
			}
			for n := range parts { // every part is missing once, and changed once in each of some bits
				refuses("a part is missing", append(append([]*blixardv1.VolumeData{}, parts[:n]...), parts[n+1:]...))
				whole, _ := proto.Marshal(parts[n])
				for bit := 0; bit < len(whole)*8; bit += 1 + len(whole)/50*8 {
					bad := bytes.Clone(whole)
					bad[bit/8] ^= 1 << (bit % 8)
					p := &blixardv1.VolumeData{}
					if proto.Unmarshal(bad, p) != nil || proto.Equal(p, parts[n]) || n == 0 && harmless(p, parts[0]) {
						continue
					}
					list := append([]*blixardv1.VolumeData{}, parts...)
					list[n] = p
					refuses("a flipped bit", list)
				}
			}
			if err := b.h.WriteVolume(context.Background(), "1-2", from(parts)); err != nil {
				t.Fatal(err)
			}
			was, _ := os.ReadFile(b.h.volumes.disk("1-1"))
			is, err := os.ReadFile(b.h.volumes.disk("1-2"))
			if err != nil || !bytes.Equal(was, is) {
				t.Fatal("the copy is another one", err)
			}
			refused := b.h.WriteVolume(context.Background(), "1-2", from(parts))
			if !errors.Is(refused, ErrDisk) {
				t.Fatal("it is written twice:", refused)
			}
		})
	}
}

// harmless headers say more bytes than come: of a raw disk the rest is zero.
func harmless(p, was *blixardv1.VolumeData) bool {
	return p.GetHeader() != nil && p.GetHeader().SizeMib == was.GetHeader().SizeMib && max(p.GetHeader().Format, 1) == was.GetHeader().Format
}

func TestADiskThatIsWrittenIsNotCopied(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	i, a := instance("1-1", 1), program("1-1", "sleep 1000")
	o := order("1-9", 1, rawFormat)
	a.Volumes = mount(o, false)
	b.give(vmm.Action{ID: 1 << 40, Verb: vmm.Keep, Volumes: orders(o), Revision: 3})
	b.await("the volume", func(o core.Observed) bool { return len(o.Volumes.GetVolumes()) == 1 })
	b.must(vmm.Start, i, a)
	b.h.volumes.adopt("1-1", opensOf(a)) // as a VM of an image has it
	b.ready(i)
	none := func(*blixardv1.VolumeData) error { return nil }
	if err := b.h.ReadDisk(context.Background(), "1-9", "", "", none); err == nil || !strings.Contains(err.Error(), "stop or pause it first") {
		t.Fatal(err)
	}
	b.must(vmm.Pause, i, nil)
	if err := b.h.ReadDisk(context.Background(), "1-9", "", "", none); err != nil {
		t.Fatal(err)
	}
	err := b.h.ReadDisk(context.Background(), "1-9", "", "", func(p *blixardv1.VolumeData) error {
		if p.GetHeader() != nil {
			b.must(vmm.Kill, i, nil)
		}
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "written meanwhile") {
		t.Fatal(err)
	}
}
