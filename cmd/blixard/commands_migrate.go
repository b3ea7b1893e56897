package main

import (
	"fmt"
	"strings"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func (c *VMMigrateCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	if c.Cancel {
		if c.To != "" || c.Offline || c.Within != 0 {
			return usagef("--cancel goes with none of --to, --offline and --within")
		}
		return power(g, t, ctx, c.Names, "call its move off", func(s *session, id, name string) (*blixardv1.VM, error) {
			r, err := s.VM.CancelMigration(s.ctx, connect.NewRequest(&blixardv1.CancelMigrationRequest{RequestId: id, Name: name}))
			if err != nil {
				return nil, err
			}
			return r.Msg.GetVm(), nil
		}, stayed)
	}
	return power(g, t, ctx, c.Names, "move", func(s *session, id, name string) (*blixardv1.VM, error) {
		r, err := s.VM.Migrate(s.ctx, connect.NewRequest(&blixardv1.MigrateRequest{
			RequestId: id, Name: name, To: c.To, Offline: c.Offline, TimeoutMs: uint32(c.Within.Milliseconds()),
		}))
		if err != nil {
			return nil, err
		}
		return r.Msg.GetVm(), nil
	}, moved)
}

// moved is done once the move that from has is, and the VM runs.
func moved(from *blixardv1.VM) func(*blixardv1.VM) (bool, error) {
	return func(v *blixardv1.VM) (bool, error) {
		m := v.GetMigration()
		switch {
		case v == nil || v.GetDeleting():
			return false, &failure{code: exitConflict, what: "the VM is gone", why: errGone.Error()}
		case m.GetId() != from.GetMigration().GetId():
			return false, &failure{code: exitConflict, what: fmt.Sprintf("VM %s was moved again meanwhile", v.GetName())}
		case m.GetState() == blixardv1.MigrationState_MIGRATION_STATE_FAILED:
			return false, &failure{code: exitError, what: fmt.Sprintf("VM %s was not moved", v.GetName()), why: m.GetMessage(), next: "blixard vm get " + v.GetName()}
		}
		return m.GetState() == blixardv1.MigrationState_MIGRATION_STATE_DONE && v.GetStatus().GetPhase() == blixardv1.Phase_PHASE_RUNNING, nil
	}
}

// stayed is done once nothing is left of the move that from has.
func stayed(from *blixardv1.VM) func(*blixardv1.VM) (bool, error) {
	return func(v *blixardv1.VM) (bool, error) {
		if v == nil || v.GetDeleting() {
			return false, &failure{code: exitConflict, what: "the VM is gone", why: errGone.Error()}
		}
		m := v.GetMigration()
		return m.GetId() != from.GetMigration().GetId() || m.GetState() == blixardv1.MigrationState_MIGRATION_STATE_FAILED, nil
	}
}

// migrationText is how far a move is, or why the last one failed, in a line.
func migrationText(m *blixardv1.Migration) string {
	s := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(m.GetState().String(), "MIGRATION_STATE_"), "_", " "))
	text := "Move from " + m.GetFrom()
	if m.GetTo() != "" {
		text += " to " + m.GetTo()
	}
	text += ": " + s
	if m.GetMessage() != "" {
		text += ": " + m.GetMessage()
	}
	if p := m.GetProgress(); p != nil && m.GetState() == blixardv1.MigrationState_MIGRATION_STATE_SENDING {
		text += fmt.Sprintf(" (%d MiB sent, %d left)", p.GetSentBytes()>>20, p.GetLeftBytes()>>20)
	}
	return text
}
