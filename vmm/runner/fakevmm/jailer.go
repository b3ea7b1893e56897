package fakevmm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Jailer is the name that a program is run under to be Firecracker's jailer. It does
// what that does, in its order, and really: so it must be root, and what it executes
// finds what is in its root directory and nothing else.
const Jailer = "jailer"

// jailerOptions are all that the real one has: whether each takes a value, whether it
// may be repeated, and whether we may use it. What hides Firecracker from its shim, or
// takes it out of its cgroup, we may not.
var jailerOptions = map[string]struct{ value, many, ours bool }{
	"id": {true, false, true}, "exec-file": {true, false, true}, "uid": {true, false, true}, "gid": {true, false, true},
	"chroot-base-dir": {true, false, true}, "netns": {true, false, false}, "daemonize": {}, "new-pid-ns": {},
	"cgroup": {true, true, false}, "cgroup-version": {true, false, false}, "parent-cgroup": {true, false, false},
	"resource-limit": {true, true, false}, "version": {},
}

// jail is the jailer's main; it does not return.
func (f *fake) jail(args []string) {
	runtime.LockOSThread() // mounts and users are this thread's, which executes
	words, rest := args, []string{}
	if i := slices.Index(args, "--"); i >= 0 {
		words, rest = args[:i], args[i+1:]
	}
	given := map[string]string{}
	for i := 0; i < len(words); i++ {
		name, is := strings.CutPrefix(words[i], "--")
		o, known := jailerOptions[name]
		_, twice := given[name]
		switch {
		case !is || !known:
			f.violate("the jailer knows no %q", words[i])
		case !o.ours:
			f.violate("--%s is no option of the jailer that we use", name)
		case twice && !o.many:
			f.violate("--%s is given twice", name)
		}
		if i++; i == len(words) || strings.HasPrefix(words[i], "--") {
			f.violate("--%s has no value", name)
		}
		given[name] = words[i]
	}
	for _, name := range []string{"id", "exec-file", "uid", "gid"} {
		if given[name] == "" {
			f.violate("the jailer must have --%s", name)
		}
	}
	if !identifier.MatchString(given["id"]) {
		f.violate("--id %s", given["id"])
	}
	uid, err1 := strconv.ParseUint(given["uid"], 10, 32)
	gid, err2 := strconv.ParseUint(given["gid"], 10, 32)
	if errors.Join(err1, err2) != nil || uid == 0 || gid == 0 {
		f.violate("a jail for --uid %s and --gid %s", given["uid"], given["gid"])
	}
	if given["chroot-base-dir"] == "" {
		given["chroot-base-dir"] = "/srv/jailer"
	}
	err := enter(given, rest, int(uid), int(gid))
	fmt.Fprintf(os.Stderr, "Failed to %v\n", err)
	os.Exit(1)
}

// enter becomes the program, in its jail.
func enter(given map[string]string, rest []string, uid, gid int) error {
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("call close range syscall: %w", err)
	}
	program, err := filepath.EvalSymlinks(given["exec-file"])
	if err != nil {
		return fmt.Errorf("canonicalize path %s: %w", given["exec-file"], err)
	}
	base, err := filepath.EvalSymlinks(given["chroot-base-dir"])
	if err != nil {
		return fmt.Errorf("canonicalize path %s: %w", given["chroot-base-dir"], err)
	}
	name := filepath.Base(program)
	root := filepath.Join(base, name, given["id"], "root")
	if err := os.MkdirAll(root, 0o777); err != nil {
		return fmt.Errorf("create directory %s: %w", root, err)
	}
	if err := copyProgram(program, filepath.Join(root, name), uid, gid); err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 2048, Max: 2048}); err != nil {
		return fmt.Errorf("set limit for resource: %w", err)
	}
	if err := pivot(root); err != nil {
		return err
	}
	for _, dir := range []string{"/", "/dev", "/dev/net", "/run"} {
		if err := errors.Join(os.MkdirAll(dir, 0o777), os.Chmod(dir, 0o700), os.Chown(dir, uid, gid)); err != nil {
			return fmt.Errorf("create directory %s: %w", dir, err)
		}
	}
	for _, d := range []struct {
		path         string
		major, minor uint32
	}{{"/dev/net/tun", 10, 200}, {"/dev/kvm", 10, 232}, {"/dev/urandom", 1, 9}} {
		err := unix.Mknod(d.path, unix.S_IFCHR|0o600, int(unix.Mkdev(d.major, d.minor)))
		if err = errors.Join(err, os.Chown(d.path, uid, gid)); err != nil {
			return fmt.Errorf("create %s via mknod inside the jail: %w", d.path, err)
		}
	}
	pid, err := os.OpenFile("/"+name+".pid", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return fmt.Errorf("open file /%s.pid: %w", name, err)
	}
	fmt.Fprint(pid, os.Getpid())
	for _, id := range []error{unix.Setgroups(nil), unix.Setresgid(gid, gid, gid), unix.Setresuid(uid, uid, uid)} {
		if id != nil {
			return fmt.Errorf("exec into Firecracker: %w", id)
		}
	}
	argv := append([]string{"/" + name, "--id", given["id"], "--start-time-us", "1", "--start-time-cpu-us", "2", "--parent-cpu-time-us", "3"}, rest...)
	return fmt.Errorf("exec into Firecracker: %w", unix.Exec(argv[0], argv, nil))
}

