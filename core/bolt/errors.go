package bolt

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
)

var (
	// ErrCorrupt: the file is not what was written. It was not changed.
	ErrCorrupt = errors.New("the database is damaged")
	// ErrNewer: the file has a format that this program does not know.
	ErrNewer = errors.New("the database was written by a newer version of blixard")
	// ErrInUse: another process has the file open.
	ErrInUse = errors.New("the database is already in use by another daemon")
)

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

// next is what to do about err.
func next(err error) string {
	switch {
	case errors.Is(err, ErrCorrupt):
		return "nothing in it was changed: keep a copy, check the drive, " +
			"and let this node join again as a new one, with an empty data directory"
	case errors.Is(err, ErrNewer):
		return "nothing in it was changed: start the newer blixard again"
	case errors.Is(err, ErrInUse):
		return "stop that daemon first, or give this one a data directory of its own"
	case is(err, syscall.ENOSPC), is(err, syscall.EDQUOT):
		return "what was acknowledged is safe: free some space and start again"
	case is(err, syscall.EFBIG):
		return "what was acknowledged is safe: raise the limit on file sizes and start again"
	case errors.Is(err, os.ErrPermission):
		return "give the user that runs blixard the right to read and write there"
	case errors.Is(err, os.ErrNotExist):
		return "make the directory first"
	default:
		return "what was acknowledged is safe if the drive is: check the drive and its file system, then start again"
	}
}

// is also finds an errno of which bbolt has kept the text only.
func is(err error, errno syscall.Errno) bool {
	return errors.Is(err, errno) || strings.HasSuffix(err.Error(), ": "+errno.Error())
}
