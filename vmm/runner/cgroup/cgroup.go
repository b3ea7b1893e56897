// Package cgroup keeps what a VM takes of its host within bounds: cgroup v2.
//
// # The model
//
//	BASE/                     ours to divide: see Open
//	    blixard.<daemon>/     of one daemon identity
//	        lock/             nothing; locked (flock) by the daemon, as long as it lives
//	        shims/            the shims: whoever kills the daemon's own cgroup leaves them
//	        <VM>/             its bounds: memory.max, cpu.max, cpu.weight, pids.max
//	            <attempt>/    made by the shim, fresh for every start, and removed by it
//
// A cgroup with processes of its own cannot divide what it has (the kernel's rule
// of no internal processes), and in one that was killed once the kernel kills
// newborns. So the bounds are on a VM's own cgroup, and its processes in one below
// it that no earlier start has used. What is in it, whoever its parent is, is found
// and ended at once, by cgroup.kill.
//
// BASE is never the cgroup that a service manager starts us in: once it is divided,
// nothing could be started in it again.
//
// Where a controller is missing, its bound is: Tree.Bounds says which there are, and
// Tree.Lacks why not the others. Without any of them the cgroups still hold what is
// forked.
package cgroup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Tree is what one daemon has of the cgroups.
type Tree struct {
	base, own string
	made      bool // the base, in the root
	held      int  // the lock: while we have it, nobody else removes what is ours
	// Bounds that can be set: of cpu, memory and pids those that are to be had.
	Bounds []string
	// Lacks says why the others are not; nil: none is missing.
	Lacks error
}

// Limits of one VM. 0: none.
type Limits struct {
	MemoryBytes uint64
	// CPUs that it may take at most, in hundredths; Weight is its share of those
	// that others want, too: 1 to 10000, and 100 for others than VMs.
	CPUs, Weight uint64
	Processes    uint64
}

// controllers that we use, as the kernel calls them.
var controllers = []string{"cpu", "memory", "pids"}

// system is where the kernel says which cgroup we are in, and what is mounted.
type system struct{ proc string }

// Open finds what is ours to divide, and takes a part of it for the daemon of an
// identity. That is, in this order: the folder that is named; the parent of our own
// cgroup, where that was delegated to us (systemd: Delegate=yes with
// DelegateSubgroup=); and the root, where we are in it ourselves.
func Open(named, identity string) (*Tree, error) { return system{"/proc"}.open(named, identity) }

func (s system) open(named, identity string) (*Tree, error) {
	base := named
	if base == "" {
		var err error
		if base, err = s.base(); err != nil {
			return nil, err
		}
	}
	if err := mkdir(base); err != nil {
		return nil, fmt.Errorf("make the cgroup %s: %w", base, err)
	}
	if !isCgroup(base) {
		if named != "" {
			os.Remove(base) // which we have made
		}
		return nil, fmt.Errorf("%s is in no cgroup2 file system", base)
	}
	above := s.above(base)
	t := &Tree{base: base, own: filepath.Join(base, Name(identity)), made: above != "" && named == "", held: -1}
	if err := t.take(); err != nil {
		return nil, fmt.Errorf("make the cgroup of the shims: %w", err)
	}
	missing := map[string][]string{}
	for _, c := range controllers {
		var err error
		for _, dir := range []string{above, base, t.own} { // a cgroup can give its children what it has itself
			if err == nil {
				err = enable(dir, c)
			}
		}
		if err == nil && !slices.Contains(words(filepath.Join(t.Shims(), "cgroup.controllers")), c) {
			err = errors.New("the kernel gives it to none of them")
		}
		if err != nil {
			missing[err.Error()] = append(missing[err.Error()], c)
			continue
		}
		t.Bounds = append(t.Bounds, c)
	}
	var why []string
	for text, list := range missing {
		why = append(why, strings.Join(list, ", ")+": "+text)
	}
	if slices.Sort(why); len(why) > 0 {
		t.Lacks = errors.New(strings.Join(why, "; "))
	}
	return t, nil
}

const (
	ours     = "blixard." // begins the name of each daemon's cgroup
	lockName = "lock"
)

// Name is that of a daemon's cgroup.
func Name(identity string) string {
	h := sha256.Sum256([]byte(identity))
	return ours + hex.EncodeToString(h[:])[:12]
}

