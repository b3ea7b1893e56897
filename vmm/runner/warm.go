package runner

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/shims"
	"github.com/blixard/blixard/vmm/shim"
)

// A VM whose spec says warm boots once, and then starts from that:
//
//	cold start ──► its agent answers ──► its memory is saved, under a key
//	the next start: the same key? ──► the saved boot goes on, and is told who it is
//	                anything else ──► cold start
//
//	STATE/boots/<boot of this host>/<uid>/manifest.json   with the key
//	STATE/boots/<boot of this host>/<uid>/memory
//
// The key is of all that the guest's memory relies on: what QEMU is told, word for word
// but for the attempt, the digests of what it boots and of its disks, and which QEMU on
// which processor. The VM's name, uid and addresses are among these words, so a saved
// boot is of one VM only, and goes with it. It is a cache: the newest few are kept, and
// none over a boot of the host, whose kernel may be another one then.
//
// To the cluster a warm start is a start like any other: it has the order, the lease
// and the shim of one.

// bootPatience is how long an agent is waited for that is to say that its guest is up.
var bootPatience = 2 * time.Minute

// boots are the saved ones.
type boots struct {
	dir string
	mu  sync.Mutex // held while they are named and removed
}

func (l layout) boots() string { return filepath.Join(l.state, "boots") }

func (b *boots) of(uid string) string { return filepath.Join(b.dir, uid) }

// begin removes those of other boots of the host, those half-written, and those of VMs
// that are not here.
func (b *boots) begin(all, boot string, uids []string) error {
	b.dir = filepath.Join(all, boot)
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return err
	}
	err := keepOnly(all, map[string]bool{boot: true})
	here := map[string]bool{}
	for _, uid := range uids {
		_, lost := os.Lstat(filepath.Join(b.of(uid), manifestFile))
		here[uid] = lost == nil
	}
	return errors.Join(err, keepOnly(b.dir, here))
}

