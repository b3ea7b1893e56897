package sim

import (
	"slices"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// newest is the newest state that any node has reached, as far as judges look at
// it. It follows what each entry changes, on whatever node applies it first; that
// the others come to the same is the judge of states' to hold true. At times, and
// where it has missed something, it is read anew.
type newest struct {
	index uint64
	vms   map[string]*blixardv1.VM // by name; nil: nothing is known yet
	names map[string]string        // by uid
	nodes map[uint64]*blixardv1.Node
	// volumes by name.
	volumes map[string]*blixardv1.ClusterVolume
	// waiting are those of vms that should run and are placed nowhere.
	waiting map[string]*blixardv1.VM
	files   bool // the newest step has touched an artifact
	meta    *blixardv1.Meta

	// What the last entry has changed.
	changed []vmChange
	moved   []uint64 // nodes
	snapped []snapshotChange

	snapshots map[string]*blixardv1.VMSnapshot // by name
}

type snapshotChange struct{ was, is *blixardv1.VMSnapshot }

type vmChange struct {
	name    string
	was, is *blixardv1.VM
}

// anewEvery is how many entries are followed before the state is read anew.
const anewEvery = 200

// vm is the VM with a uid, or nil.
func (n *newest) vm(uid string) *blixardv1.VM {
	name, ok := n.names[uid]
	if !ok {
		return nil
	}
	return n.vms[name]
}

// node is the node with a name, or nil.
func (n *newest) node(name string) *blixardv1.Node {
	for _, node := range n.nodes {
		if node.Name == name {
			return node
		}
	}
	return nil
}

// placed are the VMs that are placed on a node and not being deleted.
func (n *newest) placed(id uint64) (names []string) {
	for name, vm := range n.vms {
		if vm.Placement != nil && vm.Placement.NodeId == id && !vm.Deleting {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// take takes over one entry.
func (n *newest) take(entry []cluster.Change, executed map[string]uint64) {
	n.index = entry[0].Index
	n.changed, n.moved, n.snapped = n.changed[:0], n.moved[:0], n.snapped[:0]
	for i := range entry {
		c := &entry[i]
		if name, ok := c.VM(); ok {
			vm, _ := c.Record.(*blixardv1.VM)
			n.changed = append(n.changed, vmChange{name, n.vms[name], vm})
			n.set(name, vm)
		}
		if name, ok := c.Snapshot(); ok {
			p, _ := c.Record.(*blixardv1.VMSnapshot)
			n.snapped = append(n.snapped, snapshotChange{n.snapshots[name], p})
			if n.snapshots[name] = p; p == nil {
				delete(n.snapshots, name)
			}
		}
		if d, _ := c.Record.(*blixardv1.DedupeRecord); d != nil {
			executed[d.Key] = d.Index
		}
		if name, ok := c.Volume(); ok {
			if v, _ := c.Record.(*blixardv1.ClusterVolume); v != nil {
				n.volumes[name] = v
			} else {
				delete(n.volumes, name)
			}
		}
		if _, ok := c.Artifact(); ok {
			n.files = true
		}
		if meta, _ := c.Record.(*blixardv1.Meta); meta != nil {
			n.meta = meta
		}
		if id, ok := c.Node(); ok {
			n.moved = append(n.moved, id)
			if node, _ := c.Record.(*blixardv1.Node); node != nil {
				n.nodes[id] = node
			} else {
				delete(n.nodes, id)
			}
		}
	}
}

// volumesOn are the volumes of a node.
func (n *newest) volumesOn(id uint64) (names []string) {
	for name, v := range n.volumes {
		if v.NodeId == id {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// copiesOn are what a node has of volumes that are on others.
func (n *newest) copiesOn(id uint64) (list []*blixardv1.VolumeCopy) {
	for _, v := range n.volumes { // any order: each alike
		for _, c := range v.Copies {
			if c.NodeId == id {
				list = append(list, c)
			}
		}
	}
	return list
}

func (n *newest) set(name string, vm *blixardv1.VM) {
	if was := n.vms[name]; was != nil && was.Uid != vm.GetUid() {
		delete(n.names, was.Uid)
	}
	delete(n.waiting, name)
	if vm == nil {
		delete(n.vms, name)
		return
	}
	if vm.Placement == nil && vm.Run && !vm.Deleting {
		n.waiting[name] = vm
	}
	n.vms[name] = vm
	n.names[vm.Uid] = name
}

// anew reads a state, and says whether it is what was followed.
func (n *newest) anew(v *cluster.State) (same bool) {
	old := *n
	*n = newest{
		index: v.Revision(), meta: v.Meta(),
		vms: map[string]*blixardv1.VM{}, names: map[string]string{}, nodes: map[uint64]*blixardv1.Node{}, snapshots: map[string]*blixardv1.VMSnapshot{},
		waiting: map[string]*blixardv1.VM{}, volumes: map[string]*blixardv1.ClusterVolume{},
	}
	v.Snapshots(func(p *blixardv1.VMSnapshot) bool {
		n.snapshots[p.Name] = p
		return true
	})
	same = true
	v.Volumes(func(vol *blixardv1.ClusterVolume) bool {
		n.volumes[vol.Name] = vol
		was := old.volumes[vol.Name]
		same = same && was != nil && was.Revision == vol.Revision
		return true
	})
	v.VMs("", func(vm *blixardv1.VM) bool {
		n.set(vm.Name, vm)
		was := old.vms[vm.Name]
		same = same && was != nil && was.Uid == vm.Uid && was.Revision == vm.Revision
		return true
	})
	v.Nodes(func(node *blixardv1.Node) bool {
		n.nodes[node.Id] = node
		was := old.nodes[node.Id]
		same = same && was != nil && was.Revision == node.Revision
		return true
	})
	return same && len(old.volumes) == len(n.volumes) && len(old.vms) == len(n.vms) && len(old.nodes) == len(n.nodes)
}

// follow takes over what a node has just applied, v being what that led to, and
// has it judged entry by entry.
func (j *judges) follow(w *World, v *cluster.State, changes []cluster.Change) {
	n := &j.newest
	n.files = n.vms == nil
	j.capacity.asked = j.capacity.asked[:0]
	for len(changes) > 0 {
		k := 1
		for k < len(changes) && changes[k].Index == changes[0].Index {
			k++
		}
		if n.vms != nil && changes[0].Index == n.index+1 {
			n.take(changes[:k], j.witness.executed)
			j.levels.entry(w, n)
			j.capacity.entry(w, n, v)
			j.placed.entry(w, n)
			j.shares.entry(w, n)
			j.migrations.entry(w, n)
			j.volumes.entry(w, n)
			j.drains.entry(w, n)
			j.snapshots.entry(w, n)
			j.specs.entry(w, n)
			j.policy.entry(n)
			j.addresses.entry(w, n)
			j.memory.entry(w, n)
		}
		changes = changes[k:]
	}
	j.addresses.state(w, v)
	known := n.vms != nil && n.index >= v.Revision()
	if n.files && n.index == v.Revision() || !known {
		j.artifacts.look(w, v)
	}
	if known && (n.index > v.Revision() || n.index%anewEvery != 0) {
		j.capacity.judgeAsked(w, v)
		return
	}
	if same := n.anew(v); known && !same {
		w.fail("the changes that entries tell of are all there are", "at index %d the state is not what was followed entry by entry", n.index)
	}
	if !known {
		j.specs.anew(w, n)
		j.policy.anew(n)
	}
	j.levels.entry(w, n)
	j.capacity.anew(w, n, v)
	j.placed.all(w)
	j.addresses.anew(w, n)
}
