package schedule

import (
	"encoding/binary"
	"iter"
	"maps"
	"slices"
)

// Resources are an amount of what a host has to give.
type Resources struct {
	// MilliCPU is thousandths of a vcpu, overcommit included.
	MilliCPU  uint64
	MemoryMiB uint64
	DiskMiB   uint64
}

// Add returns the sum of two amounts.
func (r Resources) Add(o Resources) Resources {
	return Resources{r.MilliCPU + o.MilliCPU, r.MemoryMiB + o.MemoryMiB, r.DiskMiB + o.DiskMiB}
}

// Host is what placement knows of one host.
type Host struct {
	ID        uint64
	Capacity  Resources
	Used      Resources
	Instances uint32
	Labels    map[string]string
	// Hypervisors that it has.
	Hypervisors []Hypervisor
	// NoKVM: hardware virtualisation is of no use there.
	NoKVM bool
	// Nix: it can build NixOS systems.
	Nix bool
	// Bridges: it can plug VMs into networks.
	Bridges bool
	// Shares: it can share its folders with VMs.
	Shares bool
	// SharesWhy: why not; empty: nobody has said.
	SharesWhy string
	// Folders of it that VMs may have.
	Folders []string
	// Taken are the ports that the VM needs and another VM has there.
	Taken []Taken
	// Devices: how many of each kind nobody has, of the kinds that the VM needs.
	Devices map[string]int
	// Cordoned hosts keep what they have and get nothing new.
	Cordoned bool
	// Suspect hosts have missed their Syncs.
	Suspect bool
	// Away hosts hold no lease: not joined yet, fenced, or gone.
	Away bool
}

// Port is one of a host's.
type Port struct {
	Number uint16
	UDP    bool // or TCP
}

// Taken is a port that a VM has.
type Taken struct {
	Port
	By string
	// Where: the host that it has it of, when the ports of that are this host's, too.
	Where string
}

// Devices are some of a kind.
type Devices struct {
	Kind  string
	Count int
}

// Choice is a kind of hypervisor that can run a VM.
type Choice struct {
	// ID is a number of the caller's; Name is for people.
	ID   int32
	Name string
	// KVM: it runs only where hardware virtualisation is of use.
	KVM bool
}

// Hypervisor is one that a host has.
type Hypervisor struct {
	ID int32 // of its kind
	// Can are bits of the caller's, one for each thing that it does.
	Can uint64
}

// Want is one thing that a hypervisor must do.
type Want struct {
	Bit  uint64
	Name string
}

// Need is what a VM asks of a host.
type Need struct {
	Resources
	// Accept lists the kinds of hypervisor that can run it, the preferred first.
	// At least one.
	Accept []Choice
	// Wants are what the hypervisor must do.
	Wants []Want
	// Nix: it must be built first. What is built brings its hypervisor with it,
	// so the host need not have the one that Accept says.
	Nix bool
	// Bridges: it is plugged into a network.
	Bridges bool
	// Shares: it has shares that its host must serve.
	Shares bool
	// Folders of its host that it sees.
	Folders []string
	// Ports of the host that lead to it.
	Ports []Port
	// Local are things of its own that some host has: it can go nowhere else.
	Local []Local
	// Devices of the host that it has to itself, each kind once.
	Devices []Devices
	// Only is the one host that has what it starts from; 0: any.
	Only uint64
	// Require are labels that the host must have with just these values.
	Require map[string]string
}

// Local is something that stays where it is.
type Local struct {
	Host        uint64
	What, Where string // for people
}

// AtLeast says that whatever host does not fit m does not fit n either: n is the
// same sort of VM, as large, and wants the same ports and maybe more. It may say no
// where that is so. Of ports it is true for two that hold none yet: a host's port
// that n itself has is in m's way alone.
func (n *Need) AtLeast(m *Need) bool {
	return n.MilliCPU >= m.MilliCPU && n.MemoryMiB >= m.MemoryMiB && n.DiskMiB >= m.DiskMiB &&
		n.Nix == m.Nix && n.Only == m.Only && (n.Bridges || !m.Bridges) && (n.Shares || !m.Shares) &&
		!slices.ContainsFunc(m.Ports, func(p Port) bool { return !slices.Contains(n.Ports, p) }) &&
		!slices.ContainsFunc(m.Devices, func(d Devices) bool { return n.devices(d.Kind) < d.Count }) &&
		!slices.ContainsFunc(m.Folders, func(f string) bool { return !slices.Contains(n.Folders, f) }) &&
		slices.Equal(n.Accept, m.Accept) && slices.Equal(n.Wants, m.Wants) && maps.Equal(n.Require, m.Require) &&
		(len(m.Local) == 0 || slices.Equal(n.Local, m.Local))
}

// devices is how many of a kind are needed.
func (n *Need) devices(kind string) int {
	for _, d := range n.Devices {
		if d.Kind == kind {
			return d.Count
		}
	}
	return 0
}

// Load is the dominant share of the host in use, per million; a host without
// capacity is full.
func (h *Host) Load() uint32 {
	return max(share(h.Used.MilliCPU, h.Capacity.MilliCPU),
		share(h.Used.MemoryMiB, h.Capacity.MemoryMiB),
		share(h.Used.DiskMiB, h.Capacity.DiskMiB))
}

func share(used, capacity uint64) uint32 {
	switch {
	case used == 0 && capacity > 0:
		return 0
	case used >= capacity:
		return 1e6
	}
	return uint32(float64(used) / float64(capacity) * 1e6)
}

// Key orders hosts as Choose wants them: by load, instances and id.
func (h *Host) Key() string {
	var b [16]byte
	binary.BigEndian.PutUint32(b[:], h.Load())
	binary.BigEndian.PutUint32(b[4:], h.Instances)
	binary.BigEndian.PutUint64(b[8:], h.ID)
	return string(b[:])
}

// Choose returns the first host that fits, and the hypervisor to use there.
// Hosts must come in the order of their keys.
func Choose(hosts iter.Seq[*Host], need Need) (id uint64, hypervisor int32, ok bool) {
	var buf [8]Obstacle
	for h := range hosts {
		if len(Obstacles(buf[:0], h, need)) == 0 {
			hypervisor, _ = choose(h, need)
			return h.ID, hypervisor, true
		}
	}
	return 0, 0, false
}

// choose is the first kind that the need accepts and the host can run.
func choose(h *Host, need Need) (kind int32, ok bool) {
	for _, k := range need.Accept {
		if k.KVM && h.NoKVM {
			continue
		}
		if need.Nix {
			return k.ID, true
		}
		for _, has := range h.Hypervisors {
			if has.ID == k.ID && lacks(has, need.Wants) < 0 {
				return k.ID, true
			}
		}
	}
	return 0, false
}

// lacks is the first want that a hypervisor does not do; -1 for none.
func lacks(h Hypervisor, wants []Want) int {
	return slices.IndexFunc(wants, func(w Want) bool { return h.Can&w.Bit == 0 })
}
