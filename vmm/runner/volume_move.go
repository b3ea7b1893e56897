package runner

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/runner/vmdir"
)

// What becomes of a volume on its way here: see volumes.

// expect makes what a volume's content is written into that comes with its VM.
func (s *volumes) expect(o *blixardv1.VolumeOrder) error {
	// The order to receive it may have been overtaken by its end. Before the orders of
	// that time have come nothing was said to be gone, and its end is still to come.
	if s.revision >= o.Copy && !s.ordered(func(now *blixardv1.VolumeOrder) bool {
		return now.Uid == o.Uid && now.Copy == o.Copy && now.Arriving && !now.Remove
	}) {
		return errors.New("it is not expected here any more: the move has ended")
	}
	if s.has(o.Uid) {
		r, err := s.record(o.Uid)
		switch {
		case err != nil:
			return err
		case !r.Arriving:
			return fmt.Errorf("this host has one of that uid already, in %s, which the cluster does not know of: put that aside, and try again", s.dir(o.Uid))
		case s.isOpen(o.Uid):
			return fmt.Errorf("what came of it by migration %d is still open", r.Copy)
		}
		// Of a move that has ended. It was never the volume.
		if err := os.RemoveAll(s.dir(o.Uid)); err != nil {
			return err
		}
	}
	return s.create(o, blank(o))
}

func (s *volumes) ordered(is func(*blixardv1.VolumeOrder) bool) bool {
	for _, o := range s.orders {
		if is(o) {
			return true
		}
	}
	return false
}

// roomToCome says that there is no room for all that the volumes can hold which are to
// come.
func (s *volumes) roomToCome(mounts []*blixardv1.VolumeConfig) error {
	var bytes int64
	for _, m := range mounts {
		if m.GetVolume().GetArriving() {
			bytes += int64(m.Volume.SizeMib) << 20
		}
	}
	if bytes == 0 {
		return nil
	}
	return full(s.room(bytes), errDiskFull)
}

// arrived takes the mark from what has come by a migration: the right to run is here.
// It fails for what came by another one, which is not known to be whole.
func (s *volumes) arrived(uid string, copy uint64) error {
	r, err := s.record(uid)
	switch {
	case err != nil || !r.Arriving:
		return nil // what it is, who opens it finds out
	case r.Copy != copy:
		return fmt.Errorf("what is in %s came by migration %d, and never came to its end: it is not taken for the volume", s.dir(uid), r.Copy)
	}
	r.Arriving = false
	return vmdir.WriteJSON(s.dir(uid), volumeFile, r)
}

// land takes the marks from what a VM has open that came by a migration.
func (s *volumes) land(list []opened, migration uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range list {
		if err := s.arrived(o.Volume, migration); err != nil {
			return err
		}
	}
	return nil
}

// syncFile has what was written to a file be on the disk, whoever wrote it.
func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// syncDisks has all that has come of a guest's disks be on this host's, before anybody
// is told that it is here.
func (v *vm) syncDisks() error {
	var all []error
	for _, o := range v.rec.Volumes {
		if o.Writes {
			all = append(all, syncFile(v.h.volumes.disk(o.Volume)))
		}
	}
	own, err := filepath.Glob(filepath.Join(v.at.state, "disks", "*.raw"))
	for _, path := range own {
		all = append(all, syncFile(path))
	}
	return errors.Join(append(all, err)...)
}
