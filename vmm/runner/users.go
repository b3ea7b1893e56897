package runner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/shim"
)

// A daemon that is root has the hypervisors of images run as users that are nobody
// else's, one a VM as long as there are enough:
//
//	the daemon (root)        the VM's user                     the group of all of them
//	RUN/v/<uid>/             RUN/v/<uid>/h/                    passes through folders
//	  lock shim.* *.json       the hypervisor's own sockets    reads kernels, initrds and
//	  qmp con agent -> h/...   its disks and logs              volumes that are read-only
//
// What the hypervisor may write is a folder of its own, because what is in a folder
// can be replaced by whoever may write that: the shim's files are not its to touch.
// The daemon, of this build or of one before, finds the sockets where they always
// were, by links; what is there it does not believe: see meet.go. Whether an instance
// has a user is in its record; one that was started without is adopted, and ended, as it
// always was, since root may.

// users are those that hypervisors run as; nil: the daemon's own.
type users struct {
	first, last uint32
	gid         uint32
	kvm         []uint32 // the group that may open /dev/kvm
	text        string

	mu    sync.Mutex
	taken map[string]uint32 // by the VM's uid
}

// hypervisorDir is the hypervisor's own, in a VM's run directory.
const hypervisorDir = "h"

// ownSockets are those that hypervisors listen on.
var ownSockets = []string{qmpSocket, consoleSocket, agentSocket, incomingSocket, diskSocket, apiSocket}

var rangeOfUsers = regexp.MustCompile(`^([0-9]+)-([0-9]+)$`)

