package runner

import (
	"strings"
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/runner/vmdir"
	"github.com/blixard/blixard/vmm/shim"
)

const (
	none  = blixardv1.LeaseClass_LEASE_CLASS_NONE
	long  = blixardv1.LeaseClass_LEASE_CLASS_LONG
	short = blixardv1.LeaseClass_LEASE_CLASS_SHORT
)

// What an instance is said to be bound by is never tighter than the truth, which
// its shim knows.
func TestTheShimDecidesWhatBinds(t *testing.T) {
	page := func(ms uint32) string {
		l := leases{dir: "/run/x/leases"}
		return l.page(shim.Host{ID: "1", Generation: 1, Boot: "01234567-89ab-cdef-0123-456789abcdef", Epoch: 3}, ms)
	}
	was, next := bound{short, 15000, 3, page(15000)}, bound{long, 3600000, 3, page(3600000)}
	for name, c := range map[string]struct {
		next *bound
		page string
		want bound
	}{
		"nothing was to change": {nil, was.Page, was},
		"it did not change":     {&next, was.Page, was},
		"it did":                {&next, next.Page, next},
		"nobody noted it":       {nil, next.Page, bound{long, 3600000, 3, next.Page}},
		"unbound":               {&next, "", bound{Lease: none}},
	} {
		r := record{Bound: was, Next: c.next}
		r.settle(shim.State{Page: c.page, Host: shim.Host{Epoch: 3}})
		// What did not come to be may come to be yet.
		if r.Bound != c.want || (r.Next != nil) != (c.next != nil && c.page != next.Page) {
			t.Errorf("%s: %+v, %v", name, r.Bound, r.Next)
		}
	}
	if (&leases{}).page(shim.Host{}, 0) != "" {
		t.Error("no lease has a page")
	}
	if pageMs("/x/rubbish") != 0 {
		t.Error("rubbish has a length")
	}
}

func TestRunDirectoriesLeaveRoomForSockets(t *testing.T) {
	l := newLayout(&Config{ClusterID: strings.Repeat("c", 500), HostID: strings.Repeat("h", 500), RunRoot: "/run/user/4294967295/blixard"})
	path, err := vmdir.SocketPath(l.runOf(strings.Repeat("u", 128)))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{qmpSocket, consoleSocket, agentSocket} {
		if len(name) > len(vmdir.Socket) {
			t.Errorf("%s is longer than what was checked: %s", name, path)
		}
	}
	if a, b := hashed(12, "ab", "c"), hashed(12, "a", "bc"); a == b {
		t.Error("two identities have one run directory")
	}
	l = newLayout(&Config{RunRoot: "/" + strings.Repeat("r", 80)})
	if err := l.make("boot"); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Error(err)
	}
}

func TestLastLines(t *testing.T) {
	for in, want := range map[string]string{
		"":                        "",
		"a\nb\nc\n\n":             "b / c",
		"one\r\n\x1b[31mtwo":      "one / [31mtwo",
		"x\xff":                   "x\ufffd",
		strings.Repeat("é", 3000): "..." + strings.Repeat("é", 20),
	} {
		if got := lastLines(in, 2, 40); got != want {
			t.Errorf("%.20q: %q", in, got)
		}
	}
}
