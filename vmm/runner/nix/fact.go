package nix

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Fact reads what a runner says of itself: a small file below its share/microvm.
// What it reads is in the store, which everybody may read: a runner is a user's,
// and a link in it could lead to what is not. A file that is not there is
// os.ErrNotExist.
func Fact(runner string, name ...string) (string, error) {
	path, err := filepath.EvalSymlinks(filepath.Join(append([]string{runner, "share", "microvm"}, name...)...))
	if err != nil {
		return "", err
	}
	store, err := filepath.EvalSymlinks(filepath.Dir(runner))
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(path, store+"/") {
		return "", fmt.Errorf("%w: %s leads out of the store", ErrShape, filepath.Join(name...))
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return "", fmt.Errorf("%w: %s is no plain file", ErrShape, filepath.Join(name...))
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFact+1))
	if err == nil && len(b) > maxFact {
		err = errors.New("it is too long")
	}
	if err != nil {
		return "", fmt.Errorf("%w: %s: %w", ErrShape, filepath.Join(name...), err)
	}
	return strings.TrimSpace(string(b)), nil
}

const maxFact = 4096