func keepOnly(dir string, keep map[string]bool) (err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if !keep[e.Name()] {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// name makes a folder the saved boot of a VM, and lets the one go that was used the
// longest time ago, if there are too many.
func (b *boots) name(tmp, uid string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := errors.Join(os.RemoveAll(b.of(uid)), os.Rename(tmp, b.of(uid))); err != nil {
		return err
	}
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		return err
	}
	var list []vmm.Boot
	for _, e := range entries {
		st, err := os.Lstat(filepath.Join(b.dir, e.Name(), manifestFile))
		if err == nil && filepath.Ext(e.Name()) != newSuffix {
			list = append(list, vmm.Boot{UID: e.Name(), Used: st.ModTime().UnixNano()})
		}
	}
	if oldest := vmm.SparedBoot(list, uid, vmm.MostBoots); oldest != "" {
		return os.RemoveAll(b.of(oldest))
	}
	return nil
}

// use gives the folder of a VM's saved boot, if that has this key and is whole.
func (b *boots) use(ctx context.Context, uid, key string) (string, error) {
	dir := b.of(uid)
	m, _, err := readManifest(dir)
	if errors.Is(err, errNoSnapshot) {
		return "", nil
	}
	if err == nil && m.Key != key {
		return "", nil
	}
	if err == nil {
		err = checkSums(ctx, dir, m)
	}
	if err != nil {
		return "", err
	}
	now := time.Now()
	return dir, os.Chtimes(filepath.Join(dir, manifestFile), now, now)
}

func (b *boots) forget(uid string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return os.RemoveAll(b.of(uid))
}

// forgetBoot removes the VM's saved boot, if there is one.
func (v *vm) forgetBoot() {
	if err := v.h.boots.forget(v.uid); err != nil {
		v.h.cfg.Log.Warn("a saved boot was not removed", "vm", v.uid, "err", err)
	}
}

// wantsWarm says that a start may be one from a saved boot. What is not to run yet, or
// has another memory to go on with, is started as ever. What a spec may not have beside
// warm is looked at again: it may have been accepted by another version of us.
func wantsWarm(a vmm.Action) bool {
	s := a.Assignment.GetSpec()
	return s.GetWarm() && a.Verb == vmm.Start && a.Restore == nil && !a.Assignment.GetPaused() &&
		len(ownDisks(s)) == 0 && len(a.Assignment.GetVolumes()) == 0 && len(s.GetDevices()) == 0
}

// warm has a start go on from the saved boot, if there is one that fits; if there is
// none, it is to be made.
func (v *vm) warm(ctx context.Context, d driver, a vmm.Action, c command) (command, error) {
	v.fresh = ""
	r, can := d.(reviver)
	rc, comes := d.(receiver)
	if !wantsWarm(a) || !can || !comes || v.rec.Machine == "" {
		if !a.Assignment.GetSpec().GetWarm() {
			v.forgetBoot()
		}
		return c, nil
	}
	key, err := v.bootKey(r, a, c)
	if err != nil {
		return c, err
	}
	ctx, cancel := v.stoppable(ctx, &v.stopStart)
	defer cancel()
	dir, err := v.h.boots.use(ctx, v.uid, key)
	if ctx.Err() != nil {
		return c, errOvertaken
	}
	if err != nil {
		v.h.cfg.Log.Warn("a saved boot cannot be used, and the VM boots as ever", "vm", a.Instance, "err", err)
	}
	if dir == "" || err != nil {
		v.forgetBoot()
		v.fresh = key
		return c, nil
	}
	v.rec.Warm, v.rec.Warming, v.rec.Untold = true, true, a.Assignment.GetName()
	return rc.prepareIncoming(ctx, v.place(), a.Instance, c)
}

// bootKey is the same for two starts of which one can go on with the other's memory.
func (v *vm) bootKey(r reviver, a vmm.Action, c command) (string, error) {
	attempt := fmt.Sprintf(" blixard.attempt=%d", a.Instance.Attempt)
	words := []string{"1", v.h.versions[v.rec.Hypervisor], r.machineName(a.Assignment.GetSpec()), c.shape}
	for _, w := range c.argv {
		words = append(words, strings.Replace(w, attempt, " blixard.attempt", 1))
	}
	image := a.Assignment.GetSpec().GetImage()
	words = append(words, image.GetKernel().GetDigest(), image.GetInitrd().GetDigest())
	for _, d := range image.GetDisks() {
		st, err := os.Stat(diskPath(v.at.state, d.Name))
		if err != nil {
			return "", err
		}
		words = append(words, d.Name, d.GetSource().GetDigest(), fmt.Sprint(st.Size(), st.ModTime().UnixNano()))
	}
	b, err := json.Marshal(words)
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), err
}

// warmUp has what was just started go on from the saved boot. When that does not work,
// it is ended, the saved boot removed, and the VM booted: its guest has not run.
func (v *vm) warmUp(ctx context.Context, a vmm.Action) error {
	load, cancel := v.stoppable(ctx, &v.stopStart)
	defer cancel()
	err := errors.New("what runs it takes no saved boot")
	if s, can := v.session.(saver); can {
		err = s.load(load, v.h.boots.of(v.uid))
	}
	if v.h.ctx.Err() != nil {
		return v.h.ctx.Err() // being closed: the next daemon sees how far it has come
	}
	if err == nil && load.Err() != nil {
		err = errOvertaken
	}
	if err == nil { // from here on whoever finds it paused has it go on
		r := *v.rec
		r.Warming = false
		if err = r.write(v.at.state); err == nil {
			v.rec = &r
		}
	}
	if err != nil {
		v.killed = true
		if end := v.kill(context.WithoutCancel(ctx), a.Instance); end != nil {
			return errors.Join(err, end)
		}
		if load.Err() != nil {
			return v.failed(StartFailed, errOvertaken)
		}
		v.h.cfg.Log.Warn("a VM did not go on from its saved boot, and boots as ever", "vm", a.Instance, "err", err)
		v.forgetBoot()
		return v.start(ctx, a)
	}
	if err := v.whether(ctx, v.session.resume); err != nil {
		v.h.cfg.Log.Warn("a VM does not go on from its saved boot yet", "vm", v.rec.Instance, "err", err)
	}
	return nil
}

