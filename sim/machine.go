package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tidwall/btree"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/core/cluster"
	"github.com/blixard/blixard/core/hosttest"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/shim"
)

// Machine is one computer: its power, its clocks, its disk, and what runs on it.
// Its disk and the directories of its VMs survive everything; processes, timers
// and lease pages live at most as long as the power is on.
type Machine struct {
	Index  int
	Name   string
	Server bool
	Host   bool
	at     string // where it listens
	spare  bool   // in no cluster at first

	w      *World
	on     bool
	boots  uint64
	asleep int64 // until then nothing of it runs
	bootID string
	// contract hears what is ordered of this host, and what it says.
	contract hosttest.Contract
	clock    clock
	disk     *Disk
	member   bool // its disk holds an identity
	id       uint64
	level    uint32 // that its binary can apply
	of       uint64 // the generation whose member it is
	called   string // its name in the cluster: a new one each time that it joins
	named    int    // how many it has used
	keeper   *keeper
	clones   *Machine // it is a copy of that one

	daemon *Daemon // nil: not running
	lives  uint64  // of daemons, shims and guests: none is used twice

	dirs   *btree.Map[string, *vmDir] // by uid
	guests []*guest                   // the process table, as far as judges look
	pages  map[string]*shim.Page      // by path; in memory
	nix    nixStore
	saved  map[string]*savedVM // snapshots, by uid

	volumes map[string]*simVolume // by uid

	booted map[string]*savedBoot // by uid; gone with the machine's boot

	programs int // the number of the machine that this is a copy of; 0: of none

	spared int64 // no crash at a point before this time

	rand    *rand.Rand // processes and their delays
	entropy *rand.Rand // what its daemon draws

	capacity *blixardv1.Resources
	labels   map[string]string
}

func (w *World) newMachine(index int, server, host bool) *Machine {
	m := &Machine{
		Index: index, Name: fmt.Sprintf("n%d", index), Server: server, Host: host, w: w,
		dirs: btree.NewMap[string, *vmDir](0), pages: map[string]*shim.Page{},
		nix: newNixStore(), saved: map[string]*savedVM{}, level: cluster.Level, volumes: map[string]*simVolume{},
		booted: map[string]*savedBoot{},
	}
	m.rand = w.chance.stream(m.Name + "/process")
	m.entropy = w.chance.stream(m.Name + "/entropy")
	m.at = m.Name + ":7000"
	m.setDisk(newDisk(w.chance.stream(m.Name + "/disk")))
	m.capacity = &blixardv1.Resources{Vcpus: 8, MemoryMib: 8192, DiskMib: 100 << 10}
	if w.mix.VMs > 0 { // a cluster that has many has large machines
		m.capacity.Vcpus, m.capacity.MemoryMib = 16, 16384
	}
	if w.mix.Small {
		m.capacity.Vcpus, m.capacity.MemoryMib = uint32(1+m.rand.IntN(4)), uint64(1024<<m.rand.IntN(3))
	}
	m.labels = map[string]string{"name": m.Name}
	return m
}

func (m *Machine) setDisk(d *Disk) {
	m.disk = d
	d.logged = func(key, value []byte) { m.w.judges.logs.written(m.w, m, d, key, value) }
}

func (m *Machine) address() string { return m.at }

// boot turns the power on: another boot id, and a BOOTTIME that starts again.
func (m *Machine) boot() {
	if m.on {
		return
	}
	m.on = true
	m.boots++
	m.bootID = fmt.Sprintf("%08x-0000-4000-8000-%012x", m.Index, m.boots)
	r := float64(m.w.settings.GetDriftPpm()) / 1e6
	m.clock = clock{
		booted: m.w.now, start: between(m.rand, time.Second, 30*time.Second),
		rate: pick(m.rand, 1-r, 1, 1+r, 1-r+2*r*m.rand.Float64()),
		wall: m.clock.wall,
	}
	m.w.say(m, fmt.Sprintf("power on, boot %d, BOOTTIME at %.3f", m.boots, m.clock.rate))
	if m.member {
		m.w.push(event{at: m.w.now + between(m.rand, time.Second, 3*time.Second), kind: evBoot, m: m, life: m.boots})
	}
}

// powerOff ends everything that runs, at once. Peers are not told.
func (m *Machine) powerOff() {
	if !m.on {
		return
	}
	m.w.say(m, "power lost")
	m.stopDaemon(false)
	m.dirs.Scan(func(_ string, d *vmDir) bool {
		if d.guest != nil {
			d.guest.leaves()
		}
		d.shim, d.guest, d.zombie = nil, nil, nil
		return true
	})
	for _, g := range m.guests {
		m.w.stops(g)
	}
	m.guests = nil
	// any order: each alike
	for _, v := range m.volumes {
		v.data = v.durable
	}
	clear(m.pages)
	clear(m.booted)
	m.on, m.asleep = false, 0
}

func (m *Machine) now() int64 { return m.clock.now(m.w.now) }

func (m *Machine) time() core.Time {
	return core.Time{Boot: m.now(), Wall: m.clock.unix(m.w.now)}
}

// facts is what a daemon finds on this machine when it starts.
func (m *Machine) facts() *blixardv1.HostFacts {
	var devices []*blixardv1.Device
	for i := range (m.Index + 1) % 3 {
		devices = append(devices, &blixardv1.Device{Kind: theDevice, Address: fmt.Sprintf("0000:%02x:00.0", i+1)})
	}
	return &blixardv1.HostFacts{
		Capacity: m.capacity, Devices: devices,
		Hypervisors: []*blixardv1.HypervisorFact{
			m.qemu(),
			{Hypervisor: blixardv1.Hypervisor_HYPERVISOR_PROCESS, Version: "sim"},
		},
		Labels: m.labels, Version: "sim", Machine: "machine-" + m.Name, HoldsForks: m.holdsForks(),
		Nix: true, Bridges: true, Shares: m.hasVirtiofsd(), AllowPaths: m.allows(), PortSpace: m.portSpace(), Kvm: &blixardv1.KVM{Usable: true, Why: "sim"},
	}
}

// portSpace is whose ports the guests here have.
func (m *Machine) portSpace() string {
	if !m.w.mix.OneMachine {
		return ""
	}
	return fmt.Sprintf("ports-%d", (m.made()+1)/2)
}

// holdsForks: a program that forks can be held by a namespace here.
func (m *Machine) holdsForks() bool { return !m.w.mix.Loose || m.Index%2 == 0 }

func (m *Machine) life() uint64 {
	m.lives++
	return m.lives
}
