package shim

import (
	"errors"
	"fmt"
	"strings"
)

// Instance names one running copy of a VM. Two copies of one VM never have the
// same Instance, and at most one of them lives.
type Instance struct {
	UID string `json:"uid"` // the VM's; never its name, which can be reused
	// The incarnation: the cluster's generation and the index of the log entry
	// that placed the VM here.
	Generation uint64 `json:"generation"`
	Index      uint64 `json:"index"`
	Attempt    uint32 `json:"attempt"` // of this host, within the incarnation
}

func (i Instance) String() string {
	return fmt.Sprintf("%s@%d.%d#%d", i.UID, i.Generation, i.Index, i.Attempt)
}

// Host names who may run things: a machine, in one boot, in one epoch of its
// membership. The epoch is given by the replicated state and bound to one boot
// id; a lease page belongs to exactly one Host.
type Host struct {
	ID         string `json:"id"`
	Generation uint64 `json:"generation"`
	Boot       string `json:"boot"` // the kernel's boot id, a lower-case UUID
	Epoch      uint64 `json:"epoch"`
}

const maxHostID = 63 // what the page has room for

func (h Host) validate() error {
	if h.ID == "" || len(h.ID) > maxHostID || strings.ContainsRune(h.ID, 0) {
		return fmt.Errorf("host id must have 1 to %d bytes and no NUL", maxHostID)
	}
	_, err := parseBoot(h.Boot)
	return err
}

// covers says that a page of host p may bind what host h runs: the same machine
// in the same boot, and no older membership than the one in effect.
func (h Host) covers(p Host) bool {
	if p.ID != h.ID || p.Boot != h.Boot {
		return false
	}
	if p.Generation != h.Generation {
		return p.Generation > h.Generation
	}
	return p.Epoch >= h.Epoch
}

var errBoot = errors.New("boot id must be a lower-case UUID")

func parseBoot(s string) (b [16]byte, err error) {
	if len(s) != 36 {
		return b, errBoot
	}
	n := 0
	for i := 0; i < len(s); i++ {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if s[i] != '-' {
				return b, errBoot
			}
			continue
		}
		d := strings.IndexByte("0123456789abcdef", s[i])
		if d < 0 {
			return b, errBoot
		}
		b[n/2] = b[n/2]<<4 | byte(d)
		n++
	}
	return b, nil
}

func formatBoot(b [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
