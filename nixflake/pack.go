package nixflake

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// Bounds of a packed folder.
const (
	MaxPacked      = 64 << 20
	maxPackedFiles = 10_000
)

// ErrPack says why a folder cannot travel.
var ErrPack = errors.New("nixflake: cannot pack")

// Pack packs a folder with a flake.nix, so that it can travel as an artifact:
// a tar with nothing in it but names, contents and who may execute, in order,
// so that the same files give the same bytes. What git keeps for itself and the
// links that nix build leaves stay behind.
func Pack(dir fs.FS) ([]byte, error) {
	if _, err := fs.Stat(dir, "flake.nix"); err != nil {
		return nil, fmt.Errorf("%w: there is no flake.nix: %w", ErrPack, err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	count := 0
	err := fs.WalkDir(dir, ".", func(name string, d fs.DirEntry, err error) error {
		base := path.Base(name)
		switch {
		case err != nil:
			return err
		case d.IsDir() && (base == ".git" || base == ".direnv"):
			return fs.SkipDir
		case d.IsDir():
			return nil
		case d.Type()&fs.ModeSymlink != 0 && strings.HasPrefix(base, "result"):
			return nil
		case !d.Type().IsRegular():
			return fmt.Errorf("%w: %s is no plain file; a link could lead anywhere", ErrPack, name)
		}
		if count++; count > maxPackedFiles {
			return fmt.Errorf("%w: there are more than %d files", ErrPack, maxPackedFiles)
		}
		return pack(w, dir, name, &b)
	})
	if err == nil {
		err = w.Close()
	}
	return b.Bytes(), err
}

func pack(w *tar.Writer, dir fs.FS, name string, b *bytes.Buffer) error {
	f, err := dir.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if int64(b.Len())+st.Size() > MaxPacked-4096 {
		return fmt.Errorf("%w: it is larger than %d MiB with %s; a flake's folder should hold sources only", ErrPack, MaxPacked>>20, name)
	}
	h := &tar.Header{Name: name, Size: st.Size(), Mode: 0o644, Format: tar.FormatPAX}
	if st.Mode()&0o111 != 0 {
		h.Mode = 0o755
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}

// Unpack hands over the files of a packed folder, one after another. It trusts
// nothing: names stay below the folder, there are only plain files, and no more
// of them than Pack would pack.
func Unpack(r io.Reader, put func(name string, executable bool, content []byte) error) error {
	t := tar.NewReader(io.LimitReader(r, MaxPacked))
	seen := map[string]bool{}
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrPack, err)
		}
		if h.Typeflag != tar.TypeReg || !fs.ValidPath(h.Name) || h.Name == "." || seen[h.Name] || len(seen) == maxPackedFiles {
			return fmt.Errorf("%w: %.100q has no place in a packed flake", ErrPack, h.Name)
		}
		seen[h.Name] = true
		content, err := io.ReadAll(t)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrPack, err)
		}
		if err := put(h.Name, h.Mode&0o111 != 0, content); err != nil {
			return err
		}
	}
}
