package runner

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/core"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/vmdir"
	"github.com/blixard/blixard/vmm/shim"
)

// A snapshot is a folder:
//
//	STATE/snapshots/<uid>/manifest.json   what it is, and what every file holds
//	STATE/snapshots/<uid>/memory          of QEMU: the guest's memory and devices
//	STATE/snapshots/<uid>/vm/...          of the others: what they make of it
//	STATE/snapshots/<uid>/disks/*.raw     the VM's disks at that moment
//	STATE/snapshots/<uid>.new             one that is being taken
//
// It is taken while the guest stands still, and gets its name when all of it is on
// the disk. What has no name is of nobody, and removed when the daemon starts.
//
// A start from a snapshot puts copies of its disks into the place of the VM's own,
// which are kept beside (disks.before) until the guest goes on. Up to then a start
// that fails puts them back; from then on it is never done again.
type snapshots struct {
	mu     sync.Mutex
	keep   *vmm.KeepList                 // nil: nobody has said yet which to keep
	taking map[string]context.CancelFunc // those under way, by uid
	owed   uint64                        // revision of a list that is carried out when those have ended that it has not
}

// saver is a session whose guest's memory can be kept in files.
type saver interface {
	// save writes the memory of a guest that is paused into a folder. The guest stays
	// paused, and its disks are as it has written them.
	save(ctx context.Context, dir string) error
	// load reads what save has written, into an instance that revive has prepared. Its
	// guest is paused then.
	load(ctx context.Context, dir string) error
}

// stalled is how long nothing of a guest may come through before it is given up.
var stalled = 20 * time.Second

// reviver is a driver whose sessions are savers.
type reviver interface {
	// revive is like prepare, but what is executed waits for load, of the snapshot in
	// a folder.
	revive(ctx context.Context, p place, a *blixardv1.Assignment, i shim.Instance, dir string) (command, error)
	// machineName says what a guest's memory belongs to, besides the version: only the
	// same one can go on with it.
	machineName(*blixardv1.VMSpec) string
}

// counted is a driver whose guests read this host's counter, and were told how fast it
// runs.
type counted interface{ counter() string }

// goesOn says what keeps a driver of this host from a snapshot's memory, of a guest on
// such a machine.
func (m *manifest) goesOn(d driver, h blixardv1.Hypervisor, version string, machines ...string) error {
	if _, can := d.(reviver); !can || m.Hypervisor != h || m.Version != version || !slices.Contains(machines, m.Machine) {
		return fmt.Errorf("the snapshot is of %s on %s, and only the same can go on with it: here is %s on %s", m.Version, m.Machine, version, strings.Join(machines, " or "))
	}
	if d, reads := d.(counted); reads && m.Counter != "" && !near(m.Counter, d.counter()) {
		return fmt.Errorf("the guest reads its host's counter, which ran at %s kHz there, and here at %s: its clock would be wrong", strings.TrimPrefix(m.Counter, "tsc="), strings.TrimPrefix(d.counter(), "tsc="))
	}
	return nil
}

// underKVM is a machine whose guest sees this host's own processor.
func underKVM(machine string) string { return machine + ", kvm, processor " + cpuModel() }

func (l layout) snapshots() string             { return filepath.Join(l.state, "snapshots") }
func (l layout) snapshotOf(uid string) string  { return filepath.Join(l.snapshots(), uid) }
func (l layout) snapshotNew(uid string) string { return l.snapshotOf(uid) + newSuffix }

const (
	newSuffix    = ".new"
	manifestFile = "manifest.json"
	memoryFile   = "memory"
	vmFolder     = "vm"
	disksFolder  = "disks"
	disksNew     = "disks.new"
	disksBefore  = "disks.before"
)

// manifest is manifest.json.
type manifest struct {
	Instance   shim.Instance        `json:"instance"`
	Hypervisor blixardv1.Hypervisor `json:"hypervisor"`
	Version    string               `json:"version"`
	Machine    string               `json:"machine"`
	PausedMs   uint32               `json:"pausedMs"`
	// Counter is how fast the host's counter runs that the guest reads, as a word of a
	// shape; empty where it reads none, and of snapshots of older versions.
	Counter string      `json:"counter,omitempty"`
	Files   []savedFile `json:"files"`
	// Key of a saved boot: see warm.go.
	Key string `json:"key,omitempty"`
}

