package guest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/cavaliergopher/cpio"
	"pgregory.net/rapid"
)

// entry is what a reader of the archive sees.
type entry struct {
	Name string
	Mode cpio.FileMode
	Data string
}

func unpackAll(t interface{ Fatal(...any) }, archive []byte) []entry {
	r := cpio.NewReader(bytes.NewReader(archive))
	var out []entry
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, entry{h.Name, h.Mode, string(data)})
	}
}

func TestAGuestHasItsInitAndItsModulesInOrder(t *testing.T) {
	var b bytes.Buffer
	files := Files([]byte("the init"), []Module{{"virtio_ring", []byte("ring")}, {"virtio", []byte("virtio")}})
	if err := Write(&b, files); err != nil {
		t.Fatal(err)
	}
	const dir, file = cpio.TypeDir | 0o755, cpio.TypeReg | 0o644
	want := []entry{
		{"dev", dir, ""},
		{"init", cpio.TypeReg | 0o755, "the init"},
		{"modules", dir, ""},
		{"modules/00-virtio_ring.ko", file, "ring"},
		{"modules/01-virtio.ko", file, "virtio"},
		{"proc", dir, ""}, {"run", dir, ""}, {"sys", dir, ""}, {"tmp", dir, ""},
	}
	if got := unpackAll(t, b.Bytes()); !reflect.DeepEqual(got, want) {
		t.Fatalf("\n got %+v\nwant %+v", got, want)
	}
}

// The order in which the files are listed is no part of the result, and a
// directory always precedes what is in it.
func TestBytesDependOnTheFilesOnly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		paths := rapid.SliceOfNDistinct(rapid.StringMatching(`[ab](/[ab.-]c){0,2}x`), 1, 8, rapid.ID).Draw(t, "paths")
		var files []File
		for _, p := range paths {
			files = append(files, File{Path: p, Data: []byte(p)})
		}
		var a, b bytes.Buffer
		if err := Write(&a, files); err != nil {
			t.Skip(err) // one path is below another
		}
		if err := Write(&b, rapid.Permutation(files).Draw(t, "shuffled")); err != nil {
			t.Fatal(err)
		}
		if sha256.Sum256(a.Bytes()) != sha256.Sum256(b.Bytes()) {
			t.Fatal("another order gave other bytes")
		}
		seen := map[string]bool{".": true}
		for _, e := range unpackAll(t, a.Bytes()) {
			parent, _, ok := cutLast(e.Name)
			if ok && !seen[parent] {
				t.Fatalf("%s comes before %s", e.Name, parent)
			}
			seen[e.Name] = true
		}
	})
}

func cutLast(p string) (dir, base string, ok bool) {
	i := strings.LastIndex(p, "/")
	if i < 0 {
		return "", p, false
	}
	return p[:i], p[i+1:], true
}

func TestHostileNamesAreRefused(t *testing.T) {
	for _, name := range []string{
		"", "/", ".", "..", "../x", "a/../../x", "/etc/passwd", "a//b", "./a", "a/", "a/.", "a\x00b",
		"TRAILER!!!", strings.Repeat("x", 5000), "d//",
	} {
		err := Write(io.Discard, []File{{Path: name, Data: []byte("x")}})
		if !errors.Is(err, ErrPath) {
			t.Errorf("%.20q: %v", name, err)
		}
	}
	if err := Write(io.Discard, []File{{Path: "a"}, {Path: "a"}}); !errors.Is(err, ErrDuplicate) {
		t.Errorf("twice: %v", err)
	}
	if err := Write(io.Discard, []File{{Path: "a"}, {Path: "a/"}}); !errors.Is(err, ErrDuplicate) {
		t.Errorf("file and directory: %v", err)
	}
	if err := Write(io.Discard, []File{{Path: "a/b"}, {Path: "a"}}); !errors.Is(err, ErrPath) {
		t.Errorf("below a file: %v", err)
	}
}

const elf = "\x7fELF"

func TestFindModules(t *testing.T) {
	dir := fstest.MapFS{
		"kernel/drivers/char/virtio_console.ko":       {Data: []byte(elf + "console")},
		"kernel/drivers/virtio/virtio.ko":             {Data: []byte(elf + "virtio")},
		"kernel/drivers/virtio/virtio_ring.ko":        {Data: []byte(elf + "ring")},
		"kernel/drivers/char/hw_random/virtio_rng.ko": {Data: []byte(elf + "rng")}, // known as virtio-rng
		"kernel/drivers/scsi/unrelated.ko":            {Data: []byte(elf)},
		"modules.dep":                                 {Data: []byte("x")},
	}
	got, err := FindModules(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range got {
		names = append(names, m.Name)
	}
	if want := []string{"virtio_ring", "virtio", "virtio_console", "virtio-rng"}; !reflect.DeepEqual(names, want) {
		t.Fatalf("got %v, want %v", names, want)
	}

	if _, err := FindModules(fstest.MapFS{"a.ko": {Data: []byte(elf)}}); !errors.Is(err, ErrNoModules) {
		t.Errorf("a folder without virtio: %v", err)
	}
	if _, err := FindModules(fstest.MapFS{"virtio.ko": {Data: []byte("<html>")}}); err == nil || !strings.Contains(err.Error(), "not an ELF") {
		t.Errorf("a module that is none: %v", err)
	}
	if _, err := FindModules(fstest.MapFS{"virtio.ko.lz4": {Data: []byte("x")}}); err == nil || !strings.Contains(err.Error(), "cannot unpack") {
		t.Errorf("a compression we do not know: %v", err)
	}
}

func TestCompressedModulesAreUnpacked(t *testing.T) {
	for program, suffix := range map[string]string{"xz": ".xz", "zstd": ".zst", "gzip": ".gz"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Logf("not tried: %v", err)
			continue
		}
		cmd := exec.Command(program, "-c")
		cmd.Stdin = strings.NewReader(elf + "body")
		packed, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		got, err := FindModules(fstest.MapFS{"virtio.ko" + suffix: {Data: packed}})
		if err != nil || len(got) != 1 || string(got[0].Data) != elf+"body" {
			t.Errorf("%s: %v, %v", suffix, got, err)
		}
		if _, err := FindModules(fstest.MapFS{"virtio.ko" + suffix: {Data: []byte("rubbish")}}); err == nil {
			t.Errorf("%s: rubbish was unpacked", suffix)
		}
	}
}