// mkdir makes a cgroup and those above it, while another daemon may be removing one
// of those that it was the last in.
func mkdir(dir string) (err error) {
	for range 5 {
		if err = os.MkdirAll(dir, 0o755); !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return err
}

// take makes our own cgroup, and holds it against the sweeps of others.
func (t *Tree) take() error {
	for {
		dir := filepath.Join(t.own, lockName)
		if err := mkdir(dir); err != nil {
			return err
		}
		fd, err := lock(dir, unix.LOCK_SH)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return err
		}
		var ours, there unix.Stat_t
		if unix.Fstat(fd, &ours) == nil && unix.Stat(dir, &there) == nil && ours.Ino == there.Ino {
			t.held = fd
			return mkdir(t.Shims())
		}
		unix.Close(fd) // somebody has removed it in between
	}
}

// lock takes the lock of a cgroup, which ends with the process.
func lock(dir string, how int) (int, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	for {
		if err = unix.Flock(fd, how); err == nil {
			return fd, nil
		}
		if !errors.Is(err, unix.EINTR) {
			unix.Close(fd)
			return -1, err
		}
	}
}

// above is the parent of a base that is one of ours in the root; "" otherwise: what
// was named or delegated has been given what it has.
func (s system) above(base string) string {
	if root, own, err := s.where(); err == nil && own == "/" && filepath.Dir(base) == root {
		return root
	}
	return ""
}

// where is cgroup2 mounted, and which cgroup are we in?
func (s system) where() (mount, own string, err error) {
	mounts, err := os.ReadFile(filepath.Join(s.proc, "self/mountinfo"))
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(string(mounts)) {
		// 30 25 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw
		before, after, ok := strings.Cut(line, " - ")
		f := strings.Fields(before)
		if ok && len(f) >= 5 && strings.HasPrefix(after, "cgroup2 ") && f[3] == "/" {
			mount = f[4]
			break
		}
	}
	if mount == "" {
		return "", "", errors.New("no cgroup2 file system is mounted")
	}
	cgroups, err := os.ReadFile(filepath.Join(s.proc, "self/cgroup"))
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(string(cgroups)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::/"); ok {
			return mount, "/" + path, nil
		}
	}
	return "", "", errors.New("this process is in no cgroup of version 2")
}

func (s system) base() (string, error) {
	mount, own, err := s.where()
	if err != nil {
		return "", err
	}
	if own == "/" {
		return filepath.Join(mount, "blixard"), nil
	}
	parent := filepath.Join(mount, filepath.Dir(own))
	if parent != mount && delegated(parent) {
		return parent, nil
	}
	return "", fmt.Errorf("the cgroup of this daemon (%s) is not its own to divide: have systemd delegate one (Delegate=yes and DelegateSubgroup=daemon in its unit), or name one (serve --cgroup)", own)
}

// delegated says whether a service manager has left a cgroup to us, which it says by
// an attribute. To own it is not enough: a session's slices are their user's, and the
// user's service manager's to divide.
func delegated(dir string) bool {
	for _, name := range []string{"trusted.delegate", "user.delegate"} {
		b := make([]byte, 8)
		if n, err := unix.Getxattr(dir, name, b); err == nil && string(b[:n]) == "1" {
			return true
		}
	}
	return false
}

func isCgroup(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// enable has a cgroup give a controller to its children.
func enable(dir, controller string) error {
	if dir == "" {
		return nil
	}
	if slices.Contains(words(filepath.Join(dir, "cgroup.subtree_control")), controller) {
		return nil
	}
	if !slices.Contains(words(filepath.Join(dir, "cgroup.controllers")), controller) {
		return fmt.Errorf("%s does not have it (it may be mounted as version 1, or kept by who is above)", dir)
	}
	if err := write(dir, "cgroup.subtree_control", "+"+controller); err != nil {
		return fmt.Errorf("%s does not give it on: %w", dir, err)
	}
	return nil
}

func words(file string) []string {
	b, _ := os.ReadFile(file)
	return strings.Fields(string(b))
}

func write(dir, file, text string) error {
	return os.WriteFile(filepath.Join(dir, file), []byte(text), 0)
}

// Shims is the cgroup of the shims.
func (t *Tree) Shims() string { return filepath.Join(t.own, "shims") }

func (t *Tree) vm(uid string) string {
	h := sha256.Sum256([]byte(uid))
	return filepath.Join(t.own, hex.EncodeToString(h[:])[:16])
}

// Prepare makes a VM's cgroup anew, with bounds as far as there are any, and gives
// the path at which the shim makes that of this attempt. Nothing of the VM may be
// alive.
func (t *Tree) Prepare(uid, attempt string, l Limits) (string, error) {
	if err := t.Remove(uid); err != nil {
		return "", err
	}
	dir := t.vm(uid)
	if err := mkdir(dir); err != nil {
		return "", fmt.Errorf("make the VM's cgroup: %w", err)
	}
	for _, c := range t.Bounds {
		if err := l.set(dir, c); err != nil {
			return "", errors.Join(fmt.Errorf("bound the VM by its cgroup: %w", err), os.Remove(dir))
		}
	}
	return filepath.Join(dir, attempt), nil
}

func (l Limits) set(dir, controller string) error {
	number := func(n uint64) string {
		if n == 0 {
			return "max"
		}
		return strconv.FormatUint(n, 10)
	}
	switch controller {
	case "memory":
		// What is short of memory ends as a whole: half a VM is of no use.
		return errors.Join(write(dir, "memory.max", number(l.MemoryBytes)), write(dir, "memory.oom.group", "1"))
	case "cpu":
		const period = 100_000 // µs
		most := "max"
		if l.CPUs > 0 {
			most = number(l.CPUs * period / 100)
		}
		return errors.Join(write(dir, "cpu.max", most+" "+strconv.Itoa(period)), write(dir, "cpu.weight", strconv.FormatUint(min(max(l.Weight, 1), 10000), 10)))
	case "pids":
		return write(dir, "pids.max", number(l.Processes))
	}
	return nil
}

// Starved says that something of the VM's newest attempt was ended because it wanted
// more memory than it may have.
func (t *Tree) Starved(uid string) bool {
	b, _ := os.ReadFile(filepath.Join(t.vm(uid), "memory.events"))
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok && strings.TrimSpace(n) != "0" {
			return true
		}
	}
	return false
}

