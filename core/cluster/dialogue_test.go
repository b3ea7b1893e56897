package cluster

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// The dialogues of testdata apply commands and show where VMs are and why.
// Rewrite them with go test ./core/cluster -rewrite.
func TestDialogues(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		if strings.Contains(path, "rapid") {
			return
		}
		d := newDriver()
		datadriven.RunTest(t, path, func(t *testing.T, td *datadriven.TestData) string { return d.line(t, td) })
	})
}

func arg(td *datadriven.TestData, key, otherwise string) string {
	for _, a := range td.CmdArgs {
		if a.Key == key {
			if len(a.Vals) == 0 {
				return "yes"
			}
			return strings.Join(a.Vals, ",")
		}
	}
	return otherwise
}

func (d *driver) nodesNamed(names []string) (list []*blixardv1.Node) {
	for _, n := range names {
		list = append(list, d.NodeByName(n))
	}
	return list
}

func number(td *datadriven.TestData, key string, otherwise uint64) uint64 {
	n, err := strconv.ParseUint(arg(td, key, fmt.Sprint(otherwise)), 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

func labels(s string) map[string]string {
	m := map[string]string{}
	for _, pair := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' }) {
		k, v, _ := strings.Cut(pair, ":")
		m[k] = v
	}
	return m
}

func (d *driver) line(t *testing.T, td *datadriven.TestData) string {
	name := ""
	if len(td.CmdArgs) > 0 {
		name = td.CmdArgs[0].Key
	}
	var resp *blixardv1.Response
	switch td.Cmd {
	case "host": // a new host, or the first one, comes up
		if d.NodeByName(name) == nil {
			resp = d.request(&blixardv1.Command{Op: &blixardv1.Command_AddNode{AddNode: &blixardv1.AddNodeOp{Name: name, Address: "a", Host: true, Server: arg(td, "server", "") != "", Level: 1}}})
		}
		f := facts()
		f.Capacity = &blixardv1.Resources{Vcpus: uint32(number(td, "vcpus", 4)), MemoryMib: number(td, "memory", 4096), DiskMib: 10000}
		f.Labels = labels(arg(td, "labels", ""))
		n := d.NodeByName(name)
		d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostBoot{HostBoot: &blixardv1.HostBootOp{NodeId: n.Id, BootId: arg(td, "boot", "b"), Epoch: n.Host.Epoch, Facts: f}}})
	case "create":
		cmd := createOp(name, number(td, "memory", 512), 1)
		spec := cmd.GetCreateVm().Spec
		spec.Vcpus, spec.Require = uint32(number(td, "vcpus", 1)), labels(arg(td, "require", ""))
		spec.Priority = int32(number(td, "priority", 0))
		switch arg(td, "restart", "") {
		case "never":
			spec.Restart = blixardv1.RestartPolicy_RESTART_POLICY_NEVER
		case "on-failure":
			spec.Restart = blixardv1.RestartPolicy_RESTART_POLICY_ON_FAILURE
		}
		if arg(td, "wait", "") != "" {
			spec.OnHostLoss = blixardv1.OnHostLoss_ON_HOST_LOSS_WAIT
		}
		resp = d.request(cmd)
	case "delete":
		resp = d.request(&blixardv1.Command{Op: &blixardv1.Command_DeleteVm{DeleteVm: &blixardv1.DeleteVMOp{Name: name}}})
	case "stop", "start":
		resp = d.request(&blixardv1.Command{Op: &blixardv1.Command_Power{Power: &blixardv1.PowerOp{Name: name, Run: td.Cmd == "start"}}})
	case "cordon", "uncordon":
		resp = d.request(&blixardv1.Command{Op: &blixardv1.Command_Cordon{Cordon: &blixardv1.CordonOp{Name: name, Cordoned: td.Cmd == "cordon"}}})
	case "drain":
		resp = d.request(&blixardv1.Command{Op: &blixardv1.Command_Drain{Drain: &blixardv1.DrainOp{
			Name: name, Parallel: uint32(number(td, "parallel", 0)), StopLocal: arg(td, "stop-local", "") != "",
		}}})
	case "restore":
		resp = d.request(&blixardv1.Command{Op: &blixardv1.Command_RestoreNode{RestoreNode: &blixardv1.RestoreNodeOp{Name: name}}})
	case "moves": // what a drain would do, or does
		out := ""
		for _, m := range d.DrainMoves(arg(td, "stop-local", "") != "", d.nodesNamed(append([]string{name}, strings.FieldsFunc(arg(td, "also", ""), func(r rune) bool { return r == ',' })...))...) {
			out += fmt.Sprintf("%s: %s %s: %s\n", m.Vm, strings.TrimPrefix(m.Step.String(), "DRAIN_STEP_"), m.Node, m.Message)
		}
		n := d.NodeByName(name)
		return out + fmt.Sprintf("moved %d, done %t, cordoned %t\n", n.GetDrain().GetMoved(), n.GetDrain().GetDone(), n.Cordoned)
	case "stopped", "exited", "stopping": // by its host's report
		vm := d.VM(name)
		o := seen(vm, map[string]blixardv1.Phase{"stopped": 7, "exited": 7, "stopping": 10}[td.Cmd])
		d.report(vm.Placement.NodeId, o)
	case "removed", "running":
		vm := d.VM(name)
		o := seen(vm, blixardv1.Phase_PHASE_RUNNING)
		o.Removed = td.Cmd == "removed"
		d.report(vm.Placement.NodeId, o)
	case "fence":
		n := d.NodeByName(name)
		d.apply(&blixardv1.Command{Op: &blixardv1.Command_Fence{Fence: &blixardv1.FenceOp{WaitedNs: int64(number(td, "waited_ms", 1<<40)) * 1e6, NodeId: n.Id, Epoch: n.Host.Epoch, Term: d.term, Long: arg(td, "long", "") != ""}}})
	case "settings":
		resp = d.request(&blixardv1.Command{Principal: "alice", Op: &blixardv1.Command_SetSettings{SetSettings: &blixardv1.SetSettingsOp{Settings: &blixardv1.Settings{
			LeaseMs: uint32(number(td, "lease", 0)), RenewMs: uint32(number(td, "renew", 0)), LongLeaseMs: uint32(number(td, "long", 0)),
			VcpuOvercommitMilli: uint32(number(td, "overcommit", 0)), Level: uint32(number(td, "level", 0)),
		}}}})
	case "restore-cluster": // from a backup of just now, on that node
		var file bytes.Buffer
		if err := d.WriteBackup(&file, &blixardv1.BackupHeader{}); err != nil {
			t.Fatal(err)
		}
		_, s, err := ReadBackup(&file)
		if err != nil {
			t.Fatal(err)
		}
		d.State, d.index, d.term = s, d.index+RestoreGap-1, d.term+1
		resp = d.apply(&blixardv1.Command{Op: &blixardv1.Command_Restore{Restore: &blixardv1.RestoreOp{
			HostsOff: arg(td, "hosts-off", "") != "", NodeId: number(td, "id", 0),
			Node: &blixardv1.AddNodeOp{Name: name, Address: "b", Server: true, Host: true, Level: 1},
		}}})
		d.index++
		id := resp.GetNode().GetId()
		d.Reconfigure(d.index, d.term, []uint64{id}, nil)
	case "settle":
		resp = d.apply(&blixardv1.Command{Op: &blixardv1.Command_Settle{Settle: &blixardv1.SettleOp{Term: d.term, WaitedNs: int64(number(td, "waited_ms", 1<<40)) * 1e6}}})
	case "readmit":
		id := number(td, "id", 0)
		resp = d.request(&blixardv1.Command{Op: &blixardv1.Command_Readmit{Readmit: &blixardv1.ReadmitOp{
			NodeId: id, Generation: number(td, "generation", 1),
			Node: &blixardv1.AddNodeOp{Name: name, Address: "c", Server: arg(td, "server", "") != "", Host: true, Level: 1},
		}}})
	case "nodes":
		out := fmt.Sprintf("generation %d, unsettled %t, voters %d\n", d.Meta().Generation, d.Meta().Unsettled, len(d.Meta().Voters))
		d.Nodes(func(n *blixardv1.Node) bool {
			out += fmt.Sprintf("%s at %s: %s, %s\n", n.Name, n.Address, strings.TrimPrefix(n.Server.String(), "SERVER_STATE_"), strings.TrimPrefix(n.GetHost().GetEpochState().String(), "EPOCH_STATE_"))
			return true
		})
		return out
	case "leases":
		return d.leases()
	case "get": // as a reader sees it
		vm := d.Shown(d.VM(name))
		return fmt.Sprintf("on %s, %s %s: %s\n", vm.GetPlacement().GetNode(), phaseText(vm.Status.Phase), vm.Status.Reason, vm.Status.Message)
	case "clock": // a time to show
		d.wall = int64(number(td, "s", 0)) * 1e9
		return ""
	case "suspect", "heard":
		n := d.NodeByName(name)
		d.apply(&blixardv1.Command{Op: &blixardv1.Command_Suspect{Suspect: &blixardv1.SuspectOp{NodeId: n.Id, Epoch: n.Host.Epoch, Suspect: td.Cmd == "suspect"}}})
	case "remove", "lose":
		resp = d.request(&blixardv1.Command{Principal: "alice", Op: &blixardv1.Command_RemoveNode{RemoveNode: &blixardv1.RemoveNodeOp{Name: name, Lost: td.Cmd == "lose"}}})
	case "bound": // a host acknowledges the lease that its VM should have
		vm := d.VM(name)
		d.report(vm.Placement.NodeId, seen(vm, vm.Status.Phase))
	case "events": // those that came with the last entry
		out := ""
		d.Events(d.index-1, func(e *blixardv1.Event) bool {
			out += fmt.Sprintf("%s %s %s by %q: %s\n", e.Type, e.Node, e.Vm, e.Principal, e.Message)
			return true
		})
		return out
	case "explain":
		e, err := d.Explain(name)
		if err != nil {
			return err.Message + "\n"
		}
		out := e.Summary + "\n"
		for _, v := range e.Verdicts {
			out += fmt.Sprintf("  %s load %d%%", v.Node, v.Load/10000)
			if v.Chosen {
				out += " CHOSEN"
			}
			if v.Fits {
				out += " fits"
			}
			for _, r := range v.Reasons {
				out += "; " + r
			}
			out += "\n"
		}
		return out
	case "show":
	default:
		t.Fatalf("%s: unknown command %q", td.Pos, td.Cmd)
	}
	if e := resp.GetError(); e != nil {
		return "refused: " + e.Message + "\n"
	}
	return d.show()
}

