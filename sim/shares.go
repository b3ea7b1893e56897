package sim

import (
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/blixard/blixard/core/hypervisor"
	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/shim"
)

// Shares are folders of a machine that a guest sees live. Beside such a guest lives what
// serves them (virtiofsd), in the same process group and under the same shim: it begins
// before the guest, and goes with it.
//
// It may not come up (ShareFails: then the guest never runs), or die alone, also while
// its guest is paused (ShareLost): then whoever holds the guest ends it, for it would
// wait for its folders for ever. It may not outlive its guest, and a machine may not
// start a guest whose folders it cannot serve.
//
// In worlds with shares not every machine can: n2, n5, ... have no virtiofsd, and on n4,
// n8, ... the hypervisor cannot show a guest any folder; n3, n6, ... allow but two of them.

// serves says that a VM with those shares can be had here.
func (m *Machine) serves(shares []*blixardv1.Share) bool {
	return m != nil && m.hasVirtiofsd() && m.qemuShares() && !slices.ContainsFunc(shares, func(s *blixardv1.Share) bool {
		return !slices.Contains(m.allows(), path.Dir(s.Source)) && !slices.Contains(m.allows(), s.Source)
	})
}

// allows are the folders here that VMs may have, with all that is in them.
func (m *Machine) allows() []string {
	if m.w.mix.Shares > 0 && m.made()%3 == 0 {
		return []string{"/srv/0", "/srv/1"}
	}
	return []string{"/srv"}
}

func (m *Machine) hasVirtiofsd() bool { return m.w.mix.Shares == 0 || m.made()%3 != 2 }

func (m *Machine) qemuShares() bool { return m.w.mix.Shares == 0 || m.made()%4 != 0 }

// made is the number of the machine whose programs are here: those of a copy are its
// original's.
func (m *Machine) made() int {
	if m.programs != 0 {
		return m.programs
	}
	return m.Index
}

// qemu is what a host says of its QEMU: all that it does, where that is not what every
// QEMU does.
func (m *Machine) qemu() *blixardv1.HypervisorFact {
	f := &blixardv1.HypervisorFact{Hypervisor: blixardv1.Hypervisor_HYPERVISOR_QEMU, Version: "sim", Kvm: true}
	if !m.qemuShares() {
		f.Capabilities = (hypervisor.Get(f.Hypervisor).Can() &^ hypervisor.Of(blixardv1.Capability_CAPABILITY_SHARES)).List()
	}
	return f
}

// drawShares has some of the images see a folder of their host, as told by what marks
// their spec.
func drawShares(s *blixardv1.VMSpec, mark uint64, rate float64) {
	lot := mix(mark ^ 0x5a5a)
	if s.GetImage() == nil || float64(lot>>11)/(1<<53) >= rate {
		return
	}
	s.Shares = []*blixardv1.Share{{Tag: "data", Source: fmt.Sprintf("/srv/%d", lot%4), ReadOnly: lot>>2&1 == 0}}
}

// isServed begins what serves a guest's shares, and says whether the guest boots.
func (g *guest) isServed() bool {
	m, w := g.m, g.m.w
	fails := func(at int64) {
		w.push(event{at: w.now + at, kind: evExit, m: m, life: g.life, n: shim.StepFailed, ref: g})
	}
	if after, ok := w.mishap("ShareFails", m.place(), w.mix.ShareFails, 0, 2*time.Second); ok {
		fails(int64(after))
		return false
	}
	if after, ok := w.mishap("ShareLost", m.place(), w.mix.ShareFails, 0, 40*time.Second); ok {
		fails(int64(after))
	}
	return true
}

// unserved: what served the guest's shares has ended, or has never come up.
func (g *guest) unserved() {
	g.adrift = true
	g.m.w.say(g.m, fmt.Sprintf("nothing serves the shares of VM %s", g.instance))
	if mutant.On("ShareLossUnseen") && g.ready {
		return
	}
	g.dir.reason = "BootFailed"
	if g.ready {
		g.dir.reason = "ShareLost"
	}
	g.gone(exited(shim.StepFailed))
}
