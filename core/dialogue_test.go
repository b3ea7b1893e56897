package core

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"crypto/rand"

	"github.com/cockroachdb/datadriven"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// The dialogues of testdata grow clusters, cut and crash nodes, and show who
// leads and what everybody has applied. Raft draws its election timeouts from a
// reader that always says zero, so that they can be read. Rewrite them with
// go test ./core -run Dialogues -rewrite.
func TestDialogues(t *testing.T) {
	random := rand.Reader
	defer func() { rand.Reader = random }()
	rand.Reader = zero{}
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		v := newVillage(t)
		datadriven.RunTest(t, path, func(t *testing.T, td *datadriven.TestData) string { return v.line(t, td) })
	})
}

// byName is the id of node nK: the village's K-th.
func (v *village) byName(t *testing.T, name string) uint64 {
	k, err := strconv.Atoi(strings.TrimPrefix(name, "n"))
	if ids := v.ids(); err == nil && k >= 1 && k <= len(ids) {
		return ids[k-1]
	}
	t.Fatalf("there is no node %q", name)
	return 0
}

func (v *village) line(t *testing.T, td *datadriven.TestData) string {
	args := []string{}
	flags := map[string]bool{}
	for _, a := range td.CmdArgs {
		args = append(args, a.Key)
		flags[a.Key] = true
	}
	switch td.Cmd {
	case "found":
		b, err := Found(Identity{ClusterID: "c", Generation: 1, Name: "n1", Address: "n1", Server: true, Host: true}, nil, v.time())
		if err != nil {
			t.Fatal(err)
		}
		v.add(1, b)
		v.run(2 * second)
	case "join":
		name := args[0]
		op := &blixardv1.AddNodeOp{Name: name, Address: name, Server: !flags["host-only"], Host: true, Level: 1}
		resp := v.do(v.ids()[0], &blixardv1.Command{Op: &blixardv1.Command_AddNode{AddNode: op}})
		if resp.Error != nil {
			return "refused: " + resp.Error.Message + "\n"
		}
		b, err := Join(Identity{ClusterID: "c", Generation: 1, ID: resp.GetNode().Id, Name: name, Address: name, Server: op.Server, Host: true}, v.nodes[v.ids()[0]].node.Status().Servers)
		if err != nil {
			t.Fatal(err)
		}
		v.add(resp.GetNode().Id, b)
		v.run(3 * second)
	case "remove":
		resp := v.do(v.byName(t, args[1]), &blixardv1.Command{Op: &blixardv1.Command_RemoveNode{RemoveNode: &blixardv1.RemoveNodeOp{Name: args[0]}}})
		if resp.Error != nil {
			return "refused: " + resp.Error.Message + "\n"
		}
		v.run(3 * second)
	case "cut", "heal":
		v.cut[v.byName(t, args[0])] = td.Cmd == "cut"
		return ""
	case "crash":
		v.nodes[v.byName(t, args[0])].node = nil
		return ""
	case "lost": // the others hear that the process is gone
		gone := v.byName(t, args[0])
		for _, id := range v.ids() {
			if id != gone {
				v.step(id, PeerLost{gone})
			}
		}
	case "restart":
		v.open(v.byName(t, args[0]))
		v.run(second)
	case "run":
		d, err := strconv.Atoi(args[0])
		if err != nil {
			t.Fatal(err)
		}
		v.run(int64(d) * second)
	case "create":
		v.create(v.byName(t, args[1]), args[0])
	case "try": // a mutation that may not be answered
		v.request++
		v.step(v.byName(t, args[1]), Request{ID: 1 << 40, Timeout: 3 * second, Command: &blixardv1.Command{
			RequestId: fmt.Sprintf("%032d", v.request), Op: &blixardv1.Command_Cordon{Cordon: &blixardv1.CordonOp{Name: args[0], Cordoned: true}},
		}})
		v.run(4 * second)
		r, ok := v.replies[1<<40]
		if !ok {
			return "no answer\n"
		}
		delete(v.replies, 1<<40)
		return fmt.Sprintf("%v\n", r.Response.GetError().GetCode())
	case "read":
		r := Request{ID: 1 << 41, Timeout: 3 * second, Stale: flags["stale"]}
		v.step(v.byName(t, args[0]), r)
		v.run(4 * second)
		reply := v.replies[r.ID]
		delete(v.replies, r.ID)
		if reply.View == nil {
			return fmt.Sprintf("%v\n", reply.Error.GetCode())
		}
		return fmt.Sprintf("%d VMs\n", countVMs(reply))
	default:
		t.Fatalf("%s: unknown command %q", td.Pos, td.Cmd)
	}
	return v.show()
}

func countVMs(r Reply) (n int) {
	r.View.VMs("", func(*blixardv1.VM) bool { n++; return true })
	return n
}

// show says of every node who leads, what it is, and how far it is behind.
func (v *village) show() (out string) {
	last := uint64(0)
	for _, id := range v.ids() {
		if n := v.nodes[id].node; n != nil {
			last = max(last, n.Status().Applied)
		}
	}
	for k, id := range v.ids() {
		n := v.nodes[id].node
		if n == nil {
			out += fmt.Sprintf("n%d: down\n", k+1)
			continue
		}
		st := n.Status()
		out += fmt.Sprintf("n%d:", k+1)
		if n.server == nil {
			out += " host only"
		} else {
			role := "follows " + v.nameOf(st.Leader)
			if st.Leading {
				role = "leads"
			}
			voters := ""
			for _, m := range n.server.state.Meta().Voters {
				voters += " " + v.nameOf(m)
			}
			out += fmt.Sprintf(" %s in term %d, voters%s", role, st.Term, voters)
			if len(n.server.state.Meta().Learners) > 0 {
				out += fmt.Sprintf(", learners %d", len(n.server.state.Meta().Learners))
			}
			if st.Applied < last {
				out += ", behind"
			}
		}
		if st.Epoch != 0 {
			out += fmt.Sprintf("; epoch %d", st.Epoch)
			switch {
			case st.Removed:
				out += " removed"
			case !st.Granted:
				out += " lapsed"
			}
		}
		out += "\n"
	}
	return out
}

func (v *village) nameOf(id uint64) string {
	for k, i := range v.ids() {
		if i == id {
			return fmt.Sprintf("n%d", k+1)
		}
	}
	return "nobody"
}
