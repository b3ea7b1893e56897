package shimproc

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/shim"
)

const shareFlag = "-share"

// shareFD is the listening socket's descriptor, of the server's too.
const shareFD = 3

// shareMain becomes the program after --, which serves one folder of the host on a
// socket, and prepares what that may see:
//
//   - The folder is mounted at a place of the VM's, in a mount namespace that ends
//     with the program. What is shared is what was found by a path without a symbolic
//     link: a guest that writes in a folder can lead nobody out of it. For reading
//     only, the mount is: no server has to be believed that it refuses writes.
//   - The socket listens before the program runs, is the hypervisor's user's and
//     nobody else's, and is its descriptor 3.
func shareMain(args []string) int {
	var s sharing
	for len(args) > 1 && args[0] != "--" {
		switch args[0] {
		case "-source":
			s.source = args[1]
		case "-at":
			s.at = args[1]
		case "-socket":
			s.socket = args[1]
		case "-user":
			if s.user = parseUser(args[1]); s.user == nil {
				return trouble(shim.CodeUsage, usage)
			}
		case "-access":
			s.readOnly = args[1] != "rw"
		default:
			return trouble(shim.CodeUsage, usage)
		}
		args = args[2:]
	}
	if len(args) < 2 || args[0] != "--" {
		return trouble(shim.CodeUsage, usage)
	}
	if err := errors.Join(s.mount(), s.listen()); err != nil {
		return trouble(shim.CodeTrouble, fmt.Sprintf("blixard: share %s: %v\n", s.source, err))
	}
	err := unix.Exec(args[1], args[1:], os.Environ())
	return trouble(shim.CodeExec, fmt.Sprintf("blixard: share %s: %s: %v\n", s.source, args[1], err))
}

type sharing struct {
	source, at, socket string
	user               *shim.User // nil: ours
	readOnly           bool
}

func (s sharing) mount() error {
	if err := ownMounts(); err != nil {
		return err
	}
	folder, err := unix.Openat2(unix.AT_FDCWD, s.source, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return os.NewSyscallError("open it, without symbolic links on the way", err)
	}
	defer unix.Close(folder)
	attr := uint64(unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID)
	if s.readOnly {
		attr |= unix.MOUNT_ATTR_RDONLY
	}
	return graft(folder, s.at, attr, unix.AT_RECURSIVE)
}

func (s sharing) listen() error {
	if len(s.socket)+1 >= len(unix.RawSockaddrUnix{}.Path) {
		return fmt.Errorf("%s is too long for a socket", s.socket)
	}
	if err := unix.Unlink(s.socket); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	// It gets its name when whoever waits for that may connect.
	fresh := s.socket + "~"
	if err := unix.Unlink(fresh); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	mask := unix.Umask(0o177)
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: fresh})
	unix.Umask(mask)
	if err == nil && s.user != nil {
		err = unix.Lchown(fresh, int(s.user.UID), int(s.user.GID))
	}
	if err == nil {
		err = unix.Listen(fd, 1)
	}
	if err == nil {
		err = unix.Rename(fresh, s.socket)
	}
	if err != nil {
		return os.NewSyscallError("listen on "+s.socket, err)
	}
	if fd == shareFD {
		return nil
	}
	return os.NewSyscallError("dup3", unix.Dup3(fd, shareFD, 0))
}

// ShareStep is the step that serves a folder: user is who connects.
func ShareStep(source, at, socket string, readOnly bool, user *shim.User, server ...string) []string {
	access := "rw"
	if readOnly {
		access = "ro"
	}
	argv := []string{shim.Self, shareFlag, "-source", source, "-at", at, "-socket", socket, "-access", access}
	if user != nil {
		argv = append(argv, "-user", userArg(user))
	}
	return append(append(argv, "--"), server...)
}
