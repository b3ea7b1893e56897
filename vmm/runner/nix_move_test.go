package runner

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/guest/tsc"
	"github.com/blixard/blixard/vmm/runner/nix"
	"github.com/blixard/blixard/vmm/shim"
)

// A runner that takes more than it says is started with a socket of ours, and on the
// target told to wait; one that does not is started as it always was, and takes no guest.
func TestTheCommandOfARunnerThatMoves(t *testing.T) {
	b, s := nixBench(t)
	s.usual("/nowhere/tap")
	s.script["share/microvm/hypervisor"] = "qemu\n"
	words := func(c command) string {
		for _, e := range c.env {
			if v, ok := strings.CutPrefix(e, nix.ArgsEnv+"="); ok {
				return v
			}
		}
		return "none"
	}
	i := instance("1-7", 1)
	p := b.h.newVM("1-7").at
	if err := os.MkdirAll(p.run, 0o700); err != nil {
		t.Fatal(err)
	}
	prepared := func(takes bool) command {
		t.Helper()
		s.script["microvm-run"] = "exec qemu"
		if takes {
			s.script["microvm-run"] += " $" + nix.ArgsEnv
		}
		a := flake("1-7", 1)
		a.Runner = &blixardv1.Runner{StorePath: filepath.Join(s.dir, fmt.Sprint("runner", takes))}
		s.write(a.Runner.StorePath)
		c, err := b.h.nix.prepare(t.Context(), p, a, i)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := prepared(false)
	if words(c) != "none" || c.shape != "" || exists(filepath.Join(p.run, workLink)) {
		t.Errorf("%q, %q", words(c), c.shape)
	}
	if _, err := b.h.nix.prepareIncoming(t.Context(), p, i, c); err == nil {
		t.Error("it would take a guest")
	}
	c = prepared(true)
	if words(c) != "-qmp unix:qmp,server=on,wait=off" || !strings.HasPrefix(c.shape, "runner="+filepath.Join(s.dir, "runnertrue")+"\n") {
		t.Errorf("%q, %q", words(c), c.shape)
	}
	c, err := b.h.nix.prepareIncoming(t.Context(), p, i, c)
	if err != nil || words(c) != "-qmp unix:qmp,server=on,wait=off -S -incoming unix:in" {
		t.Errorf("%q, %v", words(c), err)
	}
	// What a start before has left misleads nobody.
	if c := prepared(false); exists(filepath.Join(p.run, workLink)) || exists(filepath.Join(p.run, qmpSocket)) {
		t.Errorf("%q, and the links are there", words(c))
	}
	// Of another build nothing is taken.
	if err := fits(shapeWith("9.2", runnerShape("/nix/store/a", false)), shapeWith("9.2", runnerShape("/nix/store/b", false))); err == nil || !strings.Contains(err.Error(), "/nix/store/a") {
		t.Error(err)
	}
}

// A guest that Nix built moves with its disk between QEMUs that run as a user who can
// pass no folder but its own.
func TestAGuestOfNixsMoves(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can run something as another user")
	}
	s := newStore(t)
	with := func(c *Config) { c.Nix = s }
	r := &road{t: t, from: newGuestBench(t, with), to: newGuestBench(t, with), source: instance(roamer, 1), index: 100}
	r.from.h.cfg.Passage, r.from.cfg.Passage = r.passage, r.passage
	for _, h := range []*Host{r.from.h, r.to.h} {
		h.nix.user = &shim.User{UID: 65534, GID: 65533}
	}
	kernel, err1 := r.from.store.Path(t.Context(), r.from.kernel.Digest)
	initrd, err2 := r.from.store.Path(t.Context(), r.from.initrd.Digest)
	for name, from := range map[string]string{"kernel": kernel, "initrd": initrd} {
		b, err := os.ReadFile(from)
		if err := errors.Join(err1, err2, err, os.WriteFile(filepath.Join(s.dir, name), b, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chmod(filepath.Dir(s.dir), 0o755), os.Chmod(s.dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	clock := ""
	if khz, err := tsc.KHz(); err == nil {
		clock = fmt.Sprintf("tsc_early_khz=%d tsc=reliable ", khz)
	}
	s.script = map[string]string{
		"share/microvm/hypervisor": "qemu\n",
		"microvm-shutdown":         "kill $MAINPID",
		"microvm-run": `[ -e data.img ] || truncate -s 16M data.img
exec qemu-system-x86_64 -M microvm,acpi=on,pit=off,pic=off -global virtio-mmio.force-legacy=false -accel tcg -cpu max -m size=131080K \
  -nodefaults -no-user-config -display none -no-reboot -chardev stdio,id=s,signal=off -serial chardev:s \
  -drive id=vda,format=raw,file=data.img,if=none -device virtio-blk-device,drive=vda,serial=data \
  -kernel ` + s.dir + `/kernel -initrd ` + s.dir + `/initrd \
  -append "console=ttyS0 quiet panic=-1 reboot=t nokaslr mitigations=off cryptomgr.notests ` + clock + `blixard.count=data blixard.tick=50ms" \
  $` + nix.ArgsEnv,
	}
	r.a = flake(roamer, 1)
	path := r.from.build(r.source, r.a)
	r.a.Runner = &blixardv1.Runner{StorePath: path}
	r.from.must(vmm.Start, r.source, r.a)
	r.from.awaitConsole(roamer, "tick 3 ")
	i := shim.Instance{UID: roamer, Generation: 1, Index: r.index + 1, Attempt: 1}
	r.to.build(i, r.a)
	r.receive()
	r.send()
	if p := r.outcome(); p.HandedOver != r.index {
		t.Fatalf("%+v", p)
	}
	r.to.report("loaded", i, func(p vmm.Report) bool { return p.Incoming == vmm.Loaded })
	before := r.inOrder()
	r.to.must(vmm.TakeOver, i, r.a)
	goesOn(r.to)
	if now := r.inOrder(); now <= before {
		t.Errorf("it has counted to %d, and before to %d", now, before)
	}
	still(r.from)
	holdsAll(t, filepath.Join(machineDir(r.to.h.newVM(roamer).at), "data.img"), before)
	// Its user has nothing that is ours.
	if st, err := os.Lstat(filepath.Join(r.from.h.newVM(roamer).at.run, workLink)); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Error(st, err)
	}
	// Nor is whoever it lets listen in its place taken for it.
	run := r.to.h.newVM(roamer).at.run
	own := filepath.Join(run, workLink, qmpSocket)
	if err := os.Rename(own, own+"-kept"); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", own)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := meet(t.Context(), filepath.Join(run, qmpSocket)); !errors.Is(err, errStranger) {
		t.Errorf("a socket of root's: %v", err)
	}
	l.Close()
	if err := os.Rename(own+"-kept", own); err != nil {
		t.Fatal(err)
	}
	c, err := meet(t.Context(), filepath.Join(run, qmpSocket))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	r.to.must(vmm.Stop, i, nil)
	r.to.down(i)
}