// Remove removes a VM's cgroup. There may be none; nothing of the VM may be alive.
func (t *Tree) Remove(uid string) error { return remove(t.vm(uid)) }

func remove(dir string) error {
	below, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range below {
		if e.IsDir() {
			errs = append(errs, rmdir(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(append(errs, rmdir(dir))...)
}

func rmdir(dir string) error {
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the cgroup %s: %w", dir, err)
	}
	return nil
}

// Sweep removes the cgroups that are of none of these VMs and in which nothing is.
func (t *Tree) Sweep(uids []string) error {
	known := map[string]bool{t.Shims(): true, filepath.Join(t.own, lockName): true}
	for _, uid := range uids {
		known[t.vm(uid)] = true
	}
	all, err := os.ReadDir(t.own)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range all {
		dir := filepath.Join(t.own, e.Name())
		if !e.IsDir() || known[dir] {
			continue
		}
		if empty(dir) {
			errs = append(errs, remove(dir))
		}
	}
	return errors.Join(errs...)
}

// SweepOthers removes what daemons of other identities have left beside ours: those that
// were killed, and of which nothing lives. One that runs holds its own.
func (t *Tree) SweepOthers(ctx context.Context) error {
	all, err := filepath.Glob(filepath.Join(t.base, ours+"*"))
	errs := []error{err}
	for _, dir := range all {
		if ctx.Err() != nil {
			break
		}
		if dir != t.own {
			errs = append(errs, sweepOther(dir))
		}
	}
	return errors.Join(errs...)
}

func sweepOther(dir string) error {
	held := filepath.Join(dir, lockName)
	fd, err := lock(held, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.ENOENT) {
		return nil // it lives; or is of an older blixard, and nobody knows
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if !empty(dir) {
		return nil
	}
	below, err := os.ReadDir(dir)
	errs := []error{err}
	for _, e := range below {
		if e.IsDir() && e.Name() != lockName {
			errs = append(errs, remove(filepath.Join(dir, e.Name())))
		}
	}
	if err := errors.Join(append(errs, rmdir(held))...); err != nil {
		return err
	}
	_ = unix.Rmdir(dir) // unless its daemon has come back by now
	return nil
}

// empty says that there is no process in a cgroup, nor below it.
func empty(dir string) bool {
	events, _ := os.ReadFile(filepath.Join(dir, "cgroup.events"))
	return bytes.Contains(events, []byte("populated 0\n"))
}

func (t *Tree) letGo() {
	if t.held >= 0 {
		unix.Close(t.held)
	}
	t.held = -1
}

// Close removes what nothing is in: all of it, when no VM lives.
func (t *Tree) Close() {
	defer t.letGo()
	all, _ := os.ReadDir(t.own)
	if slices.ContainsFunc(all, func(e os.DirEntry) bool {
		return e.IsDir() && e.Name() != lockName && e.Name() != filepath.Base(t.Shims())
	}) {
		return // there are VMs; the lock stays, by which others know what to sweep
	}
	if unix.Rmdir(t.Shims()) == nil && unix.Rmdir(filepath.Join(t.own, lockName)) == nil && unix.Rmdir(t.own) == nil && t.made {
		_ = unix.Rmdir(t.base) // other daemons may be in it
	}
}
