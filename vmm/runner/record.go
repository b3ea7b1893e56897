package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/vmdir"
	"github.com/blixard/blixard/vmm/shim"
)

// record is instance.json: what no lock and no shim can tell of an instance. It
// is written before anything else of the instance exists.
type record struct {
	Version       int                  `json:"version"`
	Instance      shim.Instance        `json:"instance"`
	RunGeneration uint32               `json:"runGeneration"`
	Hypervisor    blixardv1.Hypervisor `json:"hypervisor"`
	// SpecGeneration of the spec that it was started with.
	SpecGeneration uint32 `json:"specGeneration,omitempty"`
	Bound          bound  `json:"bound"`
	// Nix is what a VM that Nix builds has, also one that was never started: its
	// attempt is 0.
	Nix *built `json:"nix,omitempty"`
	// Plugs is how many taps it has, or may have: see package links.
	Plugs int `json:"plugs,omitempty"`
	// Volumes are those that it has open, or may have.
	Volumes []opened `json:"volumes,omitempty"`
	// User is who its hypervisor runs as; nil: the daemon's own.
	User *shim.User `json:"user,omitempty"`
	// Next is set while the instance is moved to another lease: it may have
	// either, and its shim knows which.
	Next *bound `json:"next,omitempty"`
	// Incoming: its guest comes from another host, and none of its code may run here.
	Incoming bool `json:"incoming,omitempty"`
	// Offered is the migration by which its guest may have left, and HandedOver the
	// one by which it has. QEMU knows which; once it does not live any more, only
	// what was handed over was ever said to have been.
	Offered    uint64 `json:"offered,omitempty"`
	HandedOver uint64 `json:"handedOver,omitempty"`
	// Shape is what a machine must have in common with this one to take its guest.
	Shape string `json:"shape,omitempty"`
	// Disks are those of its own that it was started with and may write: the newest spec
	// may have others. Nil: not known.
	Disks []string `json:"disks"`
	// Written are the drives whose disks would go with its guest.
	Written []string `json:"written,omitempty"`
	// From is the host that the guest of one that is Incoming comes from.
	From uint64 `json:"from,omitempty"`
	// Machine is what its guest's memory belongs to, where that can be saved.
	Machine string `json:"machine,omitempty"`
	// BootMiB is the memory that it was started with, where it has a balloon, and
	// MemoryMiB what its guest had of that when it was last asked; 0: not known.
	BootMiB   uint64 `json:"bootMiB,omitempty"`
	MemoryMiB uint64 `json:"memoryMiB,omitempty"`
	// Restoring is RestoreFrom.Index of the restore that the newest attempt is one of,
	// as long as its guest has not run: disks.before are the VM's own then.
	Restoring uint64 `json:"restoring,omitempty"`
	// Restored is that of the newest of which it has.
	Restored uint64 `json:"restored,omitempty"`
	// Untold is the VM's name, as long as its guest goes on from a snapshot's or a saved boot's memory and
	// has not been told so.
	Untold string `json:"untold,omitempty"`
	// Warm: its guest goes on from its saved boot; Warming: and has not run yet.
	Warm    bool `json:"warm,omitempty"`
	Warming bool `json:"warming,omitempty"`
	// Exit is how it ended, once that is known.
	Exit *vmm.Exit `json:"exit,omitempty"`
}

// bound is what bounds the life of an instance.
type bound struct {
	Lease blixardv1.LeaseClass `json:"lease"`
	Ms    uint32               `json:"ms,omitempty"`
	// Epoch of the page, and its path.
	Epoch uint64 `json:"epoch,omitempty"`
	Page  string `json:"page,omitempty"`
}

const (
	recordFile    = "instance.json"
	recordVersion = 1
)

func (r record) write(dir string) error {
	r.Version = recordVersion
	if err := vmdir.WriteJSON(dir, recordFile, r); err != nil {
		return fmt.Errorf("note what is started: %w", err)
	}
	return nil
}

// readRecord gives nil when there is none, or none that can be read: then what
// the run directory says must do.
func readRecord(dir string) (*record, error) {
	b, err := vmdir.ReadFile(filepath.Join(dir, recordFile), 64<<10)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := new(record)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%s in %s: %w", recordFile, dir, err)
	}
	return r, nil
}

// settle decides between what an instance had and what it was to get, by what
// its shim says is in effect. What it was to get it may get yet: the order for it
// may be on its way, from us or from the daemon before us.
func (r *record) settle(state shim.State) {
	if r.Next != nil && r.Next.Page == state.Page {
		r.Bound, r.Next = *r.Next, nil
	}
	if r.Bound.Page == state.Page {
		return
	}
	// Nobody noted this page. The loosest that it can be is the safe answer.
	r.Bound = bound{Lease: blixardv1.LeaseClass_LEASE_CLASS_NONE}
	if state.Page != "" {
		r.Bound = bound{blixardv1.LeaseClass_LEASE_CLASS_LONG, pageMs(state.Page), state.Host.Epoch, state.Page}
	}
}

// pageMs is the length in a page's name: see shim.PageName.
func pageMs(path string) uint32 {
	name := strings.TrimSuffix(filepath.Base(path), "ns.lease")
	ns, err := strconv.ParseUint(name[strings.LastIndexByte(name, '-')+1:], 10, 64)
	if err != nil {
		return 0
	}
	return uint32(ns / 1e6)
}
