package nixflake

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"testing"
	"testing/fstest"
)

func TestPack(t *testing.T) {
	dir := fstest.MapFS{
		"flake.nix":   {Data: []byte("{ }")},
		"bin/run":     {Data: []byte("#!/bin/sh\n"), Mode: 0o755},
		"a/b/é.nix":   {Data: nil},
		".git/config": {Data: []byte("secret")},
		"result":      {Data: []byte("/nix/store/x"), Mode: fs.ModeSymlink},
	}
	one, err := Pack(dir)
	if err != nil {
		t.Fatal(err)
	}
	two, _ := Pack(dir)
	if !bytes.Equal(one, two) {
		t.Error("the same folder gives other bytes")
	}
	got := map[string]string{}
	err = Unpack(bytes.NewReader(one), func(name string, executable bool, content []byte) error {
		if executable {
			name += "*"
		}
		got[name] = string(content)
		return nil
	})
	if err != nil || len(got) != 3 || got["flake.nix"] != "{ }" || got["bin/run*"] != "#!/bin/sh\n" {
		t.Errorf("%v %v", err, got)
	}
}

func TestPackRefuses(t *testing.T) {
	for what, dir := range map[string]fstest.MapFS{
		"no flake":  {"x": {}},
		"a link":    {"flake.nix": {}, "etc": {Data: []byte("/etc"), Mode: fs.ModeSymlink}},
		"too large": {"flake.nix": {}, "image": {Data: make([]byte, MaxPacked)}},
	} {
		if _, err := Pack(dir); !errors.Is(err, ErrPack) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestUnpackTrustsNothing(t *testing.T) {
	for _, h := range []*tar.Header{
		{Name: "../x", Typeflag: tar.TypeReg}, {Name: "/etc/passwd", Typeflag: tar.TypeReg}, {Name: "a/../../x", Typeflag: tar.TypeReg},
		{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, {Name: "h", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"},
		{Name: "d/", Typeflag: tar.TypeDir}, {Name: "dev", Typeflag: tar.TypeBlock}, {Name: ".", Typeflag: tar.TypeReg},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		w.Close()
		if err := Unpack(&b, func(string, bool, []byte) error { return nil }); !errors.Is(err, ErrPack) {
			t.Errorf("%s: %v", h.Name, err)
		}
	}
	if err := Unpack(bytes.NewReader([]byte("not a tar, by any means at all")), func(string, bool, []byte) error { return nil }); !errors.Is(err, ErrPack) {
		t.Error(err)
	}
}
