package runner

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/shim"
)

// handmade makes a snapshot by hand, of a machine that this host can go on with.
func (b *bench) handmade(t *testing.T, uid string, change func(*manifest)) {
	t.Helper()
	dir := b.h.at.snapshotOf(uid)
	if err := os.MkdirAll(filepath.Join(dir, disksFolder), 0o700); err != nil {
		t.Fatal(err)
	}
	disk := make([]byte, 1<<20)
	copy(disk[300<<10:], "what the disk holds")
	for name, data := range map[string][]byte{memoryFile: []byte(strings.Repeat("memory ", 50_000)), disksFolder + "/data.raw": disk} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const k = blixardv1.Hypervisor_HYPERVISOR_QEMU
	d, err := b.h.hypervisor(k)
	if err != nil {
		t.Skip(err)
	}
	m := &manifest{Instance: shim.Instance{UID: "1-1", Attempt: 1}, Hypervisor: k, Version: b.h.versions[k], Machine: d.(reviver).machineName(&blixardv1.VMSpec{}), Counter: d.(counted).counter()}
	change(m)
	if m.Files, err = sums(t.Context(), dir); err == nil {
		err = writeManifest(dir, m)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (b *bench) partsOf(t *testing.T, uid string) (parts []*blixardv1.VolumeData) {
	t.Helper()
	if err := b.h.ReadSnapshot(t.Context(), uid, func(p *blixardv1.VolumeData) error {
		parts = append(parts, p)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return parts
}

// A snapshot travels whole; one that is cut off, changed or followed by more leaves
// nothing.
func TestASnapshotTravels(t *testing.T) {
	t.Parallel()
	r := qemuRig(t)
	r.handmade(t, "1-50", func(*manifest) {})
	parts := r.partsOf(t, "1-50")
	refuses := func(what string, list []*blixardv1.VolumeData) {
		t.Helper()
		if image, err := r.h.WriteSnapshot(t.Context(), "1-51", from(list)); err == nil {
			t.Fatalf("%s: %v", what, image)
		}
		for _, dir := range []string{r.h.at.snapshotOf("1-51"), r.h.at.snapshotNew("1-51")} {
			if _, err := os.Lstat(dir); err == nil {
				t.Fatalf("%s leaves %s", what, dir)
			}
		}
	}
	for n := range parts {
		refuses("cut off", parts[:n])
		refuses("a part is missing", append(slices.Clone(parts[:n]), parts[n+1:]...))
		whole, _ := proto.Marshal(parts[n])
		for bit := 0; bit < len(whole)*8; bit += 1 + len(whole)/10*8 {
			bad := bytes.Clone(whole)
			bad[bit/8] ^= 1 << (bit % 8)
			p := &blixardv1.VolumeData{}
			was := parts[n].GetHeader()
			if proto.Unmarshal(bad, p) != nil || proto.Equal(p, parts[n]) || was != nil && p.GetHeader().GetName() == was.Name && p.GetHeader().GetBytes() == was.Bytes {
				continue // it says nothing that counts
			}
			list := slices.Clone(parts)
			list[n] = p
			refuses("a flipped bit", list)
		}
	}
	refuses("more than that", append(slices.Clone(parts), parts[len(parts)-1]))
	image, err := r.h.WriteSnapshot(t.Context(), "1-51", from(parts))
	if err != nil {
		t.Fatal(err)
	}
	m, was, err := readManifest(r.h.at.snapshotOf("1-50"))
	if err != nil || image.Sha256 != was.Sha256 {
		t.Fatal(image, was, err)
	}
	if err := checkSums(t.Context(), r.h.at.snapshotOf("1-51"), m); err != nil {
		t.Fatal(err)
	}
	if _, err := r.h.WriteSnapshot(t.Context(), "1-51", from(parts)); err == nil || !strings.Contains(err.Error(), "here already") {
		t.Fatal(err)
	}
}

// A host that cannot go on with a snapshot says why when it has seen its manifest; and
// one whose disk is full, or becomes so, has nothing of it.
func TestASnapshotThatIsOfNoUseHere(t *testing.T) {
	t.Parallel()
	r := qemuRig(t)
	for word, change := range map[string]func(*manifest){
		"of 0.9 on ":   func(m *manifest) { m.Version = "0.9" },
		"on another, ": func(m *manifest) { m.Machine = "another" },
		"its clock":    func(m *manifest) { m.Counter = "tsc=5" },
	} {
		r.handmade(t, "1-50", change)
		if d, _ := r.h.hypervisor(blixardv1.Hypervisor_HYPERVISOR_QEMU); word == "its clock" && d.(counted).counter() == "" {
			continue // under KVM it reads none
		}
		parts := r.partsOf(t, "1-50")
		seen, next := 0, from(parts)
		_, err := r.h.WriteSnapshot(t.Context(), "1-51", func() (*blixardv1.VolumeData, error) {
			seen++
			return next()
		})
		if err == nil || !strings.Contains(err.Error(), word) || seen > 3 {
			t.Errorf("after %d parts: %v, want %q", seen, err, word)
		}
		os.RemoveAll(r.h.at.snapshotOf("1-50"))
	}

	small := t.TempDir()
	if err := unix.Mount("none", small, "tmpfs", 0, "size=24m"); err != nil {
		t.Skip("no tmpfs can be mounted here (needs root)")
	}
	t.Cleanup(func() { unix.Unmount(small, unix.MNT_DETACH) })
	r.handmade(t, "1-50", func(*manifest) {})
	parts := r.partsOf(t, "1-50")
	r.h.Close()
	r.cfg.StateDir = small
	r.open()
	left := func() {
		t.Helper()
		if all, _ := filepath.Glob(filepath.Join(r.h.at.snapshots(), "*")); len(all) > 0 {
			t.Errorf("left %v", all)
		}
	}
	// It becomes full when all but the last part has come.
	n, next := 0, from(parts)
	filler := filepath.Join(small, "filler")
	_, err := r.h.WriteSnapshot(t.Context(), "1-51", func() (*blixardv1.VolumeData, error) {
		if n++; n == len(parts)-2 {
			f, err := os.Create(filler)
			if err == nil {
				_, _ = io.Copy(f, zeros{})
				f.Close()
			}
		}
		return next()
	})
	if err == nil || !strings.Contains(err.Error(), "no space for it") {
		t.Errorf("half-way: %v", err)
	}
	left()
	_, err = r.h.WriteSnapshot(t.Context(), "1-51", from(parts))
	if err == nil || !strings.Contains(err.Error(), "no space for it") {
		t.Errorf("from the beginning: %v", err)
	}
	left()
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if _, err := r.h.WriteSnapshot(t.Context(), "1-51", from(parts)); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }
