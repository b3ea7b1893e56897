package schedule

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/blixard/blixard/core/mutant"
)

// Kind is what sort of thing keeps a VM off a host.
type Kind uint8

const (
	Cordoned Kind = iota + 1
	Suspect
	Away
	Hypervisors
	KVM
	Lacks
	Nix
	Label
	Bridges
	Elsewhere
	Ports
	Device
	CPU
	Memory
	Disk
	Snapshot
	Shares
	Folder
)

// Obstacle is one reason why a VM cannot go to a host.
type Obstacle struct {
	Kind Kind
	// Of CPU (thousandths), Memory, Disk (MiB) and Device: what is needed and what is
	// free. Of Device: Want is its kind.
	Need, Free uint64
	// Of Ports: Want is the port, Have the VM that has it, and Where the host of that,
	// when it is another one.
	// Of Elsewhere: Want is what the VM needs, and Have the host that has it.
	// Of Shares: Have is why. Of Folder: Want is the folder, and Have those that may be
	// had.
	// Of Label: the label, what it must be and what it is. Of Hypervisors, KVM and
	// Lacks: Have is the kind of hypervisor, or the kinds, and Want what that does
	// not do there.
	Label, Want, Have, Where string
}

// String says it in one clause.
func (o Obstacle) String() string {
	switch o.Kind {
	case Cordoned:
		return "is cordoned"
	case Suspect:
		return "has not been heard of lately"
	case Away:
		return "holds no lease (joining, fenced or gone)"
	case Hypervisors:
		return "has no " + o.Have
	case KVM:
		return "has no usable KVM, which " + o.Have + " needs"
	case Lacks:
		return "has no " + o.Want + " in its " + o.Have
	case Nix:
		return "cannot build NixOS systems"
	case Label:
		if o.Have == "" {
			return fmt.Sprintf("lacks the label %s=%s", o.Label, o.Want)
		}
		return fmt.Sprintf("has the label %s=%s, not %s", o.Label, o.Have, o.Want)
	case Bridges:
		return "cannot plug VMs into networks (it may not make bridges and taps)"
	case Shares:
		if o.Have == "" {
			return "cannot share its folders with VMs ('blixard node get' says why)"
		}
		return "cannot share its folders with VMs: " + o.Have
	case Folder:
		have := "none"
		if o.Have != "" {
			have = "only " + o.Have
		}
		return fmt.Sprintf("lets VMs have %s of its folders, and not %s ('--allow-path %s' of its 'blixard serve', or of 'blixard up', allows that)", have, o.Want, o.Want)
	case Elsewhere:
		return fmt.Sprintf("the VM's %s is on %s", o.Want, o.Have)
	case Ports:
		if o.Where != "" {
			return fmt.Sprintf("has its ports in common with %s, which leads port %s to the VM %s", o.Where, o.Want, o.Have)
		}
		return fmt.Sprintf("leads its port %s to the VM %s", o.Want, o.Have)
	case Device:
		return fmt.Sprintf("has %d devices %s free of the %d needed", o.Free, o.Want, o.Need)
	case CPU:
		return fmt.Sprintf("has %s vcpus free of the %s needed", milli(o.Free), milli(o.Need))
	case Memory:
		return fmt.Sprintf("has %d MiB of memory free of the %d needed", o.Free, o.Need)
	case Snapshot:
		return "does not have the snapshot that it starts from"
	case Disk:
		return fmt.Sprintf("has %d MiB of disk free of the %d needed", o.Free, o.Need)
	}
	return fmt.Sprintf("obstacle %d", o.Kind)
}

func milli(n uint64) string {
	if n%1000 == 0 {
		return fmt.Sprint(n / 1000)
	}
	return fmt.Sprintf("%.1f", float64(n)/1000)
}

