package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/runner/qmp"
	"github.com/blixard/blixard/vmm/shim"
)

// QEMU writes a guest's memory and devices down as it would send them to another
// QEMU, and reads them so: through a socket, on whose other end are we.

const saveSocket = "save"

// machineName: microvm has no version of its own, so QEMU's must be the same; what
// runs under emulation has other devices' state than what runs under KVM. The number
// is ours: it is raised when all VMs get another device.
func (q *qemu) machineName(spec *blixardv1.VMSpec) string {
	name := "microvm 2"
	if onQ35(spec) {
		name = "q35"
	}
	if q.machine.kvm {
		return underKVM(name)
	}
	return name + ", tcg"
}

// counter: without KVM a guest reads the host's.
func (q *qemu) counter() string {
	if q.machine.kvm {
		return ""
	}
	return "tsc=" + fmt.Sprint(q.machine.tscKHz)
}

func (q *qemu) revive(ctx context.Context, p place, a *blixardv1.Assignment, i shim.Instance, _ string) (command, error) {
	c, err := q.prepare(ctx, p, a, i)
	if err != nil {
		return command{}, err
	}
	return q.prepareIncoming(ctx, p, i, c)
}

func (s *qemuSession) save(ctx context.Context, dir string) error {
	socket := filepath.Join(s.place.run, saveSocket)
	if err := clean(s.place.run, saveSocket); err != nil {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return err
	}
	defer l.Close() // which removes the socket
	if err := s.place.lend(socket); err != nil {
		return err
	}
	err = s.with(ctx, func(ctx context.Context, c *qmp.Client) error {
		return c.SaveTo(ctx, socket)
	})
	if err != nil {
		return err
	}
	l.SetDeadline(time.Now().Add(stalled))
	conn, err := l.Accept()
	if err != nil {
		return errors.Join(fmt.Errorf("QEMU does not send its guest: %w", err), s.unsave(ctx))
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	f, err := os.OpenFile(filepath.Join(dir, memoryFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return errors.Join(err, s.unsave(ctx))
	}
	_, err = io.Copy(f, patient{conn})
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, s.unsave(ctx))
	}
	return s.until(ctx, "postmigrate", "completed")
}

// unsave has QEMU give up, and waits until it has: its guest cannot go on before.
func (s *qemuSession) unsave(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	err := s.with(ctx, func(ctx context.Context, c *qmp.Client) error { return c.Execute(ctx, "migrate_cancel", nil, nil) })
	for end := time.Now().Add(askPatience); err == nil && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		status, _, asked := s.migration(ctx)
		if asked != nil || status != "cancelling" && status != "active" && status != "setup" && status != "device" {
			return asked
		}
	}
	return err
}

func (s *qemuSession) load(ctx context.Context, dir string) error {
	f, err := os.Open(filepath.Join(dir, memoryFile))
	if err != nil {
		return err
	}
	defer f.Close()
	conn, err := s.incoming(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := io.Copy(patient{conn}, f); err != nil {
		return fmt.Errorf("QEMU does not take its guest: %w: %s", err, s.q.lastWords(s.place))
	}
	conn.Close()
	return s.until(ctx, "paused", "completed")
}

// incoming connects to where a QEMU waits for its guest.
func (s *qemuSession) incoming(ctx context.Context) (net.Conn, error) {
	for end := time.Now().Add(stalled); ; {
		c, err := meet(ctx, filepath.Join(s.place.run, incomingSocket))
		if err == nil {
			return c, nil
		}
		if errors.Is(err, errStranger) || time.Now().After(end) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// until waits for QEMU to say that its guest is so, and the transfer is over.
func (s *qemuSession) until(ctx context.Context, state, transfer string) error {
	for end := time.Now().Add(stalled); ; {
		status, why, err := s.migration(ctx)
		if err != nil {
			return fmt.Errorf("%w: %s", err, s.q.lastWords(s.place))
		}
		if status == "failed" || status == "cancelled" {
			return fmt.Errorf("QEMU gave it up: %s", why)
		}
		now := ""
		err = s.with(ctx, func(ctx context.Context, c *qmp.Client) (err error) {
			now, err = c.Status(ctx)
			return err
		})
		switch {
		case err != nil:
			return fmt.Errorf("%w: %s", err, s.q.lastWords(s.place))
		case now == state && status == transfer:
			return nil
		case time.Now().After(end):
			return fmt.Errorf("QEMU does not come to an end with it: it is %s, %s", now, status)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (s *qemuSession) migration(ctx context.Context) (status, why string, err error) {
	var m struct {
		Status string `json:"status"`
		Error  string `json:"error-desc"`
	}
	err = s.with(ctx, func(ctx context.Context, c *qmp.Client) error { return c.Execute(ctx, "query-migrate", nil, &m) })
	return m.Status, m.Error, err
}

// patient is a connection on which something must always be going on.
type patient struct{ net.Conn }

func (p patient) Read(b []byte) (int, error) {
	p.SetReadDeadline(time.Now().Add(stalled))
	return p.Conn.Read(b)
}

func (p patient) Write(b []byte) (int, error) {
	p.SetWriteDeadline(time.Now().Add(stalled))
	return p.Conn.Write(b)
}
