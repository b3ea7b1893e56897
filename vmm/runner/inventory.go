package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"

	"github.com/blixard/blixard/vmm/runner/shims"
	"github.com/blixard/blixard/vmm/runner/vmdir"
	"github.com/blixard/blixard/vmm/shim"
)

// inventory finds every VM that has a directory here, alive or not.
func (h *Host) inventory() ([]*vm, error) {
	uids, err := h.known()
	if err != nil {
		return nil, fmt.Errorf("look what runs here: %w", err)
	}
	found := make([]*vm, len(uids))
	var wait sync.WaitGroup
	some := make(chan struct{}, 32)
	for i, uid := range uids {
		wait.Go(func() {
			some <- struct{}{}
			defer func() { <-some }()
			found[i] = h.newVM(uid)
			found[i].adopt()
		})
	}
	wait.Wait()
	return found, nil
}

// known lists the uids of the state directories and of the run directories: the
// one may be there without the other.
func (h *Host) known() ([]string, error) {
	set := map[string]bool{}
	states, err := os.ReadDir(h.at.states())
	if err != nil {
		return nil, err
	}
	for _, e := range states {
		if e.IsDir() && checkUID(e.Name()) == nil {
			set[e.Name()] = true
		}
	}
	runs, err := os.ReadDir(h.at.runs())
	if err != nil {
		return nil, err
	}
	for _, e := range runs {
		dir := filepath.Join(h.at.runs(), e.Name())
		s, err := started(dir)
		if err != nil {
			// Nothing was ever started here, or nobody can tell what: a directory that
			// is dead is of no use, one that is not is left to its deadline.
			if shims.Dead(dir) {
				err = os.RemoveAll(dir)
			}
			h.cfg.Log.Warn("a run directory that is nobody's", "dir", dir, "err", err)
			continue
		}
		if checkUID(s.Instance.UID) == nil && h.at.runOf(s.Instance.UID) == dir {
			set[s.Instance.UID] = true
		}
	}
	uids := make([]string, 0, len(set))
	for uid := range set {
		uids = append(uids, uid)
	}
	sort.Strings(uids)
	return uids, nil
}

func started(dir string) (shim.Start, error) {
	b, err := vmdir.ReadFile(filepath.Join(dir, vmdir.StartFile), shim.MaxStart)
	if err != nil {
		return shim.Start{}, err
	}
	return shim.DecodeStart(b)
}

// adopt finds out what became of a VM while no daemon looked.
func (v *vm) adopt() {
	rec, err := readRecord(v.at.state)
	if err != nil {
		v.h.cfg.Log.Warn("what a VM is must be guessed from its run directory", "uid", v.uid, "err", err)
	}
	order, orderErr := started(v.at.run)
	if v.guessed = rec == nil; v.guessed {
		// Whether its guest may run here is not known either: an order to wait for one
		// tells, and what stands still stays so.
		rec = &record{Instance: shim.Instance{UID: v.uid}, Incoming: orderErr == nil && slices.Contains(order.Argv, "-incoming")}
	}
	// A record is written before its order: another order is one that was never
	// given, and its files are of the attempt before.
	ran := orderErr == nil && (order.Instance == rec.Instance || rec.Instance.Attempt == 0)
	if ran {
		rec.Instance = order.Instance
	}
	v.rec = rec
	if rec.User != nil && v.h.users != nil {
		v.h.users.of(v.uid, rec.User)
	}
	s, st, err := shims.Adopt(v.at.run)
	switch {
	case err != nil:
		// What cannot be looked at is not dead.
		v.h.cfg.Log.Error("a VM cannot be looked at, and counts as alive", "vm", rec.Instance, "err", err)
		v.alive = true
	case st.Fate == shims.Alive || st.Fate == shims.Silent:
		v.shim, v.alive = s, true
		if st.Shim != nil {
			rec.Instance = st.Shim.Instance
			if st.Fate == shims.Alive { // shim.json may be older than an order to bind it anew
				rec.settle(*st.Shim)
			}
		}
	case ran && rec.Exit == nil:
		rec.Exit = v.howEnded()
	}
	if !v.alive && orderErr == nil {
		v.note() // once its order is gone, only the record tells
		v.withdraw()
	}
	if v.alive {
		v.h.volumes.adopt(v.uid, rec.Volumes)
		rec.Exit = nil
	} else {
		v.takeDown()
	}
}

// withdraw makes sure that what counts as dead stays dead; what cannot be made
// sure of counts as alive.
func (v *vm) withdraw() {
	switch gone, err := withdraw(v.at.run); {
	case err != nil:
		v.h.cfg.Log.Error("an order to start cannot be taken back, and its VM counts as alive", "vm", v.rec.Instance, "err", err)
		v.alive = true
	case !gone:
		v.alive = true
	}
}
