// Package vmdir is a VM's run directory, the one place where a daemon and a shim
// meet:
//
//	lock        held while anything of the VM lives; its content means nothing
//	start.json  the order to start, by the daemon        (shim.Start)
//	shim.json   who runs, by the shim, at start          (shim.State)
//	shim.sock   where the shim listens, mode 0600
//	shim.log    what the shim itself had to say
//	exit.json   the end, by the shim, its last act       (shim.Exit)
//
// The lock is one of an open file description (fcntl F_OFD_SETLK): children
// inherit it with the descriptor, it is free when the last of them is gone, and
// unlike flock it can be asked about without being taken.
package vmdir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Names of the files.
const (
	LockFile  = "lock"
	StartFile = "start.json"
	StateFile = "shim.json"
	Socket    = "shim.sock"
	LogFile   = "shim.log"
	ExitFile  = "exit.json"
)

// ErrPathTooLong says that the directory's path leaves no room for a socket.
var ErrPathTooLong = errors.New("path too long for a unix socket")

const maxSocket = 107 // sun_path has 108 bytes, one of them NUL

// SocketPath gives the path of the shim's socket.
func SocketPath(dir string) (string, error) {
	p := filepath.Join(dir, Socket)
	if len(p) > maxSocket {
		return "", fmt.Errorf("%w: %s has %d bytes, at most %d fit: use a shorter run directory",
			ErrPathTooLong, p, len(p), maxSocket)
	}
	return p, nil
}

// WriteJSON writes a file whole or not at all, durably.
func WriteJSON(dir, name string, v any) (err error) {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, "."+name+".new")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// ReadFile reads at most most bytes of a plain file: never a FIFO, which would
// block us, nor more than we asked for.
func ReadFile(path string, most int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no plain file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%s has more than %d bytes", path, most)
	}
	return b, err
}