// savedFile is one file of a snapshot. Its sum is of what is not zero, and where.
type savedFile struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	Sum  string `json:"sha256"`
}

var (
	errNoSnapshot   = errors.New("the snapshot's files are not here any more")
	errSnapshotFull = errors.New("no space for it: free some on the host's disk")
)

// readManifest gives what a snapshot that is here holds.
func readManifest(dir string) (*manifest, *blixardv1.SnapshotImage, error) {
	b, err := vmdir.ReadFile(filepath.Join(dir, manifestFile), 1<<20)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, errNoSnapshot
	}
	if err != nil {
		return nil, nil, err
	}
	m := new(manifest)
	if err := json.Unmarshal(b, m); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", manifestFile, err)
	}
	sum := sha256.Sum256(b)
	return m, &blixardv1.SnapshotImage{
		SizeBytes: uint64(blocksOf(dir)), Sha256: hex.EncodeToString(sum[:]), Version: m.Version, Machine: m.Machine, PausedMs: m.PausedMs,
	}, nil
}

func writeManifest(dir string, m *manifest) error { return vmdir.WriteJSON(dir, manifestFile, m) }

// snapshot takes one.
func (v *vm) snapshot(ctx context.Context, a vmm.Action) (*blixardv1.SnapshotImage, error) {
	if err := checkUID(a.Snapshot); err != nil {
		return nil, err
	}
	v.settle()
	if _, image, err := readManifest(v.h.at.snapshotOf(a.Snapshot)); err == nil {
		return image, nil // an earlier daemon has taken it
	}
	if !v.alive || !v.ready {
		return nil, errors.New("the VM does not run")
	}
	if err := v.mine(a.Instance); err != nil {
		return nil, err
	}
	if v.leaving != nil || v.rec.Incoming || v.rec.HandedOver != 0 {
		return nil, errElsewhere
	}
	s, can := v.session.(saver)
	d, err := v.h.driverOf(v.rec)
	r, known := d.(reviver)
	if err != nil || !can || !known {
		return nil, errors.New("what runs it takes no snapshots")
	}
	ctx, cancel := v.stoppable(ctx, &v.stopSave)
	defer cancel()
	if err := v.h.snapshots.begin(a.Snapshot, cancel); err != nil {
		return nil, err
	}
	defer v.h.endSnapshot(a.Snapshot)
	tmp := v.h.at.snapshotNew(a.Snapshot)
	defer os.RemoveAll(tmp)
	m := &manifest{Instance: v.rec.Instance, Hypervisor: v.rec.Hypervisor, Version: v.h.versions[v.rec.Hypervisor], Machine: cmp.Or(v.rec.Machine, r.machineName(a.Assignment.GetSpec()))}
	if d, reads := d.(counted); reads {
		m.Counter = d.counter()
	}
	if err := v.freezeInto(ctx, s, a.Assignment.GetSpec(), tmp, m); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", errOvertaken, err)
		}
		return nil, full(err, errSnapshotFull)
	}
	if m.Files, err = sums(ctx, tmp); err == nil {
		err = writeManifest(tmp, m)
	}
	if err == nil {
		err = syncTree(tmp)
	}
	if err == nil {
		err = v.h.snapshots.name(tmp, v.h.at.snapshotOf(a.Snapshot), a.Snapshot)
	}
	if err != nil {
		return nil, full(err, errSnapshotFull)
	}
	_, image, err := readManifest(v.h.at.snapshotOf(a.Snapshot))
	return image, err
}

