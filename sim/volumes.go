package sim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
)

// Volumes on a machine: files in a directory that survives everything but the loss of the
// disk. One comes whole, and goes at once. What it holds is a number, as of a VM's own
// disks (see savedVM); what a guest has written is on the disk, and what a mirror has
// written there once that was asked for: the loss of power takes the rest.
//
// One that comes with its VM is marked until the VM is taken over, or the cluster says
// that it has come.
//
// The adapter may find no room (VolumeFull), be slow, and be killed before and after
// each volume that it makes, grows or removes. It may not make one again that was
// made before, touch one that is open, or start a VM whose volume another VM here has
// open, if either writes: production's does not either.

type simVolume struct {
	uid, name string
	mib       uint64
	format    blixardv1.VolumeFormat
	made      int64

	copy          uint64 // the migration by which it came
	arriving      bool   // its mark
	data, durable uint64
}

// settle has what was written to a volume be on the disk.
func (v *simVolume) settle() { v.durable = v.data }

// arrived takes the mark from what has come.
func (m *Machine) arrived(v *simVolume) {
	if v != nil && v.arriving {
		v.arriving = false
		m.w.say(m, fmt.Sprintf("volume %s (%s) has come by migration %d", v.name, v.uid, v.copy))
		m.w.judges.volumes.arrived(v)
	}
}

// expect makes what a volume is written into that comes with its VM.
func (m *Machine) expect(o *blixardv1.VolumeOrder) string {
	if d := m.daemon; d != nil && d.keeping.Revision >= o.Copy && !slices.ContainsFunc(d.keeping.Volumes, func(now *blixardv1.VolumeOrder) bool {
		return now.Uid == o.Uid && now.Copy == o.Copy && now.Arriving && !now.Remove
	}) {
		return "it is not expected here any more"
	}
	if v := m.volumes[o.Uid]; v != nil && !v.arriving {
		return "this host has one of that uid already"
	}
	if _, full := m.w.mishap("VolumeFull", m.place(), m.w.mix.VolumeFull, 0, 0); full {
		return "no space for a disk of the VM"
	}
	m.volumes[o.Uid] = &simVolume{uid: o.Uid, name: o.Name, mib: o.SizeMib, format: o.Format, made: m.w.now, copy: o.Copy, arriving: !mutant.On("CopyUnmarked")}
	m.w.say(m, fmt.Sprintf("volume %s (%s) comes by migration %d", o.Name, o.Uid, o.Copy))
	return ""
}

// written are the volumes that a guest writes.
func (g *guest) written() (list []*simVolume) {
	for _, c := range g.mounts {
		if v := g.m.volumes[c.Volume.Uid]; v != nil && !c.ReadOnly {
			list = append(list, v)
		}
	}
	return list
}

// theVolumes are those that people make in worlds with files.
var theVolumes = []string{"vol0", "vol1", "vol2"}

// sized is a volume's name with a size, as a client's wish has it: vol1:2048.
func sized(text string) (name string, mib uint64) {
	name, size, _ := strings.Cut(text, ":")
	mib, _ = strconv.ParseUint(size, 10, 64)
	return name, mib
}

// drawVolumes has some of the images use a volume, or most of them write one, as told by
// what marks their spec.
func drawVolumes(s *blixardv1.VMSpec, mark uint64, most bool) {
	if s.GetImage() == nil || mark%2 != 0 && !most {
		return
	}
	s.Volumes = []*blixardv1.VolumeMount{{Volume: theVolumes[mark>>8%uint64(len(theVolumes))], ReadOnly: mark>>16%3 == 0 && !most}}
	s.OnHostLoss = blixardv1.OnHostLoss_ON_HOST_LOSS_WAIT
}

// nextVolume is the next wish of a client who looks after volumes.
func (c *client) nextVolume() {
	name := pick(c.choice, theVolumes...)
	op := &Operation{Verb: AddVolume, Name: name}
	kind := c.choice.IntN(5)
	if c.w.mix.Volumes && c.choice.IntN(4) > 0 {
		kind = 4 // one that is just made larger goes nowhere
	}
	switch size := 1024 << c.choice.IntN(6); kind {
	case 0:
		op.Verb = DropVolume
	case 1, 2:
		op.Verb, op.Name = GrowVolume, fmt.Sprintf("%s:%d", name, size)
	default:
		op.Name = fmt.Sprintf("%s:%d", name, size)
	}
	c.w.decided(Ask{c.index, op.Verb, op.Name, nil})
	c.begin(op, nil)
}