// Obstacles appends every reason why the host cannot take the VM. The host fits
// exactly when there is none.
func Obstacles(to []Obstacle, h *Host, need Need) []Obstacle {
	if h.Away {
		to = append(to, Obstacle{Kind: Away})
	}
	if need.Only != 0 && need.Only != h.ID {
		to = append(to, Obstacle{Kind: Snapshot})
	}
	if h.Cordoned && !mutant.On("CordonIgnored") {
		to = append(to, Obstacle{Kind: Cordoned})
	}
	if h.Suspect {
		to = append(to, Obstacle{Kind: Suspect})
	}
	if _, ok := choose(h, need); !ok {
		to = unable(to, h, need)
	}
	if need.Nix && !h.Nix {
		to = append(to, Obstacle{Kind: Nix})
	}
	if len(need.Require) > 0 && !mutant.On("LabelsIgnored") {
		to = labels(to, h, need)
	}
	if need.Bridges && !h.Bridges {
		to = append(to, Obstacle{Kind: Bridges})
	}
	if need.Shares && !h.Shares && !mutant.On("SharesIgnored") {
		to = append(to, Obstacle{Kind: Shares, Have: h.SharesWhy})
	}
	for _, f := range need.Folders {
		if !Within(f, h.Folders) && !mutant.On("FolderIgnored") {
			to = append(to, Obstacle{Kind: Folder, Want: f, Have: strings.Join(h.Folders, ", ")})
		}
	}
	for _, l := range need.Local {
		if l.Host != h.ID {
			to = append(to, Obstacle{Kind: Elsewhere, Want: l.What, Have: l.Where})
		}
	}
	for _, t := range h.Taken {
		to = append(to, Obstacle{Kind: Ports, Want: t.Port.String(), Have: t.By, Where: t.Where})
	}
	for _, d := range need.Devices {
		if free := h.Devices[d.Kind]; free < d.Count {
			to = append(to, Obstacle{Kind: Device, Want: d.Kind, Need: uint64(d.Count), Free: uint64(free)})
		}
	}
	to = short(to, CPU, need.MilliCPU, h.Capacity.MilliCPU, h.Used.MilliCPU)
	if !mutant.On("MemoryIgnored") {
		to = short(to, Memory, need.MemoryMiB, h.Capacity.MemoryMiB, h.Used.MemoryMiB)
	}
	return short(to, Disk, need.DiskMiB, h.Capacity.DiskMiB, h.Used.DiskMiB)
}

// Forever says that no waiting takes the obstacle away: the host must become another,
// or somebody must give a port up.
func (o Obstacle) Forever() bool {
	switch o.Kind {
	case Hypervisors, KVM, Lacks, Nix, Bridges, Shares, Folder, Ports:
		return true
	}
	return false
}

// Within says whether a path is one of those folders, or in one.
func Within(name string, folders []string) bool {
	name = path.Clean(name)
	return slices.ContainsFunc(folders, func(f string) bool {
		f = path.Clean(f)
		return name == f || strings.HasPrefix(name, strings.TrimSuffix(f, "/")+"/")
	})
}

// unable says, of a host on which no kind that is accepted can run the VM, why
// each of those that are there cannot, or that none is.
func unable(to []Obstacle, h *Host, need Need) []Obstacle {
	n := len(to)
	var names []string
	for _, k := range need.Accept {
		names = append(names, k.Name)
		i := slices.IndexFunc(h.Hypervisors, func(has Hypervisor) bool { return has.ID == k.ID })
		switch {
		case i < 0 && !need.Nix:
		case k.KVM && h.NoKVM:
			to = append(to, Obstacle{Kind: KVM, Have: k.Name})
		default:
			has := h.Hypervisors[i]
			to = append(to, Obstacle{Kind: Lacks, Have: k.Name, Want: need.Wants[lacks(has, need.Wants)].Name})
		}
	}
	if len(to) == n {
		to = append(to, Obstacle{Kind: Hypervisors, Have: either(names)})
	}
	return to
}

// either joins names: a, b or c.
func either(names []string) string {
	n := len(names)
	if n < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:n-1], ", ") + " or " + names[n-1]
}

func labels(to []Obstacle, h *Host, need Need) []Obstacle {
	for _, k := range slices.Sorted(maps.Keys(need.Require)) {
		if want, have := need.Require[k], h.Labels[k]; have != want {
			to = append(to, Obstacle{Kind: Label, Label: k, Want: want, Have: have})
		}
	}
	return to
}

func short(to []Obstacle, kind Kind, need, capacity, used uint64) []Obstacle {
	free := capacity - min(used, capacity)
	if need > free {
		to = append(to, Obstacle{Kind: kind, Need: need, Free: free})
	}
	return to
}

func (p Port) String() string {
	if p.UDP {
		return fmt.Sprintf("%d/udp", p.Number)
	}
	return fmt.Sprintf("%d/tcp", p.Number)
}