// freezeInto writes the guest and its disks down, of one moment: the guest stands
// still all the while, and afterwards does what it did before.
func (v *vm) freezeInto(ctx context.Context, s saver, spec *blixardv1.VMSpec, tmp string, m *manifest) error {
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(tmp, disksFolder), 0o700); err != nil {
		return err
	}
	disks := v.rec.Disks
	if disks == nil { // an older daemon has started it
		disks = ownDisks(spec)
	}
	need := int64(max(spec.GetMemoryMib(), v.rec.BootMiB, 1)) << 20
	for _, name := range disks {
		need += blocksOf(diskPath(v.at.state, name))
	}
	if err := room(tmp, need); err != nil {
		return err
	}
	was := v.paused
	begin := time.Now()
	if !was {
		v.still.stand(true)
		defer v.still.stand(false)
		if err := v.whether(ctx, v.session.pause); err != nil {
			return fmt.Errorf("pause it: %w", err)
		}
		v.paused = true
	}
	var err error
	if v.rec.User != nil { // which may write it
		err = v.h.pass(v.rec.User.GID, filepath.Join(tmp, vmFolder))
	}
	if err == nil {
		err = s.save(ctx, tmp)
	}
	for _, name := range disks {
		if err == nil {
			err = copyFile(ctx, diskPath(v.at.state, name), filepath.Join(tmp, disksFolder, name+".raw"))
		}
	}
	if !was {
		// Whatever became of it, the guest goes on; if it does not, whoever looks next
		// sees that it is paused, and has it go on.
		if goOn := v.whether(context.WithoutCancel(ctx), v.session.resume); goOn == nil {
			v.paused = false
		} else if v.settle(); v.alive {
			v.h.cfg.Log.Warn("a VM of which a snapshot was taken does not go on yet", "vm", v.rec.Instance, "err", goOn)
		}
	}
	m.PausedMs = uint32(time.Since(begin).Milliseconds())
	return err
}

// ownDisks are the VM's own that its guest may write; never nil.
func ownDisks(spec *blixardv1.VMSpec) []string {
	names := []string{}
	for _, d := range spec.GetImage().GetDisks() {
		if !d.ReadOnly {
			names = append(names, d.Name)
		}
	}
	return names
}

func (v *vm) whether(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	return do(ctx)
}

// begin notes that a snapshot is under way.
func (s *snapshots) begin(uid string, cancel context.CancelFunc) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keep != nil && !s.keep.Wants(uid) {
		return errOvertaken
	}
	if s.taking == nil {
		s.taking = map[string]context.CancelFunc{}
	}
	s.taking[uid] = cancel
	return nil
}

// endSnapshot: nothing of it is there that has no name.
func (h *Host) endSnapshot(uid string) {
	s := &h.snapshots
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.taking, uid)
	h.sayKept()
}

// sayKept says which list is carried out, unless something is under way that it does
// not have. The caller holds the lock.
func (h *Host) sayKept() {
	s := &h.snapshots
	for uid, cancel := range s.taking {
		if s.keep != nil && !s.keep.Wants(uid) {
			cancel()
			return
		}
	}
	if s.owed != 0 {
		h.observe(core.Observed{Kept: s.owed, Missing: h.missing(s.keep)})
		s.owed = 0
	}
}

// missing are the snapshots on a list that are not here, or have no manifest.
func (h *Host) missing(k *vmm.KeepList) (uids []string) {
	for _, uid := range k.UIDs {
		if _, err := os.Lstat(filepath.Join(h.at.snapshotOf(uid), manifestFile)); errors.Is(err, os.ErrNotExist) {
			uids = append(uids, uid)
		}
	}
	return uids
}

// name makes a folder a snapshot, unless that is not wanted any more.
func (s *snapshots) name(tmp, dir, uid string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keep != nil && !s.keep.Wants(uid) {
		return errOvertaken
	}
	if err := os.RemoveAll(dir); err != nil { // one without a manifest
		return err
	}
	return errors.Join(os.Rename(tmp, dir), syncDir(filepath.Dir(dir)))
}

// keepSnapshots removes the snapshots that are not to be kept. It runs in the
// grants' queue: what is ordered after it finds it done.
func (h *Host) keepSnapshots(k *vmm.KeepList) {
	s := &h.snapshots
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keep = k
	entries, err := os.ReadDir(h.at.snapshots())
	if err != nil {
		h.warn("snapshots cannot be listed", err)
		return
	}
	for _, e := range entries {
		uid := e.Name()
		if filepath.Ext(uid) == newSuffix || k.Wants(uid) {
			continue
		}
		trash := filepath.Join(h.at.trash(), fmt.Sprintf("snapshot.%s.%d", uid, time.Now().UnixNano()))
		err := os.Rename(h.at.snapshotOf(uid), trash)
		if err == nil {
			err = os.RemoveAll(trash)
		}
		if err != nil {
			h.warn("a snapshot was not removed", err)
			return // so it is not said to be gone
		}
		h.cfg.Log.Info("a snapshot is removed", "uid", uid)
	}
	s.owed = k.Revision
	h.sayKept()
}