// keep takes orders, and carries them out after a while.
func (d *Daemon) keep(a vmm.Action) {
	if a.Revision >= d.keeping.Revision {
		d.keeping = a
		d.keepIn(between(d.m.rand, time.Millisecond, 2*time.Second))
	}
}

func (d *Daemon) keepIn(after int64) {
	if d.keeping.ID != 0 {
		d.m.w.push(event{at: d.m.w.now + after, kind: evKeep, m: d.m, life: d.life, n: d.keeping.ID})
	}
}

func (d *Daemon) kept(order uint64) {
	if order != d.keeping.ID {
		return
	}
	failed, again := map[string]string{}, false
	for _, o := range d.keeping.Volumes {
		if d.m.crashes(pointKeep.before) {
			return
		}
		if err := d.m.keepVolume(o); err != "" {
			failed[o.Uid] = err
		}
		v := d.m.volumes[o.Uid]
		again = again || v != nil && v.mib < o.SizeMib // somebody has it open
		if d.m.crashes(pointKeep.after) {
			return
		}
	}
	d.observe(core.Observed{Volumes: d.m.shelf(d.keeping, failed)})
	if len(failed) > 0 || again {
		d.keepIn(int64(30 * time.Second))
	}
}

// shelf is the inventory of a machine's volumes.
func (m *Machine) shelf(a vmm.Action, failed map[string]string) *blixardv1.VolumeInventory {
	inv := &blixardv1.VolumeInventory{Revision: a.Revision}
	for _, v := range sorted(m.volumes) {
		inv.Volumes = append(inv.Volumes, &blixardv1.VolumeReport{Uid: v.uid, Name: v.name, Format: v.format, SizeMib: v.mib, Error: failed[v.uid], Copy: v.copy, Arriving: v.arriving})
	}
	for _, o := range a.Volumes {
		if m.volumes[o.Uid] == nil && failed[o.Uid] != "" {
			inv.Volumes = append(inv.Volumes, &blixardv1.VolumeReport{Uid: o.Uid, Name: o.Name, Format: o.Format, Absent: true, Error: failed[o.Uid]})
		}
	}
	return inv
}

// keepVolume makes a volume what an order says, and says what keeps it from that.
func (m *Machine) keepVolume(o *blixardv1.VolumeOrder) string {
	v := m.volumes[o.Uid]
	if v != nil && !o.Remove && !o.Arriving && v.arriving {
		if v.copy != o.Copy {
			return "what is here never came to its end"
		}
		m.arrived(v)
	}
	switch {
	case v == nil && o.Remove:
	case o.Remove && (v.copy != o.Copy || o.Arriving && !v.arriving): // it is about another
	case o.Arriving && !o.Remove: // it comes with its VM
	case o.Remove:
		if by := m.opens(o.Uid, "", false); by != "" {
			return "VM " + by + " has it open"
		}
		m.w.say(m, "volume "+v.name+" ("+v.uid+") is removed")
		delete(m.volumes, o.Uid)
		m.w.judges.volumes.removed(m.w, m, v)
	case v == nil && o.Made:
		return "this host had it, and it is gone"
	case v == nil:
		if _, full := m.w.mishap("VolumeFull", m.place(), m.w.mix.VolumeFull, 0, 0); full {
			return "no space for a disk of the VM"
		}
		m.volumes[o.Uid] = &simVolume{uid: o.Uid, name: o.Name, mib: o.SizeMib, format: o.Format, made: m.w.now}
		m.w.say(m, "volume "+o.Name+" ("+o.Uid+") is made")
	case v.mib < o.SizeMib && m.opens(o.Uid, "", false) == "":
		v.mib = o.SizeMib
	}
	return ""
}

// opens is another VM of this machine that has a volume open: any, or one that
// writes.
func (m *Machine) opens(uid, but string, onlyWriters bool) (by string) {
	m.dirs.Scan(func(vm string, d *vmDir) bool {
		for _, c := range d.mounts {
			if vm != but && d.alive() && c.Volume.Uid == uid && !(onlyWriters && c.ReadOnly) {
				by = vm
			}
		}
		return by == ""
	})
	return by
}

// mount opens the volumes of a VM that is to start, or says why it cannot.
func (m *Machine) mount(a *blixardv1.Assignment) string {
	for _, c := range a.GetVolumes() {
		if by := m.opens(c.Volume.Uid, a.Uid, c.ReadOnly); by != "" {
			return "volume " + c.Volume.Name + " is open: VM " + by + " has it"
		}
		keep := m.keepVolume
		if c.Volume.Arriving {
			keep = m.expect
		}
		if err := keep(c.Volume); err != "" {
			return err
		}
	}
	return ""
}
