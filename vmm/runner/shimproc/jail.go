package shimproc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/shim"
)

const jailFlag = "-jail"

// Jail is a root directory for a program that goes into it by itself, as Firecracker's
// jailer does. It is a file system in memory, and what the program is shown of the host
// is mounted into it: all of it in a mount namespace that ends with the program. So
// nothing is linked or copied on the host, nothing has to be taken down, and whoever is
// killed at whatever moment leaves an empty folder.
type Jail struct {
	// At is an empty folder of ours, over which that file system is mounted; Root is
	// the folder in it that will be the program's root.
	At   string `json:"at"`
	Root string `json:"root"`
	// Bytes is what may be written into it, besides what is mounted.
	Bytes uint64  `json:"bytes"`
	Shown []Shown `json:"shown"`
}

// Shown is a file or a folder of the host, and where it is in the jail.
type Shown struct {
	From     string `json:"from"`
	To       string `json:"to"` // from the root on
	ReadOnly bool   `json:"readOnly,omitempty"`
}

// Argv is a command line that makes the jail and becomes the program, as the shim's
// user. It can be the first word of a step, or of a program that has steps.
func (j Jail) Argv(program ...string) ([]string, error) {
	text, err := json.Marshal(j)
	return append([]string{shim.Self, jailFlag, string(text), "--"}, program...), err
}

func jailMain(args []string) int {
	var j Jail
	if len(args) < 3 || args[1] != "--" || json.Unmarshal([]byte(args[0]), &j) != nil {
		return trouble(shim.CodeUsage, usage)
	}
	if err := j.make(); err != nil {
		return trouble(shim.StepFailed, fmt.Sprintf("blixard: the jail was not made: %v\n", err))
	}
	err := unix.Exec(args[2], args[2:], os.Environ())
	return trouble(shim.StepFailed, fmt.Sprintf("blixard: the jail was not made: %s: %v\n", args[2], err))
}

func (j Jail) make() error {
	if err := ownMounts(); err != nil {
		return err
	}
	// Devices are made in it, and the program runs from it.
	options := "mode=0700,nr_inodes=256,size=" + strconv.FormatUint(j.Bytes, 10)
	if err := unix.Mount("blixard-jail", j.At, "tmpfs", unix.MS_NOSUID, options); err != nil {
		return os.NewSyscallError("mount tmpfs on "+j.At, err)
	}
	mask := unix.Umask(0o022) // the program passes folders that are root's
	defer unix.Umask(mask)
	root := filepath.Join(j.At, j.Root)
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	for _, s := range j.Shown {
		if !filepath.IsLocal(s.To) {
			return fmt.Errorf("%q is no path in a jail", s.To)
		}
		if err := s.show(filepath.Join(root, s.To)); err != nil {
			return fmt.Errorf("show it %s as %s: %w", s.From, s.To, err)
		}
	}
	return nil
}

func (s Shown) show(at string) error {
	from, err := unix.Open(s.From, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	case unix.S_IFREG:
		if err := os.WriteFile(at, nil, 0o600); err != nil {
			return err
		}
	default:
		return errors.New("it is neither a plain file nor a folder")
	}
	attr := uint64(unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC)
	if s.ReadOnly {
		attr |= unix.MOUNT_ATTR_RDONLY
	}
	return graft(from, at, attr, 0)
}

// ownMounts gives this thread, and what it executes, mounts that nobody else sees.
func ownMounts() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	return os.NewSyscallError("mount", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
}

// graft mounts an open file or folder at a place.
func graft(from int, at string, attributes uint64, recursive uint) error {
	tree, err := unix.OpenTree(from, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|recursive)
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	defer unix.Close(tree)
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|recursive, &unix.MountAttr{Attr_set: attributes}); err != nil {
		return os.NewSyscallError("mount_setattr", err)
	}
	return os.NewSyscallError("move_mount", unix.MoveMount(tree, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH))
}
