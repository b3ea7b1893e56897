package runner

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/runner/vmdir"
)

// A volume is a directory of its own, beside those of the VMs:
//
//	STATE/volumes/<uid>/volume.json   what it is
//	STATE/volumes/<uid>/disk          what it holds
//	STATE/volumes/<uid>.new/          one that is being made, or was when we were killed
//
// It comes to be by a rename, whole, and goes by one. Nothing but an order to remove
// just this uid removes it: what nobody ordered is reported, and stays.
//
// One that comes with a VM that is moved live is marked with the migration before its
// first byte comes. While the mark stands it is no volume, whatever it holds: no guest
// is started with it, and nobody reads it. The mark goes, durably, before the guest runs
// here, or when the cluster says that the volume came here by that migration. Until this
// host has said that it has gone, the host that it came from keeps its own.
//
// A VM has its volumes open from before its start until nothing of it is alive.
// Meanwhile no other VM here gets one that it writes, whatever the orders say: after
// a restore of the cluster from a backup, what is being ended may be in the way of
// what is to start.
type volumes struct {
	at, trash string
	observe   func(core.Observed)
	warn      func(what string, err error)
	q         *queue // orders, one after the other

	mu       sync.Mutex
	revision uint64 // of the orders that were carried out
	orders   []*blixardv1.VolumeOrder
	open     map[string]map[string]bool // by volume and VM: it writes
	made     map[string]bool            // it was here in this daemon's life
	busy     map[string]string          // why it cannot be touched just now: it is being written, or read
	failed   map[string]string          // by volume: what was wrong the last time
	said     *blixardv1.VolumeInventory
}

// opened is one volume of an instance, as its record keeps it.
type opened struct {
	Volume string `json:"volume"`
	Writes bool   `json:"writes,omitempty"`
}

const (
	volumeFile  = "volume.json"
	volumeDisk  = "disk"
	newVolume   = ".new"
	volumeAgain = 30 * time.Second // when what failed is tried again
)

// volumeRecord is volume.json: enough to know what it is without any cluster.
type volumeRecord struct {
	Version int                    `json:"version"`
	Uid     string                 `json:"uid"`
	Name    string                 `json:"name"`
	Format  blixardv1.VolumeFormat `json:"format"`
	// Copy is the migration by which it came, and Arriving its mark: see volumes.
	Copy     uint64 `json:"copy,omitempty"`
	Arriving bool   `json:"arriving,omitempty"`
}

func newVolumes(state, trash string, observe func(core.Observed), warn func(string, error)) *volumes {
	return &volumes{
		at: filepath.Join(state, "volumes"), trash: trash, observe: observe, warn: warn, q: newQueue(),
		open: map[string]map[string]bool{}, busy: map[string]string{}, made: map[string]bool{}, failed: map[string]string{},
	}
}

