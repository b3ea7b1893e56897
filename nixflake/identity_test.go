package nixflake

import (
	"fmt"
	"regexp"
	"testing"
)

// What is derived never changes: it is in running guests and in their leases.
func TestIdentityIsStable(t *testing.T) {
	id := Identify("golden", "1-17")
	got := []string{id.MachineID(), id.TapID(0), id.TapID(1), id.MAC(0), id.MAC(1), fmt.Sprint(id.VsockCID())}
	want := []string{"db3f57e9-af03-8eb7-a8c3-8b868dfbaf35", "bxpnldb7kayaxye", "bxpoulv3xyaepdw", "aa:fc:47:7b:1a:ed", "fe:70:b4:0b:42:1f", "1812485215"}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%q, want %q", got[i], want[i])
		}
	}
}

func TestIdentityIsUnique(t *testing.T) {
	taps, macs, cids, machines := map[string]bool{}, map[string]bool{}, map[uint32]bool{}, map[string]bool{}
	tap := regexp.MustCompile(`^bx[a-z2-7]{13}$`)
	mac := regexp.MustCompile(`^[0-9a-f][26ae](:[0-9a-f]{2}){5}$`)
	machine := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	for generation := range 3 {
		for index := range 20_000 {
			id := Identify("c", fmt.Sprintf("%d-%d", generation+1, index*7))
			for n := range 2 {
				if s := id.TapID(n); taps[s] || !tap.MatchString(s) {
					t.Fatalf("tap %s", s)
				} else {
					taps[s] = true
				}
				if s := id.MAC(n); macs[s] || !mac.MatchString(s) {
					t.Fatalf("mac %s", s)
				} else {
					macs[s] = true
				}
			}
			if c := id.VsockCID(); cids[c] || c < 3 || c == 1<<32-1 {
				t.Fatalf("cid %d", c)
			} else {
				cids[c] = true
			}
			if s := id.MachineID(); machines[s] || !machine.MatchString(s) {
				t.Fatalf("machine id %s", s)
			} else {
				machines[s] = true
			}
		}
	}
}

// Two clusters on one bridge do not count alike.
func TestIdentityDependsOnTheCluster(t *testing.T) {
	a, b := Identify("a", "1-17"), Identify("b", "1-17")
	if a.MAC(0) == b.MAC(0) || a.TapID(0) == b.TapID(0) || a.VsockCID() == b.VsockCID() || a.MachineID() == b.MachineID() {
		t.Error("two clusters share an identity")
	}
	for _, uid := range []string{"", "web", "1-x", "-", "99999999999999999999-1"} {
		if id := Identify("", uid); len(id.TapID(0)) != 15 || id.VsockCID() < 3 {
			t.Errorf("%q: %s", uid, id.TapID(0))
		}
	}
}

// On few bits it can be counted: the permutation is one.
func TestPermute(t *testing.T) {
	for _, bits := range []uint{1, 2, 7, 12} {
		seen := map[uint64]bool{}
		for v := range uint64(1) << bits {
			p := permute(v, bits, 0xdeadbeefcafe1234)
			if p >= 1<<bits || seen[p] {
				t.Fatalf("%d bits: %d goes to %d", bits, v, p)
			}
			seen[p] = true
		}
	}
}
