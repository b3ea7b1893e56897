package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/blixard/blixard/nixflake"
)

// A folder with a flake travels as one file, and its user should know what went:
// everything that a host builds can be read by everybody there. What git ignores
// stays here, as Nix itself leaves it out.

// open opens what a ref names on this disk, and says what was packed.
func (r ref) open() (f *os.File, packed string, err error) {
	path := r.path()
	if r.folder && filepath.Base(path) == "flake.nix" {
		path = filepath.Dir(path)
	}
	if st, err := os.Stat(path); r.folder && err == nil && st.IsDir() {
		return packFolder(path)
	}
	if f, err = openPlain(path); err != nil || r.most == 0 {
		return f, "", err
	}
	st, err := f.Stat()
	if err == nil && st.Size() > r.most {
		err = fmt.Errorf("%s is %s long, and may have %s", path, bytesText(uint64(st.Size())), bytesText(uint64(r.most)))
	}
	if err != nil {
		f.Close()
		return nil, "", err
	}
	return f, "", nil
}

// packFolder gives a folder as a file, which is nowhere else.
func packFolder(dir string) (*os.File, string, error) {
	source, ignored, unasked := notIgnored(dir)
	b, err := nixflake.Pack(source)
	if errors.Is(err, fs.ErrNotExist) && exists(filepath.Join(dir, "flake.nix")) {
		return nil, "", fmt.Errorf("%s: git ignores its flake.nix", dir)
	}
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", dir, err)
	}
	files := 0
	if err := nixflake.Unpack(bytes.NewReader(b), func(string, bool, []byte) error { files++; return nil }); err != nil {
		return nil, "", fmt.Errorf("%s: %w", dir, err)
	}
	said := fmt.Sprintf("packed %s: %d files, %s", dir, files, bytesText(uint64(len(b))))
	if files == 1 {
		said = fmt.Sprintf("packed %s: 1 file, %s", dir, bytesText(uint64(len(b))))
	}
	if len(ignored) > 0 {
		more := ""
		if len(ignored) > 3 {
			ignored, more = ignored[:3], ", ..."
		}
		said += fmt.Sprintf(", without what git ignores (%s%s)", oneLine(strings.Join(ignored, ", ")), more)
	}
	if unasked {
		said += ", with what git ignores: git could not be asked"
	}
	f, err := os.CreateTemp("", "blixard-flake-")
	if err != nil {
		return nil, "", err
	}
	os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		_, err = f.Seek(0, 0)
	}
	if err != nil {
		f.Close()
		return nil, "", err
	}
	return f, said, nil
}

// notIgnored is a folder without what git ignores in it, and what that is. Where
// there is no git, nothing is ignored; unasked says that there is, but it did not
// answer.
func notIgnored(dir string) (source fs.FS, ignored []string, unasked bool) {
	all := os.DirFS(dir)
	out, err := exec.Command("git", "-C", dir, "ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory").Output()
	if err != nil {
		return all, nil, inRepository(dir)
	}
	without := map[string]bool{}
	for name := range strings.SplitSeq(string(out), "\x00") {
		if name == "" {
			continue
		}
		without[strings.TrimSuffix(name, "/")] = true
		if base := path.Base(name); base != ".direnv" && !strings.HasPrefix(base, "result") { // these everybody expects
			ignored = append(ignored, name)
		}
	}
	return filtered{all, without}, ignored, false
}

func inRepository(dir string) bool {
	dir, err := filepath.Abs(dir)
	for ; err == nil; dir = filepath.Dir(dir) {
		if exists(filepath.Join(dir, ".git")) {
			return true
		}
		if dir == filepath.Dir(dir) {
			return false
		}
	}
	return false
}

// filtered is a tree without some files and folders.
type filtered struct {
	fs.FS
	without map[string]bool
}

func (f filtered) ReadDir(name string) ([]fs.DirEntry, error) {
	list, err := fs.ReadDir(f.FS, name)
	return slices.DeleteFunc(list, func(e fs.DirEntry) bool { return f.without[path.Join(name, e.Name())] }), err
}

func (f filtered) Open(name string) (fs.File, error) {
	if f.without[name] {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return f.FS.Open(name)
}