func copyProgram(from, to string, uid, gid int) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("open %s: %w", from, err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o755)
	if err != nil {
		return fmt.Errorf("open %s: %w", to, err)
	}
	defer out.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(out.Fd()), &st); err != nil || st.Nlink > 1 {
		return fmt.Errorf("copy to %s: it is a hard link", to)
	}
	if err := out.Chown(uid, gid); err != nil {
		return fmt.Errorf("change owner for %s: %w", to, err)
	}
	if _, err := io.Copy(out, in); err != nil {
		return fmt.Errorf("copy %s to %s: %w", from, to, err)
	}
	return nil
}

// pivot makes a folder the root of this thread.
func pivot(root string) error {
	for _, step := range []struct {
		failed string
		do     func() error
	}{
		{"unshare into new mount namespace", func() error { return unix.Unshare(unix.CLONE_NEWNS) }},
		{"change the propagation type to slave", func() error { return unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, "") }},
		{"bind mount the jail root directory", func() error { return unix.Mount(root, root, "", unix.MS_BIND|unix.MS_REC, "") }},
		{"set current directory", func() error { return unix.Chdir(root) }},
		{"create the jail root directory before pivoting root", func() error { return unix.Mkdir("old_root", 0o600) }},
		{"pivot root", func() error { return unix.PivotRoot(".", "old_root") }},
		{"chdir into chroot directory", func() error { return unix.Chdir("/") }},
		{"unmount the old jail root", func() error { return unix.Unmount("old_root", unix.MNT_DETACH) }},
		{"remove old jail root directory", func() error { return unix.Rmdir("old_root") }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.failed, err)
		}
	}
	return nil
}

// jailed holds what the jailer adds to Firecracker's command line, and the world that
// it left it, to what that is to be; without a jail there is nothing to hold.
func (f *fake) jailed(options map[string][]string) {
	if _, in := options["start-time-us"]; !in {
		return
	}
	for _, name := range []string{"start-time-us", "start-time-cpu-us", "parent-cpu-time-us"} {
		if _, err := strconv.ParseUint(f.one(options, name), 10, 64); err != nil {
			f.violate("--%s: %v", name, err)
		}
	}
	groups, err := os.Getgroups()
	dir, err2 := os.Getwd()
	switch {
	case errors.Join(err, err2) != nil || len(groups) != 0 || os.Getuid() == 0 || os.Getgid() == 0:
		f.violate("in its jail it is %d, of %d and %v", os.Getuid(), os.Getgid(), groups)
	case len(os.Environ()) != 0 || dir != "/":
		f.violate("in its jail it is in %s, with %v", dir, os.Environ())
	}
	names, err := os.ReadDir("/")
	if err != nil {
		f.violate("its root: %v", err)
	}
	for _, n := range names {
		known := []string{"config.json", "dev", "disks", "firecracker", "firecracker.pid", "initrd", "kernel", "run", "saved", "snapshot", "vmm.log", "volumes"}
		if !slices.Contains(known, n.Name()) {
			f.violate("its root has %s", n.Name())
		}
	}
}
