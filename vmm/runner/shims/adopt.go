package shims

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/blixard/blixard/vmm/runner/vmdir"
	"github.com/blixard/blixard/vmm/shim"
)

// Fate is what became of a VM's directory.
type Fate string

const (
	None     Fate = "none"     // nothing was ever started here
	Alive    Fate = "alive"    // a shim answers
	Silent   Fate = "silent"   // something lives, but no shim answers: stopped, starved, or dead before its VM
	Ended    Fate = "ended"    // dead, and exit.json says how
	Vanished Fate = "vanished" // dead without a word: the shim was killed, at its deadline or by hand
)

// State is what a daemon finds.
type State struct {
	Fate Fate
	// Shim is the shim's own word: its hello if it is Alive, shim.json otherwise;
	// nil if it never came so far.
	Shim *shim.State
	Exit *shim.Exit // Ended
}

// ErrVanished says that a VM is dead and its shim left no word.
var ErrVanished = errors.New("the shim was killed and left no report")

const dialPatience = 2 * time.Second

// Adopt finds out what became of dir, and takes up its shim if one answers:
// the Shim is nil unless the fate is Alive.
func Adopt(dir string) (*Shim, State, error) {
	if _, err := vmdir.SocketPath(dir); err != nil {
		return nil, State{}, err
	}
	for deadline := time.Now().Add(dialPatience); ; time.Sleep(10 * time.Millisecond) {
		dead, err := dead(dir)
		if err != nil {
			return nil, State{}, err
		}
		if dead {
			st, err := remains(dir)
			return nil, st, err
		}
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		s, err := dial(ctx, dir)
		cancel()
		if err == nil {
			hello := s.Hello()
			return s, State{Fate: Alive, Shim: &hello}, nil
		}
		if errors.Is(err, errProtocol) {
			return nil, State{}, err
		}
		if time.Now().After(deadline) {
			st, err := readState(dir)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, State{}, err
			}
			return nil, State{Fate: Silent, Shim: st}, nil
		}
	}
}

// remains reads what a dead VM left.
func remains(dir string) (State, error) {
	st, err := readState(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return State{}, err
	}
	e, err := readExit(dir)
	switch {
	case err == nil:
		return State{Fate: Ended, Shim: st, Exit: e}, nil
	case !errors.Is(err, os.ErrNotExist):
		return State{}, err
	}
	if _, err := os.Lstat(filepath.Join(dir, vmdir.LockFile)); errors.Is(err, os.ErrNotExist) {
		return State{Fate: None}, nil
	} else if err != nil {
		return State{}, err
	}
	return State{Fate: Vanished, Shim: st}, nil
}

// Dead says that nothing of a VM lives in dir: its lock is free, its program or
// the init of its namespace is gone, and its cgroup is empty. What cannot be
// looked at is not dead.
func Dead(dir string) bool {
	d, err := dead(dir)
	return err == nil && d
}

func dead(dir string) (bool, error) {
	held, err := vmdir.Held(dir)
	if err != nil || held {
		return false, err
	}
	return unheldDead(dir)
}

// unheldDead looks for what need not hold the lock: a program that closed all
// its descriptors, or what is left in a cgroup.
func unheldDead(dir string) (bool, error) {
	st, err := readState(dir)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil // it never came so far as to start anything that is not held by the lock
	}
	if err != nil {
		return false, err
	}
	if vmdir.Alive(st.VM) || vmdir.Alive(st.Shim) {
		return false, nil
	}
	if st.Cgroup == "" {
		return true, nil
	}
	return vmdir.CgroupEmpty(st.Cgroup)
}

// Sweep kills, by SIGKILL, what a directory's dead or silent shim left alive,
// and the shim itself. It is for the fate Silent, and for the cgroup of a VM
// that Vanished. Dead tells when it worked.
func Sweep(dir string) error {
	st, err := readState(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range []shim.Process{st.Shim, st.VM} {
		if vmdir.Alive(p) {
			errs = append(errs, vmdir.KillProcess(p))
		}
	}
	if st.Cgroup != "" {
		errs = append(errs, vmdir.KillCgroup(st.Cgroup, 10*time.Second))
	}
	return errors.Join(errs...)
}

const maxReport = 64 << 10

func readState(dir string) (*shim.State, error) { return readJSON[shim.State](dir, vmdir.StateFile) }
func readExit(dir string) (*shim.Exit, error)   { return readJSON[shim.Exit](dir, vmdir.ExitFile) }

func readJSON[T any](dir, name string) (*T, error) {
	b, err := vmdir.ReadFile(filepath.Join(dir, name), maxReport)
	if err != nil {
		return nil, err
	}
	v := new(T)
	if err := json.Unmarshal(b, v); err != nil {
		return nil, fmt.Errorf("%s in %s: %w", name, dir, err)
	}
	return v, nil
}