// interrupted is the end of an instance that an earlier daemon was having go on from its
// saved boot when it ended. Its guest has not run, and it has not failed: it is started
// again at once, and boots, for its saved boot may be what ended that daemon.
var interrupted = &vmm.Exit{Code: 1, Reason: Interrupted, Message: "its daemon ended while it was started from its saved boot: it is started anew, and boots"}

// neverWarm ends an instance that waits for the rest of its saved boot, which nobody sends
// any more.
func (v *vm) neverWarm() {
	v.killed = true
	if err := v.kill(v.h.ctx, v.rec.Instance); err != nil {
		v.h.cfg.Log.Warn("a VM that waits for its saved boot in vain cannot be ended", "vm", v.rec.Instance, "err", err)
		return
	}
	v.rec.Exit = interrupted
	v.note()
	v.tell()
}

// keepBoot saves the boot of a guest that was started cold, once its agent answers. It
// waits beside the VM's queue, and only in the daemon that has started it: later it
// would be no boot any more.
func (v *vm) keepBoot() {
	if v.fresh == "" || !v.ready || v.paused {
		return
	}
	key, i := v.fresh, v.rec.Instance
	v.fresh = ""
	v.h.wait.Go(func() {
		ctx, cancel := context.WithTimeout(v.h.ctx, bootPatience)
		defer cancel()
		for {
			ask, done := context.WithTimeout(ctx, informOnce)
			err := v.h.agents.ping(ask, filepath.Join(v.at.run, agentSocket))
			done()
			if err == nil {
				break
			}
			if ctx.Err() != nil || shims.Dead(v.at.run) {
				v.h.cfg.Log.Info("the boot of a VM is not saved: no agent has said that its guest is up", "vm", i, "err", err)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(informAgain):
			}
		}
		v.q.put(func() {
			if m, err := v.saveBoot(i, key); err != nil {
				v.h.cfg.Log.Warn("the boot of a VM was not saved: its next start is a cold one", "vm", i, "err", err)
			} else if m != nil {
				v.h.cfg.Log.Info("the boot of a VM was saved", "vm", i, "paused_ms", m.PausedMs)
			}
		})
	})
}

// saveBoot gives nil where the guest is not any more what was to be saved.
func (v *vm) saveBoot(i shim.Instance, key string) (*manifest, error) {
	v.settle()
	s, can := v.session.(saver)
	if !v.alive || v.rec.Instance != i || !can || !v.ready || v.paused || v.leaving != nil || v.rec.Incoming || v.rec.HandedOver != 0 {
		return nil, nil
	}
	ctx, cancel := v.stoppable(v.h.ctx, &v.stopSave)
	defer cancel()
	b := &v.h.boots
	tmp := b.of(v.uid) + newSuffix
	defer os.RemoveAll(tmp)
	// Nobody accounts for it: most of what is free stays so.
	if err := room(b.dir, 4*int64(max(v.rec.BootMiB, 1))<<20); err != nil {
		return nil, err
	}
	m := &manifest{Instance: i, Hypervisor: v.rec.Hypervisor, Version: v.h.versions[v.rec.Hypervisor], Machine: v.rec.Machine, Key: key}
	err := v.freezeInto(ctx, s, &blixardv1.VMSpec{}, tmp, m)
	if err == nil {
		m.Files, err = sums(ctx, tmp)
	}
	if err == nil {
		err = writeManifest(tmp, m)
	}
	if err == nil {
		err = b.name(tmp, v.uid)
	}
	return m, err
}
