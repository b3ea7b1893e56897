package runner

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/blixard/blixard/vmm/runner/vmdir"
)

// layout says where things are; see the package's doc.
type layout struct{ run, state string }

func newLayout(c *Config) layout {
	return layout{filepath.Join(c.RunRoot, hashed(12, c.ClusterID, c.HostID)), c.StateDir}
}

// hashed is a short name for some words: sockets have room for 107 bytes.
func hashed(digits int, words ...string) string {
	h := sha256.New()
	for _, w := range words {
		fmt.Fprintf(h, "%d:%s", len(w), w)
	}
	return hex.EncodeToString(h.Sum(nil))[:digits]
}

func (l layout) runs() string            { return filepath.Join(l.run, "v") }
func (l layout) runOf(uid string) string { return filepath.Join(l.runs(), hashed(16, uid)) }
func (l layout) leases() string          { return filepath.Join(l.run, "leases") }
func (l layout) states() string          { return filepath.Join(l.state, "vms") }
func (l layout) trash() string           { return filepath.Join(l.state, "trash") }

// left has the files of VMs that the cluster has lost sight of, when it was restored from
// a backup of before they came here: they may be the only copy.
func (l layout) left() string { return filepath.Join(l.state, "left") }

func (l layout) stateOf(uid string) string { return filepath.Join(l.states(), uid) }
func (l layout) console(uid string) string { return filepath.Join(l.stateOf(uid), "console.log") }
func (l layout) build(uid string) string   { return filepath.Join(l.stateOf(uid), buildLogFile) }

// Sockets and files in a VM's run directory, besides those of package vmdir;
// none has a longer name than the shim's socket.
const (
	qmpSocket     = "qmp"
	consoleSocket = "con"
	agentSocket   = "agent"
	// A guest leaves and arrives by these; its disks leave by out.d0 and so on.
	outgoingSocket = "out"
	incomingSocket = "in"
	diskSocket     = "disks"
	qemuLog        = "qemu.log"
)

const buildLogFile = "build.log"

var errUID = errors.New("not the uid of a VM")

// checkUID refuses what would lead out of our directories.
func checkUID(uid string) error {
	ok := len(uid) > 0 && len(uid) <= 128 && uid[0] != '.' && uid[0] != '-'
	for _, c := range []byte(uid) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.", c) >= 0)
	}
	if !ok {
		return fmt.Errorf("%w: %.80q", errUID, uid)
	}
	return nil
}

// make makes the directories, and forgets what an earlier boot left in RUN:
// nothing of it can be alive.
func (l layout) make(boot string) error {
	if _, err := vmdir.SocketPath(l.runOf("")); err != nil {
		return err
	}
	bootFile := filepath.Join(l.run, "boot")
	if last, err := vmdir.ReadFile(bootFile, 100); err == nil && string(last) != boot {
		if err := errors.Join(os.RemoveAll(l.runs()), os.RemoveAll(l.leases())); err != nil {
			return fmt.Errorf("forget the last boot: %w", err)
		}
	}
	if err := os.WriteFile(bootFile, []byte(boot), 0o600); err != nil {
		return err
	}
	if err := os.RemoveAll(l.trash()); err != nil {
		return fmt.Errorf("empty the trash: %w", err)
	}
	for _, d := range []string{l.runs(), l.leases(), l.states(), l.trash(), l.left(), l.snapshots()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	return nil
}
