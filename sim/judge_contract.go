package sim

import (
	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/vmm"
)

// A simulated host keeps the contract that the real runner is held to in its tests
// (package core/hosttest): what it says fits its orders and what it said before.
type judgeContract struct{}

// begins hears that a machine's daemon does.
func (judgeContract) begins(m *Machine) { m.contract.Begins() }

// ordered hears of an order before the host does.
func (judgeContract) ordered(m *Machine, a vmm.Action) { m.contract.Ordered(a) }

// observed hears what the host says before its node does.
func (judgeContract) observed(w *World, m *Machine, o core.Observed) {
	w.judges.judged["contract"]++
	for _, why := range m.contract.Observed(o) {
		w.fail("a host keeps its contract", "%s: %s", m.Name, why)
	}
}