// clearSnapshots removes what an earlier daemon did not finish.
func (h *Host) clearSnapshots() error {
	left, err := filepath.Glob(filepath.Join(h.at.snapshots(), "*"+newSuffix))
	jailed, err2 := filepath.Glob(filepath.Join(h.at.states(), "*", savedFolder, "*"))
	err = errors.Join(err, err2)
	for _, dir := range append(left, jailed...) {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// revive puts copies of a snapshot's disks into the place of the VM's own, and notes
// that. With memory it gives the folder to load from. What is to be restored is
// checked before anything of the VM's is touched.
func (v *vm) revive(ctx context.Context, d driver, name string, from *blixardv1.RestoreFrom, r *record) error {
	if err := checkUID(from.Uid); err != nil {
		return err
	}
	dir := v.h.at.snapshotOf(from.Uid)
	m, _, err := readManifest(dir)
	if err != nil {
		return err
	}
	if from.Memory {
		if err := m.goesOn(d, r.Hypervisor, v.h.versions[r.Hypervisor], r.Machine); err != nil {
			return err
		}
	}
	if err := checkSums(ctx, dir, m); err != nil {
		return err
	}
	for _, name := range r.Disks { // one that is missing would be made anew, and empty
		file := filepath.Join(disksFolder, name+".raw")
		if !slices.ContainsFunc(m.Files, func(f savedFile) bool { return f.Name == file }) {
			return fmt.Errorf("the VM has a disk %s, and the snapshot has none", name)
		}
	}
	next := filepath.Join(v.at.state, disksNew)
	if err := errors.Join(os.RemoveAll(next), os.MkdirAll(next, 0o700)); err != nil {
		return err
	}
	defer os.RemoveAll(next)
	if err := room(next, blocksOf(filepath.Join(dir, disksFolder))); err != nil {
		return err
	}
	for _, f := range m.Files {
		if name, ok := inFolder(f.Name, disksFolder); ok {
			if err := copyFile(ctx, filepath.Join(dir, f.Name), filepath.Join(next, name)); err != nil {
				return err
			}
		}
	}
	if err := syncTree(next); err != nil {
		return err
	}
	// From here on, whoever finds the VM puts back what was there, unless it is noted
	// that the guest has gone on.
	r.Restoring = from.Index
	if from.Memory {
		r.Untold = name
	}
	if err := r.write(v.at.state); err != nil {
		return err
	}
	own := filepath.Join(v.at.state, disksFolder)
	if err := os.MkdirAll(own, 0o700); err != nil {
		return err
	}
	return errors.Join(os.Rename(own, filepath.Join(v.at.state, disksBefore)), os.Rename(next, own), syncDir(v.at.state))
}

// putBack undoes a restore of which the guest has not gone on, or ends one of which
// it has.
func (v *vm) putBack() error {
	own, before := filepath.Join(v.at.state, disksFolder), filepath.Join(v.at.state, disksBefore)
	if _, err := os.Lstat(before); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if v.rec != nil && v.rec.Restoring == 0 {
		return os.RemoveAll(before)
	}
	return errors.Join(os.RemoveAll(own), os.Rename(before, own), syncDir(v.at.state))
}

// goesOn notes, before a guest runs that was restored, that it does: what it writes
// from now on is not undone.
func (v *vm) goesOn() error {
	if v.rec.Restoring == 0 {
		return nil
	}
	r := *v.rec
	r.Restored, r.Restoring = r.Restoring, 0
	if err := r.write(v.at.state); err != nil {
		return err
	}
	v.rec = &r
	if err := v.putBack(); err != nil {
		v.h.cfg.Log.Warn("disks from before a restore are still there", "vm", v.rec.Instance, "err", err)
	}
	return nil
}

// load has an instance that was just started go on from a snapshot. When that does
// not work, the instance is ended.
func (v *vm) load(ctx context.Context, a vmm.Action) error {
	ctx, cancel := v.stoppable(ctx, &v.stopStart)
	defer cancel()
	s, can := v.session.(saver)
	if !can {
		return errors.New("what runs it takes no snapshots")
	}
	err := s.load(ctx, v.h.at.snapshotOf(a.Restore.Uid))
	if err == nil && ctx.Err() != nil {
		err = errOvertaken
	}
	if err == nil {
		err = v.goesOn()
	}
	if err != nil {
		v.killed = true
		err = fmt.Errorf("go on from the snapshot %s: %w", a.Restore.Name, err)
		if end := v.kill(context.WithoutCancel(ctx), a.Instance); end != nil {
			return errors.Join(err, end)
		}
		if back := v.putBack(); back != nil {
			err = errors.Join(err, back)
		}
		return v.failed(StartFailed, err)
	}
	if a.Assignment.GetPaused() {
		return nil
	}
	if err := v.whether(ctx, v.session.resume); err != nil {
		v.h.cfg.Log.Warn("a restored VM does not go on yet", "vm", v.rec.Instance, "err", err)
	}
	return nil
}

// full puts a full disk into words of what it was for.
func full(err, words error) error {
	if errors.Is(err, words) {
		return err
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG) {
		return fmt.Errorf("%w: %w", words, err)
	}
	return err
}

// room says that a file system has not so many bytes free, and a little more.
func room(dir string, need int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	const spare = 16 << 20
	if free := int64(st.Bavail) * st.Bsize; free < need+spare {
		return fmt.Errorf("%w: it may need %d MiB, and %d MiB are free: %w", errSnapshotFull, (need+spare)>>20, free>>20, unix.ENOSPC)
	}
	return nil
}

// blocksOf is what a file, or all in a folder, takes of the disk.
func blocksOf(path string) (bytes int64) {
	_ = filepath.WalkDir(path, func(p string, _ os.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil && unix.Lstat(p, &st) == nil {
			bytes += st.Blocks * 512
		}
		return nil
	})
	return bytes
}

// inFolder gives the name of a file that lies right in a folder.
func inFolder(path, folder string) (string, bool) {
	dir, name := filepath.Split(path)
	return name, filepath.Clean(dir) == folder
}

// copyFile copies a file that may have holes: by sharing its blocks where the file
// system can.
func copyFile(ctx context.Context, from, to string) error {
	in, err := os.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) == nil {
		return out.Close()
	}
	err = eachBlock(ctx, in, st.Size(), func(at int64, b []byte) error {
		_, err := out.WriteAt(b, at)
		return err
	})
	return errors.Join(err, out.Truncate(st.Size()), out.Close())
}

const blockSize = 64 << 10

// eachBlock calls f with every block of a file that is not all zeros. Holes are not
// even read.
func eachBlock(ctx context.Context, in *os.File, size int64, f func(at int64, b []byte) error) error {
	buf := make([]byte, blockSize)
	for at := int64(0); at < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		data, err := unix.Seek(int(in.Fd()), at, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO):
			return nil // a hole up to the end
		case err == nil:
			at = max(at, data&^(blockSize-1))
		}
		n, err := in.ReadAt(buf, at)
		if n > 0 && !zero(buf[:n]) {
			if err := f(at, buf[:n]); err != nil {
				return err
			}
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		at += blockSize
	}
	return nil
}

