package runner

import (
	"cmp"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/blixard/blixard/vmm/runner/shimproc"
	"github.com/blixard/blixard/vmm/shim"
)

// Firecracker comes with a jailer, which gives it a root directory of its own:
//
//	shim ── init ── jailer ⇒ Firecracker      ⇒ becomes, by exec
//	        of a PID namespace
//
// The jailer starts as root, closes every descriptor, makes the devices that
// Firecracker needs, goes into the root directory and drops to the VM's user. By the
// first it loses the VM's lock, and by the last the kernel forgets that it is to die
// with its parent: so it is held by a PID namespace, whose init keeps both.
//
// The root directory is made by `blixard-shim -jail`, in a mount namespace of the VM.
// On the host there is an empty folder, which tells every daemon that the VM is jailed,
// and what was there anyway:
//
//	on the host                      in the jail
//	RUN/v/<uid>/jail/                /  in memory, with Firecracker's copy of itself
//	RUN/v/<uid>/h/                   /run/      with its API socket
//	RUN/v/<uid>/{config.json,vmm.log}  /config.json, /vmm.log
//	the kernel and the initrd        /kernel, /initrd
//	STATE/vms/<uid>/disks/*.raw      /disks/*.raw
//	STATE/volumes/<uid>/...          /volumes/NAME
//	STATE/vms/<uid>/saved/           /saved/     into which it writes a snapshot
//	STATE/snapshots/<uid>/vm/*       /snapshot/* which it goes on from
//
// Its own disks are disks/NAME.raw to it with a jail and without, so that either goes on
// from the other's snapshots.
const (
	jailFolder    = "jail"
	savedFolder   = "saved"
	jailedVM      = "vm" // the jailer's --id: a jail has one
	jailSpare     = 4 << 20
	volumesFolder = "volumes"
)

// jailer is Firecracker's.
type jailer struct{ program, version string }

// noJailer as Config.Jailer: it is not wanted.
const noJailer = "none"

// findJailer says why Firecracker runs without its jailer here. When that was named, it
// is an error: nobody is to have less than what was asked for.
func (h *Host) findJailer(firecracker found) (j *jailer, why string, err error) {
	if h.cfg.Jailer == noJailer {
		return nil, "it is not wanted (--jailer none)", nil
	}
	j, err = h.ableToJail(firecracker)
	if err != nil && h.cfg.Jailer != "" {
		return nil, "", fmt.Errorf("--jailer %s: %w", h.cfg.Jailer, err)
	}
	if err != nil {
		return nil, err.Error(), nil
	}
	return j, "", nil
}

func (h *Host) ableToJail(firecracker found) (*jailer, error) {
	switch {
	case os.Geteuid() != 0:
		return nil, errors.New("only root can use it")
	case h.users == nil:
		return nil, errors.New("it needs users for VMs: give the daemon --vm-users")
	case !h.holds:
		return nil, errors.New("the daemon cannot make PID namespaces, which hold what it starts")
	}
	program, err := exec.LookPath(cmp.Or(h.cfg.Jailer, "jailer"))
	if err != nil {
		return nil, fmt.Errorf("%w: install the one of Firecracker's release", err)
	}
	if program, err = filepath.Abs(program); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(h.ctx, versionPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--version")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s --version: %w", program, err)
	}
	// Its vendor promises nothing for two versions.
	if v := versionIn(string(out)); v != firecracker.version {
		return nil, fmt.Errorf("%s is of version %q, and Firecracker of %s: install both of one release", program, v, firecracker.version)
	}
	return &jailer{program, firecracker.version}, alone(firecracker.program)
}

// alone says that a program needs no other file to run: in a jail there is none.
func alone(program string) error {
	f, err := elf.Open(program)
	if err != nil {
		return fmt.Errorf("%s: %w", program, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is linked dynamically, and a jail has no libraries: install Firecracker's own release, which is static", program)
		}
	}
	return nil
}

// jailed says that what runs, or is about to, is in a jail.
func (p place) jailed() bool { return isThere(filepath.Join(p.run, jailFolder)) }

// saves is the folder that a hypervisor can write a snapshot into, and what it calls it.
func (p place) saves(folder string) (path, called string) {
	if p.jailed() {
		return filepath.Join(p.state, savedFolder), "/" + savedFolder
	}
	return folder, folder
}

// layOut makes a VM's empty jail, or sees to it that it has none.
func (p place) layOut(jailed bool) error {
	jail, saved := filepath.Join(p.run, jailFolder), filepath.Join(p.state, savedFolder)
	if err := errors.Join(os.RemoveAll(jail), os.RemoveAll(saved)); err != nil || !jailed {
		return err
	}
	return errors.Join(os.Mkdir(saved, 0o700), os.Lchown(saved, int(p.user.UID), int(p.user.GID)), os.Mkdir(jail, 0o700))
}

// jail collects what a VM is shown.
type jail struct {
	place place
	shown []shimproc.Shown
}

// show shows it something of the host, and gives the path of that in the jail.
func (j *jail) show(from, to string, readOnly bool) string {
	j.shown = append(j.shown, shimproc.Shown{From: from, To: to, ReadOnly: readOnly})
	return "/" + to
}

// of is a boot with paths of the jail.
func (j *jail) of(b boot) boot {
	b.kernel = j.show(b.kernel, "kernel", true)
	if b.initrd != "" {
		b.initrd = j.show(b.initrd, "initrd", true)
	}
	disks := b.disks
	b.disks = nil
	for _, d := range disks {
		if own, ok := b.ownPath(d); ok {
			j.show(d.path, own, d.readOnly)
		} else {
			d.path = j.show(d.path, filepath.Join(volumesFolder, d.name), d.readOnly)
		}
		b.disks = append(b.disks, d)
	}
	return b
}

// argv has the jailer start Firecracker, with these words, as the place's user.
func (r *jailer) argv(j *jail, firecracker string, words ...string) ([]string, error) {
	// The jailer names the folder for what the path leads to.
	program, err := filepath.EvalSymlinks(firecracker)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(program)
	if err != nil {
		return nil, err
	}
	at := filepath.Join(j.place.run, jailFolder)
	made := shimproc.Jail{
		At: at, Root: filepath.Join(filepath.Base(program), jailedVM, "root"),
		Bytes: uint64(st.Size()) + jailSpare, Shown: j.shown,
	}
	id := func(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
	return made.Argv(append([]string{
		r.program, "--id", jailedVM, "--exec-file", program, "--uid", id(j.place.user.UID), "--gid", id(j.place.user.GID),
		"--chroot-base-dir", at, "--",
	}, words...)...)
}

// jailEnd says what an end before Firecracker's begin means; "" where it was its own.
// The log is Firecracker's, which says there that it ends, when it does.
func (p place) jailEnd(e shim.Exit, log string) string {
	switch {
	case !p.jailed() || log != "":
	case e.Code == 1:
		return "an error of its jailer"
	case e.Code == 101:
		return "a panic of its jailer"
	}
	return ""
}