// parseUsers reads FIRST-LAST, or the name of one user. The group is FIRST, or the
// user's own.
func parseUsers(text string) (*users, error) {
	u := &users{text: text, taken: map[string]uint32{}}
	if m := rangeOfUsers.FindStringSubmatch(text); m != nil {
		first, err1 := strconv.ParseUint(m[1], 10, 32)
		last, err2 := strconv.ParseUint(m[2], 10, 32)
		// The highest two mean nobody at all to the kernel.
		if errors.Join(err1, err2) != nil || first == 0 || last < first || last > 1<<32-3 {
			return nil, fmt.Errorf("%q is no range of user ids: write FIRST-LAST, as 200000-200999, of ids that are nobody's", text)
		}
		u.first, u.last, u.gid = uint32(first), uint32(last), uint32(first)
		return u, nil
	}
	found, err := user.Lookup(text)
	if err != nil {
		return nil, fmt.Errorf("users of VMs: %w: make that user, or give a range of ids (200000-200999)", err)
	}
	uid, err1 := strconv.ParseUint(found.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(found.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil || uid == 0 {
		return nil, fmt.Errorf("users of VMs: %s is of no use: it must not be root", text)
	}
	u.first, u.last, u.gid = uint32(uid), uint32(uid), uint32(gid)
	return u, nil
}

// findUsers says who hypervisors run as here, and why not as somebody else.
func (h *Host) findUsers() (why string, err error) {
	switch {
	case h.cfg.Users == "":
		return "hypervisors run as the daemon's own user: 'serve --vm-users FIRST-LAST' gives each VM one of its own, when the daemon is root", nil
	case os.Geteuid() != 0:
		return "", errors.New("--vm-users: only root can have VMs run as other users; leave it out, or start the daemon as root")
	}
	if h.users, err = parseUsers(h.cfg.Users); err != nil {
		return "", err
	}
	var st unix.Stat_t
	if err := unix.Stat("/dev/kvm", &st); err == nil && st.Mode&0o060 == 0o060 && st.Gid != 0 {
		h.users.kvm = []uint32{st.Gid}
	}
	return "", nil
}

// of gives a VM its user: the one that it had, or one that no other VM of this host
// has. When there are fewer than VMs, some share one.
func (u *users) of(uid string, had *shim.User) *shim.User {
	u.mu.Lock()
	defer u.mu.Unlock()
	if had != nil && had.UID >= u.first && had.UID <= u.last {
		u.taken[uid] = had.UID
	}
	if _, ok := u.taken[uid]; !ok {
		used := map[uint32]int{}
		for _, id := range u.taken {
			used[id]++
		}
		best := u.first
		for id := u.first; ; id++ {
			if used[id] < used[best] {
				best = id
			}
			if used[best] == 0 || id == u.last {
				break
			}
		}
		u.taken[uid] = best
	}
	return &shim.User{UID: u.taken[uid], GID: u.gid, Groups: u.kvm}
}

func (u *users) forget(uid string) {
	if u == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.taken, uid)
}

// userFor is who the hypervisor of an assignment runs as; nil: as the daemon. What
// Nix built runs as it says itself, a program is one of the host's, and devices are
// handed to root.
func (v *vm) userFor(a *blixardv1.Assignment, had *shim.User) *shim.User {
	if v.h.users == nil || a.GetSpec().GetImage() == nil || len(a.GetSpec().GetDevices()) > 0 {
		return nil
	}
	return v.h.users.of(v.uid, had)
}

// place is where the instance has its files, and whose.
func (v *vm) place() place {
	p := v.at
	p.user = v.rec.User
	return p
}

// socket is where the hypervisor makes a socket of its own.
func (p place) socket(name string) string {
	if p.user == nil {
		return filepath.Join(p.run, name)
	}
	return filepath.Join(p.run, hypervisorDir, name)
}

// listens is where a live hypervisor may make a socket.
func (p place) listens(name string) string {
	if _, err := os.Lstat(filepath.Join(p.run, hypervisorDir)); err == nil {
		return filepath.Join(p.run, hypervisorDir, name)
	}
	return filepath.Join(p.run, name)
}

// workLink leads from a VM's run directory to the folder that a hypervisor of Nix's works
// in, with the sockets that we have it make there.
const workLink = "w"

// leaves is where we wait for a hypervisor that sends its guest.
func (p place) leaves() string {
	if isThere(filepath.Join(p.run, workLink)) {
		return filepath.Join(p.run, workLink, outgoingSocket)
	}
	return filepath.Join(p.run, outgoingSocket)
}

// lend lets the hypervisor connect to a socket of ours.
func (p place) lend(socket string) error { return p.give(socket, unix.S_IFSOCK) }

// lendFolder lets it write into a folder of ours.
func (p place) lendFolder(dir string) error { return p.give(dir, unix.S_IFDIR) }

// give makes something of a kind the hypervisor's.
func (p place) give(path string, kind uint32) error {
	st, err := os.Stat(filepath.Join(p.run, hypervisorDir))
	if errors.Is(err, os.ErrNotExist) {
		st, err = os.Stat(filepath.Join(p.run, workLink))
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil // it is the daemon's own user
	}
	if err != nil {
		return err
	}
	owner := st.Sys().(*syscall.Stat_t)
	// It may be in a folder of the hypervisor's: what is given away is that, and nothing else.
	f, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(f)
	var is unix.Stat_t
	if err := unix.Fstat(f, &is); err != nil || is.Mode&unix.S_IFMT != kind {
		return fmt.Errorf("%s is not what is to be lent (%v)", path, err)
	}
	return unix.Fchownat(f, "", int(owner.Uid), int(owner.Gid), unix.AT_EMPTY_PATH)
}

// handOver gives what an instance needs to the user that it runs as, and to no other.
func (v *vm) handOver(a vmm.Action, jailed bool) error {
	p := v.place()
	own := filepath.Join(p.run, hypervisorDir)
	if err := errors.Join(os.RemoveAll(own), p.layOut(jailed)); err != nil {
		return err
	}
	if p.user == nil {
		return nil
	}
	if err := unprivileged(a.Assignment.GetSpec()); err != nil {
		return err
	}
	// What it makes itself.
	if err := errors.Join(os.Mkdir(own, 0o700), os.Lchown(own, int(p.user.UID), int(p.user.GID))); err != nil {
		return err
	}
	for _, name := range ownSockets {
		path := filepath.Join(p.run, name)
		if err := clean(p.run, name); err != nil {
			return err
		}
		if err := os.Symlink(filepath.Join(hypervisorDir, name), path); err != nil {
			return err
		}
	}
	// What it writes, in folders where it can put nothing in our way.
	files := []string{p.console, filepath.Join(p.run, vmmLog), filepath.Join(p.run, eventsFile)}
	for _, f := range files {
		if err := touch(f); err != nil {
			return err
		}
	}
	disks, err := filepath.Glob(filepath.Join(p.state, "disks", "*.raw"))
	if err != nil {
		return err
	}
	files = append(files, disks...)
	for _, name := range []string{filepath.Join(p.run, configFile), filepath.Join(p.state, kernelFile)} {
		if isThere(name) {
			files = append(files, name)
		}
	}
	var shared []string
	for _, o := range opensOf(a.Assignment) {
		if o.Writes {
			files = append(files, v.h.volumes.disk(o.Volume))
		} else {
			shared = append(shared, v.h.volumes.disk(o.Volume))
		}
	}
	// What it reads, as others may.
	image := a.Assignment.GetSpec().GetImage()
	for _, artifact := range []*blixardv1.Artifact{image.GetKernel(), image.GetInitrd()} {
		if artifact == nil {
			continue
		}
		path, err := v.h.cfg.Store.Path(v.h.ctx, artifact.Digest)
		if err != nil {
			return err
		}
		shared = append(shared, path)
	}
	if a.Restore.GetMemory() {
		saved, err := filepath.Glob(filepath.Join(v.h.at.snapshotOf(a.Restore.Uid), vmFolder, "*"))
		if err != nil {
			return err
		}
		shared = append(shared, saved...)
		if machine := filepath.Join(p.run, revivedFolder, cloudConfig); isThere(machine) {
			files = append(files, machine)
		}
	}
	for _, f := range files {
		if err := errors.Join(give(f, p.user.UID, p.user.GID, 0o600), v.h.pass(p.user.GID, f)); err != nil {
			return err
		}
	}
	for _, f := range shared {
		if err := errors.Join(give(f, 0, p.user.GID, 0o440), v.h.pass(p.user.GID, f)); err != nil {
			return err
		}
	}
	return v.h.pass(p.user.GID, own)
}

// touch makes a file that is not there.
func touch(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func isThere(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// reclaim takes a folder back that was lent, with what is in it.
func reclaim(dir string) error {
	names, err := os.ReadDir(dir)
	errs := []error{err, os.Lchown(dir, os.Geteuid(), os.Getegid())}
	for _, n := range names { // by now nobody else can put anything there
		errs = append(errs, give(filepath.Join(dir, n.Name()), uint32(os.Geteuid()), uint32(os.Getegid()), 0o600))
	}
	return errors.Join(errs...)
}

// give makes a plain file somebody's, who may do so much with it.
func give(path string, uid, gid uint32, mode uint32) error {
	f, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(f)
	var st unix.Stat_t
	if err := unix.Fstat(f, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("%s is no plain file", path)
	}
	if st.Uid != uid || st.Gid != gid {
		if err := unix.Fchown(f, int(uid), int(gid)); err != nil {
			return &fs.PathError{Op: "chown", Path: path, Err: err}
		}
	}
	if st.Mode&0o7777 != mode {
		if err := unix.Fchmod(f, mode); err != nil {
			return &fs.PathError{Op: "chmod", Path: path, Err: err}
		}
	}
	return nil
}

// pass lets the group of VMs through the folders above a path, those of ours; of the
// others it says where they cannot pass.
func (h *Host) pass(gid uint32, path string) error {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			return &fs.PathError{Op: "stat", Path: dir, Err: err}
		}
		switch {
		case st.Mode&0o001 != 0 || st.Gid == gid && st.Mode&0o010 != 0:
		case within(dir, filepath.Dir(h.cfg.StateDir)) || within(dir, h.cfg.RunRoot):
			if err := errors.Join(os.Lchown(dir, int(st.Uid), int(gid)), os.Chmod(dir, fs.FileMode(st.Mode&0o700|0o010))); err != nil {
				return err
			}
		default:
			return fmt.Errorf("VMs run as other users here (--vm-users), which cannot pass %s (mode %04o): let others pass it (chmod o+x), or choose another --data-dir and --run-dir", dir, st.Mode&0o7777)
		}
		if dir == "/" {
			return nil
		}
	}
}

func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// unprivileged refuses ports that only root can open.
func unprivileged(spec *blixardv1.VMSpec) error {
	first := uint64(1024)
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 16); err == nil {
			first = n
		}
	}
	for _, n := range spec.GetNetworks() {
		for _, p := range n.GetPorts() {
			if uint64(p.HostPort) < first && n.GetUser() != nil {
				return fmt.Errorf("%s of its host is root's to open, and this VM runs as another user (--vm-users): use one from %d on, or lower net.ipv4.ip_unprivileged_port_start", portText(p), first)
			}
		}
	}
	return nil
}
