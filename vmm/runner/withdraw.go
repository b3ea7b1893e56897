package runner

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/blixard/blixard/vmm/runner/vmdir"
)

// withdraw takes back the order to start that lies in a run directory of which
// nothing is alive, and says whether that was in time. A shim that was spawned
// and has not come to its lock yet (its daemon was killed, or lost patience)
// finds no order then. Without this it could start, much later and under the
// lease of its time, what has been reported as not running.
func withdraw(run string) (bool, error) {
	lock, err := vmdir.Lock(run)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return true, nil // there is no directory
	case errors.Is(err, vmdir.ErrLocked):
		return false, nil
	case err != nil:
		return false, err
	}
	defer vmdir.Unlock(lock)
	if err := os.Remove(filepath.Join(run, vmdir.StartFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	return true, nil
}
