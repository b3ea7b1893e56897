package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/runner/links"
)

// freeSubnet is the beginning of a /24 of which this machine has no address: what a
// killed test has left may still be plugged in.
func freeSubnet(t testing.TB, base string) string {
	taken, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 250 {
		subnet := fmt.Sprintf("%s.%d", base, (os.Getpid()+i)%250)
		if !slices.ContainsFunc(taken, func(a net.Addr) bool { return strings.HasPrefix(a.String(), subnet+".") }) {
			return subnet
		}
	}
	t.Fatalf("this machine has addresses in all of %s.0.0/16", base)
	return ""
}

// Two real VMs on a network reach each other, and the host reaches them; a port of
// the host leads to one. A daemon that is killed disturbs none of that, and when
// the VMs are gone nothing is left.
func TestNetworks(t *testing.T) {
	guestFiles(t)
	if os.Geteuid() != 0 {
		t.Skip("only root can make taps and bridges")
	}
	t.Parallel()
	c := up(t, 1)
	create := pushGuest(c)
	subnet := freeSubnet(t, "10.214")
	bridge := strings.Fields(strings.Split(c.Must("network", "create", "lan", subnet+".0/24"), "\n")[1])[3]
	if out := c.Must("node", "get", "n1"); strings.Contains(out, "cannot be plugged") {
		t.Skip("no taps and bridges can be made here: " + out)
	}
	port := freePort(t)
	c.Must(create("a", "--network", "lan")...)
	c.Must(create("b", "--network", "lan", "-p", fmt.Sprintf("127.0.0.1:%d:7", port), "--cmdline", "blixard.tick=1s blixard.dial="+subnet+".2:7")...)
	reached := func() int { return strings.Count(c.Run("vm", "logs", "b").out, "reached "+subnet+".2:7") }
	c.Eventually(90*time.Second, "b reaches a", func() error {
		if reached() == 0 {
			return fmt.Errorf("it says %s", tailOf(c.Run("vm", "logs", "b").out, 500))
		}
		return nil
	})
	for _, address := range []string{subnet + ".2:7", subnet + ".3:7", fmt.Sprintf("127.0.0.1:%d", port)} {
		if err := echoes(address); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	if out := c.Must("vm", "get", "b"); !strings.Contains(out, subnet+".3 on network lan") || !strings.Contains(out, fmt.Sprintf("port %d of its host leads to its 7", port)) {
		t.Errorf("vm get says\n%s", out)
	}
	if out := c.Must("network", "get", "lan"); !strings.Contains(out, subnet+".3 b") || !strings.Contains(out, "2 of 253 addresses") {
		t.Errorf("network get says\n%s", out)
	}
	if r := c.Run("network", "delete", "lan"); r.code == 0 || !strings.Contains(r.err, "2 addresses of the network lan are in use") {
		t.Errorf("network delete: %v", r)
	}
	// Its port is taken, and so is its address.
	c.Must(create("c", "-p", fmt.Sprintf("%d:7", port), "--no-wait")...)
	if out := c.Must("vm", "explain", "c"); !strings.Contains(out, fmt.Sprintf("leads its port %d/tcp to the VM b", port)) || strings.Contains(out, "vm explain c") {
		t.Errorf("explain says\n%s", out)
	}
	c.Must("vm", "delete", "-y", "c")
	if r := c.Run(create("d", "--network", "lan,"+subnet+".3")...); r.code == 0 || !strings.Contains(r.err, "the VM b has") {
		t.Errorf("an address that b has: %v", r)
	}

	n := c.Node(1)
	st, err := n.Status()
	if err != nil {
		t.Fatal(err)
	}
	ours := links.New("", fmt.Sprintf("%s %d", st.GetClusterId(), st.GetNodeId()))
	var mine []string
	for _, name := range []string{"a", "b"} {
		vm, _ := c.VM(name)
		mine = append(mine, ours.Tap(vm.GetUid(), 0))
	}
	mine = append(mine, bridge)
	there := linkNames(t)
	for _, name := range mine {
		if !there[name] {
			t.Errorf("there is no %s", name)
		}
	}
	n.Kill()
	if err := echoes(subnet + ".2:7"); err != nil {
		t.Errorf("without a daemon: %v", err)
	}
	n.Start().Await()
	c.AwaitReady()
	more := reached()
	c.Eventually(30*time.Second, "b reaches a, with another daemon", func() error {
		if reached() <= more {
			return fmt.Errorf("%d times", more)
		}
		return nil
	})
	// A restart keeps the address.
	c.Must("--timeout", "120s", "vm", "restart", "a")
	c.Eventually(90*time.Second, "a is back", func() error { return echoes(subnet + ".2:7") })
	c.Must("vm", "delete", "-y", "a", "b")
	c.Must("network", "delete", "lan")
	if err := noneOf(n); err != nil {
		t.Error(err)
	}
	there = linkNames(t)
	for _, name := range mine {
		if there[name] {
			t.Errorf("%s is left", name)
		}
	}
}

func linkNames(t *testing.T) map[string]bool {
	t.Helper()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, i := range all {
		names[i.Name] = true
	}
	return names
}

func freePort(t *testing.T) int {
	t.Helper()
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(address)
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// echoes says something to our guest's echo, and hears it.
func echoes(address string) error {
	c, err := net.DialTimeout("tcp4", address, 3*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		return fmt.Errorf("heard %q: %w", b, err)
	}
	return nil
}

// The nodes of one machine have its ports in common: a second VM with a port is told
// who has it, at once, and starts when that is gone.
func TestAPortOfThisMachineIsOneVMs(t *testing.T) {
	t.Parallel()
	c := up(t, 2)
	create := pushGuest(c)
	port := fmt.Sprint(freePort(t))
	c.Must(create("web", "-p", port+":7", "--no-wait")...)
	c.Fails(exitConflict, []string{"no host can run it", "leads its port " + port + "/tcp to the VM web", "has its ports in common with"}, create("again", "-p", port+":7")...)
	// A live move would have it on both nodes at once; one with a stop takes its port along.
	c.Await("web", 90*time.Second, "runs", isRunning)
	_, was := c.VM("web")
	c.Fails(exitConflict, []string{"has its ports in common with " + was, "leads port " + port + "/tcp to it until it has left", "--offline"}, "vm", "migrate", "web")
	c.Must("vm", "migrate", "--offline", "web")
	c.Await("web", 90*time.Second, "runs elsewhere", func(v *blixardv1.VM, node string) bool { return node != was && isRunning(v, node) })
	c.Eventually(30*time.Second, "its port leads to it", func() error { return echoes("127.0.0.1:" + port) })
	c.Must("vm", "delete", "-y", "web")
	c.Await("again", 20*time.Second, "is placed", func(v *blixardv1.VM, _ string) bool { return v.GetPlacement() != nil })
}
