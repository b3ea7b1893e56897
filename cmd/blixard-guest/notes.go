//go:build linux && amd64

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/blixard/blixard/vmm/guest/boot"
)

// A note is a line at a place of its own on a disk, and at the disk's very end: it
// shows who has had the disk before, and that all of it is there.
const (
	noteBytes = 512
	noteAt    = 1 << 20
)

// leaveNotes says what is noted on disks, and leaves a note of our own on those
// that can be written.
func leaveNotes(out *console, p boot.Params) {
	for _, serial := range strings.FieldsFunc(p.Note, func(r rune) bool { return r == ',' }) {
		if err := leaveNote(out, serial, fmt.Sprintf("uid=%s attempt=%d", p.UID, p.Attempt)); err != nil {
			out.say("error: disk %s: %v", serial, err)
		}
	}
}

func leaveNote(out *console, serial, note string) error {
	dev, readOnly, err := diskBySerial(serial)
	if err != nil {
		return err
	}
	flag := os.O_RDWR | os.O_SYNC
	if readOnly {
		flag = os.O_RDONLY
	}
	f, err := os.OpenFile(dev, flag, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, 2)
	if err != nil {
		return err
	}
	held := make([]byte, noteBytes)
	if _, err := f.ReadAt(held, noteAt); err != nil {
		return err
	}
	out.say("disk %s of %d holds %q", serial, size, bytes.TrimRight(held, "\x00"))
	if readOnly {
		out.say("disk %s is read-only", serial)
		return nil
	}
	mine := make([]byte, noteBytes)
	copy(mine, note)
	for _, at := range []int64{noteAt, size - noteBytes} {
		if _, err := f.WriteAt(mine, at); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	out.say("disk %s has a note now", serial)
	return nil
}

func diskBySerial(serial string) (dev string, readOnly bool, err error) {
	disks, err := filepath.Glob("/sys/block/vd*")
	if err != nil {
		return "", false, err
	}
	for _, d := range disks {
		b, err := os.ReadFile(filepath.Join(d, "serial"))
		if err != nil || strings.TrimSpace(string(b)) != serial {
			continue
		}
		ro, err := os.ReadFile(filepath.Join(d, "ro"))
		return "/dev/" + filepath.Base(d), strings.TrimSpace(string(ro)) == "1", err
	}
	return "", false, fmt.Errorf("there is none with that serial among %d", len(disks))
}
