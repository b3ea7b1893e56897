package runner

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/blixard/blixard/vmm/runner/qmp"
)

// QEMU's side of a move. There are three moments in which a cont would be a
// second copy, or would become one: while the guest stands at the door, when it was
// handed over, and at the target before it may run. In the first two, release
// refuses; the last is the VM's to refuse, which knows of it.

var errAway = errors.New("it was offered to another host, and must not run here")

// release lets a stopped guest go on, unless it may have left.
func (s *qemuSession) release(ctx context.Context, c *qmp.Client) error {
	s.door.Lock()
	defer s.door.Unlock()
	if s.offered {
		return errAway
	}
	switch status, err := c.Status(ctx); {
	case err != nil:
		return err
	case status == "running":
		return nil
	case status == "finish-migrate", status == "inmigrate":
		return fmt.Errorf("its guest is being moved (%s)", status)
	}
	return qemuControl{c}.resume(ctx)
}

// leftover ends a move that a daemon before this one, or before the connection was
// lost, has begun: nobody carries its bytes any more, and the guest may be standing
// at the door.
func (s *qemuSession) leftover(ctx context.Context, c *qmp.Client) error {
	s.mu.Lock()
	ours := s.sending
	s.mu.Unlock()
	if ours {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, qmpPatience)
	defer cancel()
	status, err := c.Status(ctx)
	if err != nil || status == "inmigrate" || status == "postmigrate" {
		return err
	}
	m, err := c.Migration(ctx)
	if err != nil {
		return err
	}
	if m.Over() {
		return c.Unmirror(ctx)
	}
	s.q.warn("a move that nobody goes on with is ended; the guest runs on here", "dir", s.place.run, "status", m.Status)
	return errors.Join(c.CancelMigration(ctx), c.Unmirror(ctx))
}

// state is what QEMU says of its guest.
func (s *qemuSession) state(ctx context.Context, c *qmp.Client) (guestState, error) {
	status, err := c.Status(ctx)
	switch {
	case err != nil:
		return notYet, err
	case status == "inmigrate":
		return waiting, nil
	case status != "postmigrate":
		return guestStates[status], nil
	}
	// A guest that was paused stands so after a move that has failed, too.
	m, err := c.Migration(ctx)
	if err != nil {
		return notYet, err
	}
	if m.Status == qmp.MigrationCompleted {
		return left, nil
	}
	return paused, nil
}

// path is how QEMU comes to a socket.
func (s *qemuSession) path(socket string) string {
	if s.inside {
		return filepath.Base(socket)
	}
	return socket
}

func (s *qemuSession) begins() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sending = true
}

func (s *qemuSession) sendTo(ctx context.Context, socket string) error {
	if err := s.place.lend(socket); err != nil {
		return err
	}
	return s.with(ctx, func(ctx context.Context, c *qmp.Client) error { return c.SendTo(ctx, s.path(socket), qmp.Limits{}) })
}

func (s *qemuSession) moving(ctx context.Context) (m qmp.Migration, err error) {
	err = s.with(ctx, func(ctx context.Context, c *qmp.Client) error {
		m, err = c.Migration(ctx)
		return err
	})
	return m, err
}

func (s *qemuSession) offer() { s.offering(true) }

func (s *qemuSession) offering(now bool) {
	s.door.Lock()
	defer s.door.Unlock()
	s.offered = now
}

func (s *qemuSession) handOver(ctx context.Context) error {
	return s.with(ctx, func(ctx context.Context, c *qmp.Client) error { return c.HandOver(ctx) })
}

func (s *qemuSession) cancelMove(ctx context.Context) error {
	return s.with(ctx, func(ctx context.Context, c *qmp.Client) error { return c.CancelMigration(ctx) })
}

func (s *qemuSession) sent(stays bool) {
	s.mu.Lock()
	s.sending = false
	s.mu.Unlock()
	if stays {
		s.offering(false)
	}
}

func (s *qemuSession) version(ctx context.Context) (text string, err error) {
	err = s.with(ctx, func(ctx context.Context, c *qmp.Client) error {
		text, err = c.Version(ctx)
		return err
	})
	return text, err
}

func (s *qemuSession) look() { leaveWord(s.moved) }

func (s *qemuSession) turned() <-chan struct{} { return s.turn }

func (s *qemuSession) export(ctx context.Context, drive string) error {
	return s.with(ctx, func(ctx context.Context, c *qmp.Client) error {
		return c.Export(ctx, s.path(s.place.listens(diskSocket)), drive)
	})
}

func (s *qemuSession) mirror(ctx context.Context, socket, drive string) error {
	if err := s.place.lend(socket); err != nil {
		return err
	}
	return s.with(ctx, func(ctx context.Context, c *qmp.Client) error { return c.Mirror(ctx, s.path(socket), drive) })
}

func (s *qemuSession) mirrors(ctx context.Context) (list []qmp.MirrorState, err error) {
	err = s.with(ctx, func(ctx context.Context, c *qmp.Client) error {
		list, err = c.Mirrors(ctx)
		return err
	})
	return list, err
}

func (s *qemuSession) settle(ctx context.Context, drives []string) error {
	c, err := s.connected(ctx)
	if err != nil {
		return err
	}
	return c.Settle(ctx, drives)
}

func (s *qemuSession) unmirror(ctx context.Context) error {
	return s.with(ctx, func(ctx context.Context, c *qmp.Client) error { return c.Unmirror(ctx) })
}

// land lets a guest run that is all here, and tells the networks where it is now.
// Nobody else can write its disks by then.
func (s *qemuSession) land(ctx context.Context) error {
	return s.with(ctx, func(ctx context.Context, c *qmp.Client) error {
		if err := c.Unexport(ctx); err != nil {
			return err
		}
		if err := s.release(ctx, c); err != nil {
			return err
		}
		return c.Announce(ctx)
	})
}