func sumOf(ctx context.Context, path string) (savedFile, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return savedFile{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return savedFile{}, err
	}
	h := sha256.New()
	err = eachBlock(ctx, f, st.Size(), func(at int64, b []byte) error {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(at)))
		h.Write(b)
		return nil
	})
	return savedFile{Size: st.Size(), Sum: hex.EncodeToString(h.Sum(nil))}, err
}

// sums lists the files of a folder.
func sums(ctx context.Context, dir string) (list []savedFile, err error) {
	err = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		f, err := sumOf(ctx, path)
		if err == nil {
			f.Name, err = filepath.Rel(dir, path)
			list = append(list, f)
		}
		return err
	})
	slices.SortFunc(list, func(a, b savedFile) int { return compare(a.Name, b.Name) })
	return list, err
}

func compare(a, b string) int {
	if a < b {
		return -1
	}
	return 1
}

func checkSums(ctx context.Context, dir string, m *manifest) error {
	for _, want := range m.Files {
		if !filepath.IsLocal(want.Name) {
			return fmt.Errorf("%s names a file outside: %.80q", manifestFile, want.Name)
		}
		got, err := sumOf(ctx, filepath.Join(dir, want.Name))
		if err != nil {
			return fmt.Errorf("the snapshot is damaged: %w", err)
		}
		if got.Name = want.Name; got != want {
			return fmt.Errorf("the snapshot is damaged: %s is not what it was: delete it, and take another", want.Name)
		}
	}
	return nil
}

// syncTree has a folder on the disk.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return syncDir(path)
	})
}
