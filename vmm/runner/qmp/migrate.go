package qmp

import (
	"cmp"
	"context"
	"fmt"
)

// # How a guest moves
//
// The source is told where to send the guest, and goes on running it meanwhile.
// When little is left it stops the guest and stands at the door:
//
//	source   setup ► active ► pre-switchover ──continue──► device ► completed
//	                    └────────────┴──────cancel, or a failure──► the guest runs again, by itself
//	target   (inmigrate) ──────────────────────────────────────────► loaded, and paused
//
// Up to "completed" QEMU lets the guest run again at the source by itself, whatever
// goes wrong, and also when it has been told to continue. From "completed" on it
// never does, unless somebody says cont: it must not be said. The source says
// "completed" only when the target has acknowledged that all of it is loaded
// (the return path).
//
// A target that is told to cont before it has all of the guest remembers that, and
// lets the guest run as soon as it has: that must not be said either.

// Migration is how far a move is.
type Migration struct {
	// Status is QEMU's word; "" when there was none.
	Status string `json:"status"`
	// Desc is why it failed.
	Desc string `json:"error-desc"`
	// Downtime in milliseconds: from when the guest was stopped until all was sent.
	Downtime int64 `json:"downtime"`
	// ExpectedDowntime is what it would be now.
	ExpectedDowntime int64 `json:"expected-downtime"`
	RAM              struct {
		Transferred uint64 `json:"transferred"`
		Remaining   uint64 `json:"remaining"`
		Total       uint64 `json:"total"`
		Rounds      uint64 `json:"dirty-sync-count"`
	} `json:"ram"`
}

// What Status says.
const (
	MigrationCompleted = "completed"
	MigrationFailed    = "failed"
	MigrationCancelled = "cancelled"
	PreSwitchover      = "pre-switchover"
)

// Over says that nothing more comes of it by itself.
func (m Migration) Over() bool {
	return m.Status == "" || m.Status == "none" || m.Status == MigrationCompleted || m.Status == MigrationFailed || m.Status == MigrationCancelled
}

// Limits are what a move may take.
type Limits struct {
	// Bandwidth in bytes a second, and Downtime in milliseconds that is aimed at.
	// 0: QEMU's own.
	Bandwidth, Downtime uint64
}

type capability struct {
	Name string `json:"capability"`
	On   bool   `json:"state"`
}

// SendTo begins to send the guest to a unix socket. The guest runs on; when little
// is left, it is stopped, and the source waits at PreSwitchover. A guest that
// writes faster than it can be sent is slowed down.
func (c *Client) SendTo(ctx context.Context, socket string, l Limits) error {
	caps := []capability{{"pause-before-switchover", true}, {"return-path", true}, {"auto-converge", true}, {"events", true}}
	if err := c.Execute(ctx, "migrate-set-capabilities", map[string]any{"capabilities": caps}, nil); err != nil {
		return err
	}
	limits := map[string]any{"max-bandwidth": cmp.Or(l.Bandwidth, defaultBandwidth)} // SaveTo has left another

	if l.Downtime > 0 {
		limits["downtime-limit"] = l.Downtime
	}
	if err := c.Execute(ctx, "migrate-set-parameters", limits, nil); err != nil {
		return err
	}
	return c.Execute(ctx, "migrate", map[string]any{"uri": "unix:" + socket}, nil)
}

// defaultBandwidth is QEMU's own, bytes a second.
const defaultBandwidth = 128 << 20

// SaveTo sends a guest that stands still to a unix socket, as fast as that takes it:
// nobody runs meanwhile whom that could disturb. What a move has set of this process
// is undone.
func (c *Client) SaveTo(ctx context.Context, socket string) error {
	caps := []capability{{"pause-before-switchover", false}, {"return-path", false}, {"auto-converge", false}}
	if err := c.Execute(ctx, "migrate-set-capabilities", map[string]any{"capabilities": caps}, nil); err != nil {
		return err
	}
	if err := c.Execute(ctx, "migrate-set-parameters", map[string]any{"max-bandwidth": int64(1) << 40}, nil); err != nil {
		return err
	}
	return c.Execute(ctx, "migrate", map[string]any{"uri": "unix:" + socket}, nil)
}

// ReceiveAt has a target, started with -S -incoming defer, wait for a guest on a
// unix socket. It takes one connection; when that ends early, QEMU exits.
func (c *Client) ReceiveAt(ctx context.Context, socket string) error {
	caps := []capability{{"events", true}}
	if err := c.Execute(ctx, "migrate-set-capabilities", map[string]any{"capabilities": caps}, nil); err != nil {
		return err
	}
	return c.Execute(ctx, "migrate-incoming", map[string]any{"uri": "unix:" + socket}, nil)
}

// Migration asks how far it is.
func (c *Client) Migration(ctx context.Context) (Migration, error) {
	var m Migration
	err := c.Execute(ctx, "query-migrate", nil, &m)
	return m, err
}

// HandOver has a source that stands at PreSwitchover send the rest.
func (c *Client) HandOver(ctx context.Context) error {
	return c.Execute(ctx, "migrate-continue", map[string]any{"state": PreSwitchover}, nil)
}

// CancelMigration ends a move, if it is still to be ended: what became of it, see
// Migration.
func (c *Client) CancelMigration(ctx context.Context) error {
	return c.Execute(ctx, "migrate_cancel", nil, nil)
}

// Announce has the guest's interfaces tell the switches where they are now.
func (c *Client) Announce(ctx context.Context) error {
	return c.Execute(ctx, "announce-self", map[string]any{"initial": 50, "max": 550, "rounds": 5, "step": 100}, nil)
}

// Version is QEMU's own, with its packager's: equal ones are the same machine.
func (c *Client) Version(ctx context.Context) (string, error) {
	var v struct {
		Package string `json:"package"`
		QEMU    struct {
			Major int `json:"major"`
			Minor int `json:"minor"`
			Micro int `json:"micro"`
		} `json:"qemu"`
	}
	if err := c.Execute(ctx, "query-version", nil, &v); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d.%d.%d %s", v.QEMU.Major, v.QEMU.Minor, v.QEMU.Micro, v.Package), nil
}
