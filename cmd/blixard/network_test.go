package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/blixard/blixard/rpc"
)

// network is a bridge with one network namespace for each node; the test itself
// is on it as well, and is never cut off:
//
//	test 10.x.y.254 ── bridge ─┬─ n1 10.x.y.1
//	                           ├─ n2 10.x.y.2
//	                           └─ n3 10.x.y.3
//
// A cut is one-way: whoever cannot reach another sends its packets to a hardware
// address that nobody has, as a broken switch would. Nobody is told.
type network struct {
	t      testing.TB
	name   string // of the bridge, and the beginning of all other names
	subnet string // 10.x.y
	ca     *authority
}

// networked makes the cluster's nodes listen in namespaces of their own, with TLS.
func networked(t *testing.T) func(*options) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make network namespaces")
	}
	for _, tool := range []string{"ip", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("there is no %s: it is in iproute2 and util-linux", tool)
		}
	}
	id := rand.IntN(250 * 250)
	n := &network{t: t, name: fmt.Sprintf("bx%04x", id), subnet: fmt.Sprintf("10.%d.%d", 1+id/250, id%250), ca: newAuthority(t)}
	if out, err := exec.Command("ip", "link", "add", n.name, "type", "bridge").CombinedOutput(); err != nil {
		t.Skipf("no bridge can be made here: %v: %s", err, out)
	}
	t.Cleanup(func() { n.ip("link del " + n.name) })
	n.ip("addr add " + n.subnet + ".254/24 dev " + n.name)
	n.ip("link set " + n.name + " up")
	return func(o *options) { o.network = n }
}

func (n *network) ip(args string) {
	n.t.Helper()
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		n.t.Fatalf("ip %s: %v: %s", args, err, out)
	}
}

func (n *network) ns(i int) string      { return fmt.Sprintf("%s-%d", n.name, i) }
func (n *network) address(i int) string { return fmt.Sprintf("%s.%d", n.subnet, i) }

// add makes the i-th node's namespace.
func (n *network) add(i int, node *Node) {
	n.t.Helper()
	ns, port := n.ns(i), fmt.Sprintf("%sp%d", n.name, i)
	n.ip("netns add " + ns)
	n.t.Cleanup(func() { n.ip("netns del " + ns) })
	n.ip("link add " + port + " type veth peer name eth0 netns " + ns)
	n.ip("link set " + port + " master " + n.name + " up")
	n.ip("-n " + ns + " addr add " + n.address(i) + "/24 dev eth0")
	n.ip("-n " + ns + " link set eth0 up")
	n.ip("-n " + ns + " link set lo up")
	node.Addr, node.ns = n.address(i)+":7946", ns
	node.flags = append(node.flags, n.ca.flags(node.Name, true, n.address(i))...)
}

// client is how the test and its command lines show themselves.
func (n *network) client() (*rpc.TLS, []string) {
	n.t.Helper()
	f := n.ca.flags("tester", false)
	tls, err := rpc.LoadTLS(f[1], f[3], f[5])
	if err != nil {
		n.t.Fatal(err)
	}
	return tls, []string{"BLIXARD_TLS_CERT=" + f[1], "BLIXARD_TLS_KEY=" + f[3], "BLIXARD_TLS_CA=" + f[5]}
}

// Cut loses all packets from one node to another.
func (n *network) Cut(from, to int) {
	n.t.Helper()
	n.ip(fmt.Sprintf("-n %s neigh replace %s lladdr 02:00:00:00:00:%02x dev eth0 nud permanent", n.ns(from), n.address(to), to))
}

// Heal undoes Cut.
func (n *network) Heal(from, to int) {
	n.t.Helper()
	n.ip(fmt.Sprintf("-n %s neigh del %s dev eth0", n.ns(from), n.address(to)))
}

// reaches says whether packets from one node arrive at another; it needs no answer
// on the way back, so it is only for tests of this network.
func (n *network) reaches(from, to int) bool {
	return exec.Command("nsenter", "--net=/var/run/netns/"+n.ns(from), "timeout", "1",
		"bash", "-c", "echo > /dev/tcp/"+n.address(to)+"/7946").Run() == nil
}

// Apart cuts the i-th node off from all others, in the directions that are wanted.
func (c *Cluster) Apart(i int, in, out bool) (heal func()) {
	c.t.Helper()
	each := func(f func(from, to int)) {
		for j := range c.nodes {
			if j+1 == i {
				continue
			}
			if out {
				f(i, j+1)
			}
			if in {
				f(j+1, i)
			}
		}
	}
	each(c.network.Cut)
	return func() { c.t.Helper(); each(c.network.Heal) }
}

// without is the cluster as seen by a client that asks all nodes but one.
func (c *Cluster) without(n *Node) *Cluster {
	view := *c
	view.nodes = nil
	for _, o := range c.nodes {
		if o != n {
			view.nodes = append(view.nodes, o)
		}
	}
	return &view
}
