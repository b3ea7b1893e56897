package runner

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// ErrTaken says that another daemon is this host already.
var ErrTaken = errors.New("another daemon on this machine is this host already")

// guard makes two daemons of one host identity exclude each other, wherever
// their data is: by a lock in the run directory, which depends on the identity
// alone, and by an abstract socket, for two that have different run roots. Both
// end with the process.
type guard struct {
	lock   *os.File
	socket net.Listener
}

// guardPatience is for a daemon that has just ended: a program that it was starting has
// copies of its lock and its socket until it is executed.
const guardPatience = time.Second

func (l layout) guard(clusterID, hostID string) (g *guard, err error) {
	for end := time.Now().Add(guardPatience); ; time.Sleep(20 * time.Millisecond) {
		if g, err = l.tryGuard(clusterID, hostID); !errors.Is(err, ErrTaken) || time.Now().After(end) {
			return g, err
		}
	}
}

func (l layout) tryGuard(clusterID, hostID string) (*guard, error) {
	if err := os.MkdirAll(l.run, 0o700); err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	if err := private(filepath.Dir(l.run)); err != nil {
		return nil, err
	}
	taken := func() error {
		return fmt.Errorf("%w: cluster %s, host %s. Stop the other one, or give this one a data directory of its own and have it join",
			ErrTaken, clusterID, hostID)
	}
	f, err := os.OpenFile(filepath.Join(l.run, "host.lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, taken()
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	s, err := net.Listen("unix", "@blixard/"+filepath.Base(l.run))
	if err != nil {
		f.Close()
		if errors.Is(err, unix.EADDRINUSE) {
			return nil, taken()
		}
		return nil, fmt.Errorf("guard of the host: %w", err)
	}
	return &guard{f, s}, nil
}

func (g *guard) release() {
	g.socket.Close()
	g.lock.Close()
}

// private refuses a directory in which somebody else could put things in our way.
func private(dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return fmt.Errorf("run directory %s: %w", dir, err)
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return fmt.Errorf("run directory %s: it belongs to user %d with mode %04o, and must be ours alone to write: choose another", dir, st.Uid, st.Mode&0o7777)
	}
	return nil
}
