package core

import (
	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// migrations proposes what live migrations need next of a leader: the switch of one
// that was handed over and is loaded, at once, for no guest runs meanwhile; and the
// end of one whose time is over. It says whether it has proposed anything.
func (l *leader) migrations() (proposed bool) {
	under := 0
	l.state.Migrating(func(vm *blixardv1.VM) bool {
		under++
		m := vm.Migration
		if last, asked := l.moves[m.Id]; asked && l.now.Boot-last < proposeHostAgain {
			return true
		}
		if cmd := l.nextOf(vm); cmd != nil {
			l.moves[m.Id] = l.now.Boot
			l.propose(cmd)
			proposed = true
		}
		return true
	})
	if under == 0 && len(l.moves) > 0 {
		clear(l.moves)
	}
	return proposed
}

// nextOf is what a VM's migration needs, nil for nothing.
func (l *leader) nextOf(vm *blixardv1.VM) *blixardv1.Command {
	m := vm.Migration
	switch m.State {
	case blixardv1.MigrationState_MIGRATION_STATE_PREPARING, blixardv1.MigrationState_MIGRATION_STATE_SENDING:
		if mutant.On("SwitchUnchecked") && m.Loaded {
			return l.switchOf(vm)
		}
	case blixardv1.MigrationState_MIGRATION_STATE_HANDED_OVER:
		// A target that is not heard of would not hear of it.
		if m.Loaded && !l.state.Node(m.Other.NodeId).GetHost().GetSuspect() {
			return l.switchOf(vm)
		}
	default:
		return nil
	}
	if l.loggedTime() < m.Deadline {
		return nil
	}
	return &blixardv1.Command{Op: &blixardv1.Command_CancelMigration{CancelMigration: &blixardv1.CancelMigrationOp{
		Name: vm.Name, Id: m.Id, Expired: true,
	}}}
}

func (l *leader) switchOf(vm *blixardv1.VM) *blixardv1.Command {
	return &blixardv1.Command{Op: &blixardv1.Command_Switch{Switch: &blixardv1.SwitchOp{
		Name: vm.Name, Id: vm.Migration.Id, Term: l.term,
		SourceEpoch: vm.Placement.GetEpoch(), TargetEpoch: vm.Migration.Other.GetEpoch(),
	}}}
}
