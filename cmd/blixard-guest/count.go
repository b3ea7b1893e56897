//go:build linux && amd64

package main

import (
	"encoding/binary"
	"fmt"
	"os"
)

// A count is kept on a disk: number n in slot n of a ring, each in a page of its own,
// written and flushed before it is said. So whoever has heard of a number finds it
// there, and the ring's other slots hold the numbers before.
const (
	countSlots = 128
	countPage  = 4096
)

// countOn gives what writes a number down, and the first that is to be said: the one
// after what the disk holds. Without a disk nothing is written down.
func countOn(out *console, serial string) (put func(int) error, first int) {
	if serial == "" {
		return func(int) error { return nil }, 1
	}
	f, last, err := openCount(serial)
	if err != nil {
		return func(int) error { return err }, 1
	}
	out.say("disk %s has counted to %d", serial, last)
	return func(n int) error { return putCount(f, n) }, last + 1
}

func openCount(serial string) (*os.File, int, error) {
	dev, _, err := diskBySerial(serial)
	if err != nil {
		return nil, 0, err
	}
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		return nil, 0, err
	}
	last := 0
	slot := make([]byte, 8)
	for i := range int64(countSlots) {
		if _, err := f.ReadAt(slot, i*countPage); err != nil {
			return nil, 0, err
		}
		last = max(last, int(binary.LittleEndian.Uint64(slot)))
	}
	return f, last, nil
}

func putCount(f *os.File, n int) error {
	page := make([]byte, countPage)
	for i := 0; i < len(page); i += 8 {
		binary.LittleEndian.PutUint64(page[i:], uint64(n))
	}
	if _, err := f.WriteAt(page, int64(n%countSlots)*countPage); err != nil {
		return fmt.Errorf("count to %d: %w", n, err)
	}
	return f.Sync()
}
