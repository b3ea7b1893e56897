package runner

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/vmm/shim"
)

// A host that is opened again says which lease pages there are.
func TestPagesAreFound(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.extend(20_000, 30*time.Second)
	b.extend(60_000, 40*time.Second)
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if files, _ := filepath.Glob(filepath.Join(b.h.at.leases(), "*.lease")); len(files) == 2 {
			break
		} else if time.Now().After(end) {
			t.Fatalf("pages: %v", files)
		}
	}
	b.h.Close()
	junk := filepath.Join(b.h.at.leases(), "junk.lease")
	if err := os.WriteFile(junk, []byte("no page"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.open()
	o := b.await("inventory", func(o core.Observed) bool { return o.Inventory })
	found := map[uint64]shim.Page{}
	for _, p := range o.Pages {
		found[p.Lease/1e6] = p
	}
	if len(o.Pages) != 2 || found[20_000].Host != b.host() || found[60_000].Deadline <= found[20_000].Deadline {
		t.Errorf("found %+v", o.Pages)
	}
}
