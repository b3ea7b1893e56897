package runner

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/runner/vmdir"
	"github.com/blixard/blixard/vmm/shim"
)

// A program has no hypervisor that could stop it where it is: it is sent SIGSTOP,
// and so is whatever it has forked. SIGKILL, and with it the end of a lease,
// works on what is stopped all the same.

// family is the processes of a program's instance: all that descend from the
// one that its shim has started. The init of a PID namespace is ours, and not
// among them.
type family struct {
	root shim.Process
	init bool
}

func familyIn(run string) (family, error) {
	b, err := vmdir.ReadFile(filepath.Join(run, vmdir.StateFile), shim.MaxLine)
	if err != nil {
		return family{}, err
	}
	var st shim.State
	if err := json.Unmarshal(b, &st); err != nil {
		return family{}, err
	}
	start, err := started(run)
	if err != nil {
		return family{}, err
	}
	if !vmdir.Alive(st.VM) {
		return family{}, errors.New("the program has ended")
	}
	return family{st.VM, start.PIDNamespace || start.Steps != nil}, nil
}

// all lists the pids, parents first.
func (f family) all() []int {
	var list []int
	if !f.init {
		list = append(list, f.root.PID)
	}
	queue := []int{f.root.PID}
	for len(queue) > 0 && len(list) < 1<<16 {
		pid := queue[0]
		queue = queue[1:]
		threads, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")
		for _, t := range threads {
			b, _ := os.ReadFile(t)
			for _, word := range bytes.Fields(b) {
				if child, err := strconv.Atoi(string(word)); err == nil {
					list, queue = append(list, child), append(queue, child)
				}
			}
		}
	}
	return list
}

// signal sends all of them a signal, until there are no new ones.
func (f family) signal(s unix.Signal) error {
	told := map[int]bool{}
	for range 20 {
		fresh := false
		for _, pid := range f.all() {
			if told[pid] {
				continue
			}
			told[pid], fresh = true, true
			if err := unix.Kill(pid, s); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("signal %d to process %d: %w", s, pid, err)
			}
		}
		if !fresh {
			return nil
		}
	}
	return errors.New("the program forks faster than it can be stopped")
}

// stopped says that there are some, and that none of them runs.
func (f family) stopped() bool {
	all := f.all()
	for _, pid := range all {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil {
			continue
		}
		words := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		if len(words) == 0 || words[0][0] != 'T' && words[0][0] != 'Z' {
			return false
		}
	}
	return len(all) > 0
}
