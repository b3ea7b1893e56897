package links

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const crashEnv = "BLIXARD_TEST_LINKS"

// TestMain is also the process that dies between two steps: DIR STEP VERB.
func TestMain(m *testing.M) {
	words := strings.Fields(os.Getenv(crashEnv))
	if len(words) != 3 {
		os.Exit(m.Run())
	}
	left, _ := strconv.Atoi(words[1])
	between = func(string) {
		if left--; left < 0 {
			unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	}
	l := New(words[0], "me")
	var err error
	if words[2] == "plug" {
		err = l.Plug("1-1", twoPlugs, nil)
	} else {
		err = l.Unplug("1-1")
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

var twoPlugs = []Plug{{Index: 0, Bridge: "lan", Address: "10.1.0.1/24"}, {
	Index: 2, Bridge: "dmz", Address: "10.2.0.1/24", Receive: Rate{BytesPerSecond: 1e6}, Send: Rate{BytesPerSecond: 1e6, BurstBytes: 1e5},
}}

// namespace puts this test into a network namespace of its own: its thread ends
// with it.
func namespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("no network namespace can be had (root can): %v", err)
	}
	if err := New(t.TempDir(), "probe").Able(); err != nil {
		t.Skipf("no links can be made here: %v", err)
	}
}

func names(t *testing.T) (list []string) {
	t.Helper()
	all, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		if l.Attrs().Name != "lo" {
			list = append(list, l.Attrs().Name)
		}
	}
	slices.Sort(list)
	return list
}

func expect(t *testing.T, what string, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := names(t); !slices.Equal(got, want) {
		t.Errorf("%s: there are %v, want %v", what, got, want)
	}
}

func TestPlug(t *testing.T) {
	namespace(t)
	l := New(t.TempDir(), "me")
	expect(t, "at first")
	for range 2 { // what is there already is made anew
		if err := l.Plug("1-1", twoPlugs, nil); err != nil {
			t.Fatal(err)
		}
		expect(t, "plugged", "lan", "dmz", l.Tap("1-1", 0), l.Tap("1-1", 2), funnelOf(l.Tap("1-1", 2)))
	}
	lan, err := netlink.LinkByName("lan")
	if err != nil {
		t.Fatal(err)
	}
	mac := lan.Attrs().HardwareAddr.String()
	if a, err := netlink.AddrList(lan, unix.AF_INET); err != nil || len(a) != 1 || a[0].IPNet.String() != "10.1.0.1/24" {
		t.Error(a, err)
	}
	if err := l.Plug("1-2", twoPlugs[:1], nil); err != nil {
		t.Fatal(err)
	}
	tap, err := netlink.LinkByName(l.Tap("1-2", 0))
	if err != nil || tap.Attrs().MasterIndex != lan.Attrs().Index || tap.Attrs().Alias != "blixard 1-2" || len(tap.Attrs().Name) > 15 {
		t.Error(tap, err)
	}
	if err := l.Unplug("1-1"); err != nil {
		t.Fatal(err)
	}
	expect(t, "one unplugged", "lan", l.Tap("1-2", 0))
	if lan, err = netlink.LinkByName("lan"); err != nil || lan.Attrs().HardwareAddr.String() != mac {
		t.Error("the bridge has lost its hardware address with a port: ", err)
	}
	for range 2 {
		if err := l.Unplug("1-2"); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, "all unplugged")
}

// What is not ours stays as it is.
func TestOthersAreLeftAlone(t *testing.T) {
	namespace(t)
	dir := t.TempDir()
	me, other := New(dir, "me"), New(dir, "other")
	if err := other.Plug("1-1", twoPlugs[:1], nil); err != nil {
		t.Fatal(err)
	}
	theirs := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "dmz"}}
	lookalike := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "bt0"}, Mode: netlink.TUNTAP_MODE_TAP}
	for _, l := range []netlink.Link{theirs, lookalike} {
		if err := netlink.LinkAdd(l); err != nil {
			t.Fatal(err)
		}
	}
	stays := []string{"lan", other.Tap("1-1", 0), "dmz", "bt0"}
	if err := me.Plug("1-1", twoPlugs, nil); err != nil {
		t.Fatal(err)
	}
	expect(t, "both", append(stays, me.Tap("1-1", 0), me.Tap("1-1", 2), funnelOf(me.Tap("1-1", 2)))...)
	if a, err := netlink.AddrList(theirs, unix.AF_INET); err != nil || len(a) != 0 {
		t.Error("the operator's bridge was given an address: ", a, err)
	}
	if err := me.Sweep(nil); err != nil {
		t.Fatal(err)
	}
	expect(t, "swept", stays...)
	lan, err := netlink.LinkByName("bt0")
	if err != nil {
		t.Fatal(err)
	}
	err = me.Plug("1-1", []Plug{{Bridge: lan.Attrs().Name, Address: "10.1.0.1/24"}}, nil)
	if err == nil || !strings.Contains(err.Error(), "is no bridge") {
		t.Error(err)
	}
	if err := me.Unplug("1-1"); err != nil {
		t.Error(err)
	}
	expect(t, "refused", stays...)
}

// Whenever the daemon is killed, the next one leaves what its VMs have, and nothing
// else.
func TestKilledBetweenAnyTwoSteps(t *testing.T) {
	namespace(t)
	dir := t.TempDir()
	l := New(dir, "me")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	crash := func(step int, verb string) (died bool) {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %s", crashEnv, dir, step, verb))
		out, err := cmd.CombinedOutput()
		if err != nil && cmd.ProcessState.ExitCode() != -1 {
			t.Fatalf("%s, step %d: %v: %s", verb, step, err, out)
		}
		return err != nil
	}
	steps := 0
	for _, verb := range []string{"plug", "unplug"} {
		for _, then := range []string{"swept", "plugged again", "unplugged"} {
			for step := 0; ; step++ {
				if verb == "unplug" {
					if err := l.Plug("1-1", twoPlugs, nil); err != nil {
						t.Fatal(err)
					}
				}
				died := crash(step, verb)
				steps++
				switch then {
				case "swept": // its VM has no directory any more
					err = l.Sweep([]string{"1-9"})
				case "plugged again":
					if err = l.Sweep([]string{"1-1"}); err != nil {
						break
					}
					if err = l.Plug("1-1", twoPlugs, nil); err == nil {
						expect(t, fmt.Sprint(verb, step, then), "lan", "dmz", l.Tap("1-1", 0), l.Tap("1-1", 2), funnelOf(l.Tap("1-1", 2)))
						err = l.Unplug("1-1")
					}
				case "unplugged":
					if err = l.Sweep([]string{"1-1"}); err == nil {
						err = l.Unplug("1-1")
					}
				}
				if err != nil {
					t.Fatalf("%s, step %d, %s: %v", verb, step, then, err)
				}
				expect(t, fmt.Sprint(verb, step, then))
				if !died {
					break
				}
			}
		}
	}
	t.Logf("killed in %d places", steps)
	if steps < 50 {
		t.Error("too few")
	}
}

// Two daemons with directories of their own are on the same network: the one does not
// tidy up what the other is just making.
func TestOneAtATime(t *testing.T) {
	a, b := New(t.TempDir(), "a"), New(t.TempDir(), "b")
	inside := make(chan error, 1)
	err := a.locked(func() error {
		go func() { inside <- b.locked(func() error { return nil }) }()
		select {
		case err := <-inside:
			t.Errorf("two are in there at once (%v)", err)
		case <-time.After(300 * time.Millisecond):
		}
		return nil
	})
	if err = errors.Join(err, <-inside); err != nil {
		t.Error(err)
	}
}
