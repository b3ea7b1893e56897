package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"
)

const somePath = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-microvm-run"

// fakeClosures holds closures by their path, and does what a test wants besides.
type fakeClosures map[string]func(ctx context.Context, w io.Writer) error

func (f fakeClosures) Export(ctx context.Context, path string, w io.Writer) error {
	if export := f[path]; export != nil {
		return export(ctx, w)
	}
	return fmt.Errorf("no root of ours: %w", fs.ErrNotExist)
}

func TestClosureFromAPeer(t *testing.T) {
	content := make([]byte, 3<<20)
	for i := range content {
		content[i] = byte(rand.Uint32())
	}
	at := func(name string) string { return strings.Replace(somePath, "microvm-run", name, 1) }
	gone := make(chan struct{})
	a := &node{closures: fakeClosures{
		at("whole"):  func(_ context.Context, w io.Writer) error { _, err := io.Copy(w, bytes.NewReader(content)); return err },
		at("empty"):  func(context.Context, io.Writer) error { return nil },
		at("broken"): func(context.Context, io.Writer) error { return errors.New("nix-store says no") },
		at("half"): func(_ context.Context, w io.Writer) error {
			w.Write(content[:70_000])
			return errors.New("disk gone")
		},
		at("endless"): func(ctx context.Context, w io.Writer) error {
			defer close(gone)
			for ctx.Err() == nil {
				if _, err := w.Write(content[:4096]); err != nil {
					return err
				}
			}
			return ctx.Err()
		},
	}}
	b := &node{}
	serve(t, noTLS, a, b)
	read := func(n *node, path string) ([]byte, error) {
		r, err := NewFetcher(nil).Closure(t.Context(), n.address, path)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return io.ReadAll(r)
	}
	if got, err := read(a, at("whole")); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if got, err := read(a, at("empty")); err != nil || len(got) != 0 {
		t.Errorf("nothing: %q, %v", got, err)
	}
	if got, err := read(a, at("half")); len(got) != 70_000 || err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "disk gone") {
		t.Errorf("broken off: %d bytes, %v", len(got), err)
	}
	for path, want := range map[string]string{
		at("broken"):  "nix-store says no",
		"/etc/passwd": "no path in a Nix store", at("a/../b"): "no path in a Nix store", "/nix/../" + somePath[1:]: "no path in a Nix store",
		somePath + "\n": "no path in a Nix store", at("x;y"): "no path in a Nix store", strings.ToUpper(somePath): "no path in a Nix store",
	} {
		if _, err := read(a, path); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", path, err)
		}
	}
	// Not here is not the same as broken: another host may have it.
	for _, n := range []*node{a, b} {
		if _, err := read(n, at("absent")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", n.name, err)
		}
	}
	// Who stops reading stops the export.
	r, err := NewFetcher(nil).Closure(t.Context(), a.address, at("endless"))
	if err != nil {
		t.Fatal(err)
	}
	io.ReadFull(r, make([]byte, 100_000))
	r.Close()
	select {
	case <-gone:
	case <-time.After(time.Minute):
		t.Error("the export goes on")
	}
}

// The server's own look at the path is what counts: a client may be anybody's.
func TestClosurePathIsChecked(t *testing.T) {
	for path, ok := range map[string]bool{
		somePath: true, "/tmp/a.b/x_+1" + strings.TrimPrefix(somePath, "/nix/store"): true,
		"": false, "/": false, strings.TrimPrefix(somePath, "/nix/store"): false, "nix" + somePath: false, "/.." + somePath: false,
		"/nix/-e" + somePath: false, "/nix/.x" + somePath: false, "//nix" + somePath: false, somePath + "/bin": false, somePath + " --all": false, "-" + somePath: false,
		strings.Replace(somePath, "0123", "e123", 1): false, strings.Repeat("/nix", 300) + somePath: false,
	} {
		if err := checkStorePath(path); (err == nil) != ok {
			t.Errorf("%q: %v", path, err)
		}
	}
}

func TestClosureOnlyForNodes(t *testing.T) {
	ca := newAuthority(t)
	n := &node{closures: fakeClosures{somePath: func(_ context.Context, w io.Writer) error {
		_, err := io.WriteString(w, "secret")
		return err
	}}}
	tls := ca.node("n1")
	serve(t, func(string) *TLS { return tls }, n)
	if r, err := NewFetcher(ca.node("n2")).Closure(t.Context(), n.address, somePath); err != nil {
		t.Error(err)
	} else {
		r.Close()
	}
	if _, err := NewFetcher(ca.user("alice")).Closure(t.Context(), n.address, somePath); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("a user: %v", err)
	}
}

// A host that is slow says that it is there; one that is silent is given up.
func TestClosureFromASlowPeer(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits for the silence to be long enough")
	}
	n := &node{closures: fakeClosures{somePath: func(ctx context.Context, w io.Writer) error {
		select {
		case <-time.After(closureSilent + 2*time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
		io.WriteString(w, "late")
		return fs.ErrNotExist // told apart after the first byte, too
	}}}
	serve(t, noTLS, n)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // its kernel takes connections
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	t.Run("slow", func(t *testing.T) {
		t.Parallel()
		r, err := NewFetcher(nil).Closure(t.Context(), n.address, somePath)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if got, err := io.ReadAll(r); string(got) != "late" || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("silent", func(t *testing.T) {
		t.Parallel()
		if _, err := NewFetcher(nil).Closure(t.Context(), silent.Addr().String(), somePath); err == nil || !strings.Contains(err.Error(), "nothing came for") {
			t.Error(err)
		}
	})
}
