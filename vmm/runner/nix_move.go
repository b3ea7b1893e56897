package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/guest/tsc"
	"github.com/blixard/blixard/vmm/runner/nix"
	"github.com/blixard/blixard/vmm/runner/qmp"
	"github.com/blixard/blixard/vmm/runner/shims"
	"github.com/blixard/blixard/vmm/shim"
)

// A QEMU of Nix's that takes more than its runner says (nix.TakesArgs) is asked as ours
// is, on a socket of its own: the runner's has room for one client, and microvm-shutdown
// must be that one. So it moves as ours does. On both hosts the same runner is started,
// by its path in the store: the same QEMU, kernel, devices and disks follow from that.
//
// All sockets are in the folder that QEMU works in, by names without a folder, for that
// is all that QEMU's user need be able to pass. We come to them by a link:
//
//	RUN/w -> the VM's folder "vm"        RUN/qmp, RUN/in, RUN/disks -> w/...
//
// Where that link is, the instance was started so; one that an older daemon has started
// is watched as before, and stays where it is.

// talking is what such a QEMU is started with, and receiving the one that waits for a guest.
const (
	talking   = "-qmp unix:" + qmpSocket + ",server=on,wait=off"
	receiving = talking + " -S -incoming unix:" + incomingSocket
)

// askable has a runner that can be asked be asked, and notes whether its guest can move.
func (n *nixDriver) askable(p place, c *command, runner string) error {
	sockets := []string{qmpSocket, incomingSocket, diskSocket}
	if err := errors.Join(clean(p.run, append(sockets, workLink)...), clean(c.dir, append(sockets, outgoingSocket)...)); err != nil {
		return err
	}
	if !nix.TakesArgs(runner) {
		return nil
	}
	for _, name := range sockets {
		if err := os.Symlink(filepath.Join(workLink, name), filepath.Join(p.run, name)); err != nil {
			return err
		}
	}
	if err := os.Symlink(c.dir, filepath.Join(p.run, workLink)); err != nil {
		return err
	}
	if nix.Stays(runner) == "" {
		c.shape = runnerShape(runner, n.h.accelerates)
	}
	c.env = append(c.env, nix.ArgsEnv+"="+talking)
	return nil
}

// prepareIncoming has its QEMU wait for a guest, and not run it by itself.
func (n *nixDriver) prepareIncoming(_ context.Context, _ place, _ shim.Instance, c command) (command, error) {
	i := slices.Index(c.env, nix.ArgsEnv+"="+talking)
	if i < 0 {
		return c, errors.New("its runner cannot be told to wait for a guest")
	}
	c.env[i] = nix.ArgsEnv + "=" + receiving
	return c, nil
}

// runnerShape is the shape of a machine that is a runner, and this host under it.
func runnerShape(runner string, kvm bool) string {
	words := []string{"runner=" + runner}
	if kvm {
		return strings.Join(append(words, "cpu="+strconv.Quote(cpuModel())), "\n")
	}
	khz, _ := tsc.KHz() // 0 fits 0
	return strings.Join(append(words, "tsc="+fmt.Sprint(khz)), "\n")
}

// nixLive is the session of such a QEMU.
type nixLive struct {
	mover
	qemu   *qemuSession
	words  *nixSession // for how it ended
	runner string
}

func (n *nixDriver) accompany(p place, tell func(guestState)) session {
	q := &qemu{log: n.h.cfg.Log.Debug, warn: n.h.cfg.Log.Warn}
	s := q.watch(p, true, tell)
	words := &nixSession{place: p}
	return &nixLive{mover: s, qemu: s, words: words, runner: words.runner()}
}

// stop has the VM's init run the booted runner's microvm-shutdown.
func (s *nixLive) stop(ctx context.Context, h *shims.Shim) error {
	if err := s.qemu.with(ctx, func(ctx context.Context, c *qmp.Client) error {
		state, err := qemuControl{c}.state(ctx)
		if err != nil || state != paused {
			return err
		}
		return s.qemu.release(ctx, c)
	}); err != nil && !errors.Is(err, errNoQMP) { // one that says nothing yet is not paused
		return err
	}
	return h.Kill(ctx, syscall.SIGTERM)
}

func (s *nixLive) pause(ctx context.Context) error                   { return s.qemu.pause(ctx) }
func (s *nixLive) resume(ctx context.Context) error                  { return s.qemu.resume(ctx) }
func (s *nixLive) disks(ctx context.Context) (uint64, uint64, error) { return s.qemu.disks(ctx) }
func (s *nixLive) ended(e shim.Exit, ready bool) *vmm.Exit           { return s.words.ended(e, ready) }
func (s *nixLive) close()                                            { s.qemu.close() }

// version adds how the guest runs, for the runner leaves that to the host.
func (s *nixLive) version(ctx context.Context) (text string, err error) {
	err = s.qemu.with(ctx, func(ctx context.Context, c *qmp.Client) error {
		var accel struct {
			Enabled bool `json:"enabled"`
		}
		var memory struct {
			Base uint64 `json:"base-memory"`
		}
		if err := errors.Join(c.Execute(ctx, "query-kvm", nil, &accel), c.Execute(ctx, "query-memory-size-summary", nil, &memory)); err != nil {
			return err
		}
		if text, err = c.Version(ctx); err != nil {
			return err
		}
		major, _, _ := strings.Cut(text, ".")
		if v, err := strconv.Atoi(major); !accel.Enabled && memory.Base%forgotten == 0 && (err != nil || v < 9) {
			return fmt.Errorf("under emulation its QEMU (%s) loses some of what a guest of so much memory writes while it moves: QEMU 9.0 does not, nor KVM", text)
		}
		text += fmt.Sprintf(" kvm=%t", accel.Enabled)
		return nil
	})
	return text, err
}

// forgotten is what a guest's memory must be a multiple of for QEMU before 9.0 to lose
// writes to it: see machine.memory.
const forgotten = 64 * 4096

// written are the drives that its guest writes: files in its own folder, which were made
// for it. Anything else is its host's, but for what is in the store.
func (s *nixLive) written(ctx context.Context) (drives []string, err error) {
	var all []struct {
		Device   string `json:"device"`
		Inserted *struct {
			File     string `json:"file"`
			ReadOnly bool   `json:"ro"`
		} `json:"inserted"`
	}
	err = s.qemu.with(ctx, func(ctx context.Context, c *qmp.Client) error {
		return c.Execute(ctx, "query-block", nil, &all)
	})
	for _, d := range all {
		switch f := d.Inserted; {
		case f == nil, f.ReadOnly && strings.HasPrefix(f.File, filepath.Dir(s.runner)+"/"):
		case f.ReadOnly, strings.ContainsAny(f.File, "/:"):
			return nil, fmt.Errorf("its disk %s is %s of its host, and stays there", d.Device, f.File)
		default:
			drives = append(drives, d.Device)
		}
	}
	return drives, err
}

// export lets another host write such a drive, and no other.
func (s *nixLive) export(ctx context.Context, drive string) error {
	drives, err := s.written(ctx)
	if err == nil && !slices.Contains(drives, drive) {
		err = fmt.Errorf("it has no disk %.20q that could be written", drive)
	}
	if err != nil {
		return err
	}
	return s.qemu.export(ctx, drive)
}
