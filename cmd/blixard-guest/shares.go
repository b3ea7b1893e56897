//go:build linux && amd64

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/guest/boot"
)

// In a share, the host's note is a file, and ours is another.
const (
	hostsNote  = "note-of-the-host"
	guestsNote = "note-of-the-guest"
)

// mountShares mounts folders of the host, says what is noted in them, and leaves a
// note of our own in those that can be written.
func mountShares(out *console, p boot.Params) {
	for _, tag := range strings.FieldsFunc(p.Share, func(r rune) bool { return r == ',' }) {
		if err := mountShare(out, tag, fmt.Sprintf("uid=%s attempt=%d\n", p.UID, p.Attempt)); err != nil {
			out.say("error: share %s: %v", tag, err)
		}
	}
}

func mountShare(out *console, tag, note string) error {
	dir := filepath.Join("/run", filepath.Base(tag))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(tag, dir, "virtiofs", 0, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	held, err := os.ReadFile(filepath.Join(dir, hostsNote))
	if err != nil {
		return err
	}
	out.say("share %s holds %q", tag, bytes.TrimSpace(held))
	err = os.WriteFile(filepath.Join(dir, guestsNote), []byte(note), 0o644)
	if errors.Is(err, unix.EROFS) {
		out.say("share %s is read-only", tag)
		return nil
	}
	if err != nil {
		return err
	}
	out.say("share %s has a note now", tag)
	return nil
}