func (d *driver) show() (out string) {
	d.VMs("", func(vm *blixardv1.VM) bool {
		where := "nowhere"
		if p := vm.Placement; p != nil {
			where = fmt.Sprintf("on %s (epoch %d, %s)", d.Node(p.NodeId).Name, p.Epoch, strings.TrimPrefix(p.Lease.String(), "LEASE_CLASS_"))
		}
		out += fmt.Sprintf("%s: %s, %s %s\n", vm.Name, where, strings.TrimPrefix(vm.Status.Phase.String(), "PHASE_"), vm.Status.Reason)
		return true
	})
	return out
}

// leases are what every VM may live under, what it should, and each host's windows.
func (d *driver) leases() (out string) {
	d.VMs("", func(vm *blixardv1.VM) bool {
		if p := vm.Placement; p != nil {
			class := func(c blixardv1.LeaseClass) string { return strings.TrimPrefix(c.String(), "LEASE_CLASS_") }
			out += fmt.Sprintf("%s: %s %d ms, should be %s %d ms\n", vm.Name, class(p.Lease), p.LeaseMs, class(p.TargetLease), p.TargetLeaseMs)
		}
		return true
	})
	d.Nodes(func(n *blixardv1.Node) bool {
		out += fmt.Sprintf("%s: windows %d ms and %d ms\n", n.Name, d.WindowOf(n, false)/1e6, d.WindowOf(n, true)/1e6)
		return true
	})
	return out
}