// begin removes what was never finished, and says what is here.
func (s *volumes) begin() (*blixardv1.VolumeInventory, error) {
	if err := os.MkdirAll(s.at, 0o700); err != nil {
		return nil, err
	}
	half, err := filepath.Glob(filepath.Join(s.at, "*"+newVolume))
	if err != nil {
		return nil, err
	}
	for _, dir := range half {
		if err := os.RemoveAll(dir); err != nil {
			return nil, fmt.Errorf("remove a volume that was never whole: %w", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inventory()
}

func (s *volumes) dir(uid string) string  { return filepath.Join(s.at, uid) }
func (s *volumes) disk(uid string) string { return filepath.Join(s.at, uid, volumeDisk) }

// keep carries out orders, and says what came of that.
func (s *volumes) keep(orders []*blixardv1.VolumeOrder, revision uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if revision < s.revision {
		return
	}
	s.orders, s.revision = orders, revision
	s.carryOut()
	s.say(true)
}

// again tries once more what could not be done, and says what has changed.
func (s *volumes) again() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.carryOut()
	s.say(false)
}

func (s *volumes) carryOut() {
	clear(s.failed)
	for _, o := range s.orders {
		err := checkUID(o.GetUid())
		if err == nil && !o.Remove && !o.Arriving && s.has(o.Uid) {
			s.made[o.Uid] = true
			err = s.arrived(o.Uid, o.Copy)
		}
		switch {
		case err != nil:
		case o.Remove:
			err = s.remove(o)
		case o.Arriving: // it comes with its VM
		case s.isOpen(o.Uid) || s.busy[o.Uid] != "": // it grows when the VM that has it starts again
		case o.Written && !o.Made && !s.has(o.Uid): // it comes by itself
		default:
			if err = s.ensure(o); err == nil {
				s.made[o.Uid] = true
			}
		}
		if err != nil {
			s.failed[o.Uid] = err.Error()
			s.warn("a volume is not as it should be", err)
		}
	}
}

func (s *volumes) isOpen(uid string) bool { return len(s.open[uid]) > 0 }

func (s *volumes) has(uid string) bool {
	_, err := os.Lstat(s.dir(uid))
	return err == nil
}

// ensure makes a volume that is not there, and one larger that is too small.
func (s *volumes) ensure(o *blixardv1.VolumeOrder) (err error) {
	defer func() {
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG) {
			err = fmt.Errorf("%w: volume %s: %w", errDiskFull, o.Name, err)
		} else if err != nil {
			err = fmt.Errorf("volume %s: %w", o.Name, err)
		}
	}()
	switch {
	case s.has(o.Uid):
		if err := s.arrived(o.Uid, o.Copy); err != nil {
			return err
		}
		return s.grow(o)
	case o.Made || s.made[o.Uid]:
		return fmt.Errorf("this host had it, and %s is gone: who has removed it? It is not made again", s.dir(o.Uid))
	case o.Written:
		return errors.New("what it holds has not come yet")
	}
	size := int64(o.SizeMib) << 20
	if err := s.room(size); err != nil {
		return err
	}
	return s.create(o, blank(o))
}

// blank fills the file of a volume that holds nothing.
func blank(o *blixardv1.VolumeOrder) func(*os.File) error {
	size := int64(o.SizeMib) << 20
	return func(f *os.File) error {
		if o.Format == blixardv1.VolumeFormat_VOLUME_FORMAT_QCOW2 {
			return makeQcow2(f, size)
		}
		return f.Truncate(size)
	}
}

// room says that there is no room for so many bytes more. It may be gone a moment
// later: files are sparse, and nothing is reserved.
func (s *volumes) room(bytes int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(s.at, &st); err != nil {
		return err
	}
	if free := int64(st.Bavail) * st.Bsize; bytes > free {
		return fmt.Errorf("%d MiB are needed and %d are free: %w", bytes>>20, free>>20, unix.ENOSPC)
	}
	return nil
}

// create makes a volume whole, or not at all.
func (s *volumes) create(o *blixardv1.VolumeOrder, fill func(*os.File) error) error {
	tmp := s.dir(o.Uid) + newVolume
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	f, err := os.OpenFile(filepath.Join(tmp, volumeDisk), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := vmdir.WriteJSON(tmp, volumeFile, volumeRecord{1, o.Uid, o.Name, o.Format, o.Copy, o.Arriving}); err != nil {
		return err
	}
	if err := os.Rename(tmp, s.dir(o.Uid)); err != nil {
		return err
	}
	return syncDir(s.at)
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// grow makes a volume that nobody has open as large as it should be.
func (s *volumes) grow(o *blixardv1.VolumeOrder) error {
	is, err := s.look(o.Uid)
	if err != nil {
		return err
	}
	if is.Format != max(o.Format, blixardv1.VolumeFormat_VOLUME_FORMAT_RAW) {
		return fmt.Errorf("it should be %v, and %s says that it is %v", o.Format, s.dir(o.Uid), is.Format)
	}
	if is.SizeMib >= o.SizeMib {
		return nil
	}
	size := int64(o.SizeMib) << 20
	if err := s.room(size - int64(is.SizeMib)<<20); err != nil {
		return err
	}
	f, err := os.OpenFile(s.disk(o.Uid), os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := inUse(f); err != nil {
		return err
	}
	if is.Format == blixardv1.VolumeFormat_VOLUME_FORMAT_QCOW2 {
		err = growQcow2(f, size)
	} else {
		err = f.Truncate(size)
	}
	return errors.Join(err, f.Sync())
}

// inUse asks the kernel whether another process has a lock on a file, as QEMU and
// cloud-hypervisor have on every disk.
func inUse(f *os.File) error {
	l := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l); err != nil {
		return err
	}
	if l.Type != unix.F_UNLCK {
		return errors.New("another process has it open")
	}
	return nil
}

// remove removes a volume that nobody has open.
func (s *volumes) remove(o *blixardv1.VolumeOrder) error {
	why := s.busy[o.Uid]
	if !s.has(o.Uid) && why == "" {
		return nil
	}
	// An order that is about another copy, or about one on its way that has arrived since,
	// is older than what is here. What cannot be told apart goes by its uid.
	if r, err := s.record(o.Uid); err == nil && (r.Copy != o.Copy || o.Arriving && !r.Arriving) || err != nil && o.Arriving {
		return nil
	}
	for vm := range s.open[o.Uid] {
		why = "VM " + vm + " has it open"
	}
	if f, err := os.OpenFile(s.disk(o.Uid), os.O_RDWR|unix.O_NOFOLLOW, 0); err == nil && why == "" {
		if err := inUse(f); err != nil {
			why = err.Error()
		}
		f.Close()
	}
	if why != "" {
		return fmt.Errorf("volume %s cannot be removed: %s", o.Name, why)
	}
	delete(s.made, o.Uid)
	trash := filepath.Join(s.trash, fmt.Sprintf("volume.%s.%d", o.Uid, time.Now().UnixNano()))
	if err := errors.Join(os.Rename(s.dir(o.Uid), trash), syncDir(s.at)); err != nil {
		return err
	}
	if err := os.RemoveAll(trash); err != nil {
		s.warn("a removed volume's file is deleted at the next start", err)
	}
	return nil
}

// record reads volume.json.
func (s *volumes) record(uid string) (r volumeRecord, err error) {
	b, err := vmdir.ReadFile(filepath.Join(s.dir(uid), volumeFile), 64<<10)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil || r.Uid != uid {
		return r, fmt.Errorf("%s in %s is not that of a volume: %w", volumeFile, s.dir(uid), cmp.Or(err, errors.New("it names another")))
	}
	return r, nil
}

// look says what a volume is that is here.
func (s *volumes) look(uid string) (*blixardv1.VolumeReport, error) {
	r, err := s.record(uid)
	if err != nil {
		return nil, err
	}
	out := &blixardv1.VolumeReport{Uid: uid, Name: strings.ToValidUTF8(r.Name, "?"), Format: r.Format, Copy: r.Copy, Arriving: r.Arriving}
	f, err := os.OpenFile(s.disk(uid), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return out, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return out, err
	}
	if !st.Mode().IsRegular() {
		return out, fmt.Errorf("%s is no plain file", s.disk(uid))
	}
	size := st.Size()
	if r.Format == blixardv1.VolumeFormat_VOLUME_FORMAT_QCOW2 {
		if size, err = qcow2Size(f); err != nil {
			return out, err
		}
	}
	out.SizeMib = uint64(size) >> 20
	return out, nil
}

// inventory is everything that is here, and what could not be made.
func (s *volumes) inventory() (*blixardv1.VolumeInventory, error) {
	entries, err := os.ReadDir(s.at)
	if err != nil {
		return nil, err
	}
	inv := &blixardv1.VolumeInventory{Revision: s.revision}
	here := map[string]bool{}
	for _, e := range entries {
		uid := e.Name()
		if !e.IsDir() || checkUID(uid) != nil || strings.HasSuffix(uid, newVolume) {
			continue
		}
		here[uid] = true
		r, err := s.look(uid)
		if r == nil {
			r = &blixardv1.VolumeReport{Uid: uid}
		}
		if r.Error = s.failed[uid]; r.Error == "" && err != nil {
			r.Error = err.Error()
		}
		r.Error = strings.ToValidUTF8(r.Error, "?")
		inv.Volumes = append(inv.Volumes, r)
	}
	for _, o := range s.orders {
		if why := s.failed[o.Uid]; why != "" && !here[o.Uid] {
			inv.Volumes = append(inv.Volumes, &blixardv1.VolumeReport{Uid: o.Uid, Name: o.Name, Format: o.Format, Absent: true, Error: strings.ToValidUTF8(why, "?")})
		}
	}
	slices.SortFunc(inv.Volumes, func(a, b *blixardv1.VolumeReport) int { return strings.Compare(a.Uid, b.Uid) })
	return inv, nil
}

// say reports the inventory, when it is asked for or is another than was said.
func (s *volumes) say(always bool) {
	inv, err := s.inventory()
	if err != nil {
		s.warn("the volumes cannot be listed", err)
		return
	}
	if always || !proto.Equal(inv, s.said) {
		s.said = inv
		s.observe(core.Observed{Volumes: inv})
	}
}

// take opens the volumes of a VM that is about to start: they are there, as large as
// they should be, and no other VM here has one that either writes. It returns their
// files, in order.
func (s *volumes) take(vm string, mounts []*blixardv1.VolumeConfig) (list []disk, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() {
		if err != nil {
			s.release(vm)
		}
		s.say(false)
	}()
	if err := s.roomToCome(mounts); err != nil {
		return nil, err
	}
	for _, m := range mounts {
		o := m.GetVolume()
		if err := checkUID(o.GetUid()); err != nil {
			return nil, err
		}
		if err := checkDisk(&blixardv1.Disk{Name: m.Disk, SizeMib: o.SizeMib}); err != nil {
			return nil, err
		}
		if why := s.busy[o.Uid]; why != "" {
			return nil, fmt.Errorf("volume %s cannot be opened: %s", o.Name, why)
		}
		for other, writes := range s.open[o.Uid] {
			if other != vm && (writes || !m.ReadOnly) {
				return nil, fmt.Errorf("volume %s is open: VM %s has it, and is not dead yet", o.Name, other)
			}
		}
		if o.Arriving {
			if err := s.expect(o); err != nil {
				return nil, fmt.Errorf("volume %s: %w", o.Name, full(err, errDiskFull))
			}
		} else if !s.isOpen(o.Uid) {
			if err := s.ensure(o); err != nil {
				return nil, err
			}
		}
		s.hold(vm, opened{o.Uid, !m.ReadOnly})
		format := "raw"
		if o.Format == blixardv1.VolumeFormat_VOLUME_FORMAT_QCOW2 {
			format = "qcow2"
		}
		list = append(list, disk{name: m.Disk, path: s.disk(o.Uid), readOnly: m.ReadOnly, format: format, rate: m.Limit.GetBytesPerSecond(), ops: m.Limit.GetOpsPerSecond()})
	}
	return list, nil
}

// hold notes that a VM has a volume open.
func (s *volumes) hold(vm string, o opened) {
	if s.open[o.Volume] == nil {
		s.open[o.Volume] = map[string]bool{}
	}
	s.open[o.Volume][vm] = s.open[o.Volume][vm] || o.Writes
}

// adopt takes over what a VM has open that an earlier daemon started.
func (s *volumes) adopt(vm string, list []opened) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range list {
		s.hold(vm, o)
	}
}

// drop says that nothing of a VM is alive: what it had open may grow now, or go.
func (s *volumes) drop(vm string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.release(vm) {
		s.q.put(s.again)
	}
}

func (s *volumes) release(vm string) (some bool) {
	for uid, by := range s.open {
		if _, has := by[vm]; !has {
			continue
		}
		some = true
		if delete(by, vm); len(by) == 0 {
			delete(s.open, uid)
		}
	}
	return some
}

// opensOf are the volumes that an assignment opens.
func opensOf(a *blixardv1.Assignment) (list []opened) {
	for _, m := range a.GetVolumes() {
		list = append(list, opened{m.GetVolume().GetUid(), !m.ReadOnly})
	}
	return list
}
