package runner

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/shims"
	"github.com/blixard/blixard/vmm/shim"
)

// saved waits for the VM's boot to be saved, and gives its manifest.
func (b *bench) saved(uid string) *manifest {
	b.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if m, _, err := readManifest(b.h.boots.of(uid)); err == nil {
			return m
		}
		if time.Now().After(end) {
			b.t.Fatalf("its boot was not saved; console: %s", b.console(uid))
		}
	}
}

// A VM boots once, and then starts from that: it goes on where its boot was saved, and
// is told each time who it is and what time, and given its own chance. A saved boot that
// QEMU does not take costs the start nothing but time.
func TestWarmStart(t *testing.T) {
	t.Parallel()
	r := qemuRig(t)
	i, a := instance("c-warm", 1), r.vm("c-warm", "")
	a.Spec.Warm = true
	start := func(warm bool) {
		t.Helper()
		mark := len(r.console(i.UID))
		r.must(vmm.Start, i, a)
		r.report("started", i, func(v vmm.Report) bool { return v.Ready && !v.Paused && v.Warm == warm })
		r.awaitConsoleFrom(i.UID, mark, "tick ")
		if booted := strings.Contains(r.console(i.UID)[mark:], "up name="); booted == warm {
			t.Fatalf("attempt %d: booted: %t", i.Attempt, booted)
		}
	}
	end := func() {
		t.Helper()
		r.must(vmm.Kill, i, nil)
		r.exit(i, Killed)
		i.Attempt++
	}
	r.must(vmm.Build, i, a)
	start(false)
	m := r.saved(i.UID)
	r.awaitTicks(i.UID, r.ticks(i.UID)+3) // it goes on
	end()

	start(true)
	chance := r.isTold(i, "vm-c-warm")
	r.reopen()
	r.report("warm still", i, func(v vmm.Report) bool { return v.Ready && v.Warm })
	end()
	start(true)
	if again := r.isTold(i, "vm-c-warm"); again == chance {
		t.Error("two starts draw alike:", again)
	}
	end()

	memory := filepath.Join(r.h.boots.of(i.UID), memoryFile)
	b, err := os.ReadFile(memory)
	if err != nil {
		t.Fatal(err)
	}
	// QEMU does not take it, although its sums are right.
	if err := os.WriteFile(memory, b[:len(b)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	broken := *m
	broken.Files = nil
	all, err := sums(t.Context(), r.h.boots.of(i.UID))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.Name == memoryFile {
			broken.Files = append(broken.Files, f)
		}
	}
	if err := writeManifest(r.h.boots.of(i.UID), &broken); err != nil {
		t.Fatal(err)
	}
	start(false)
	end()
	r.must(vmm.Remove, i, nil)
	if left, _ := os.ReadDir(r.h.boots.dir); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

// A daemon that dies while a guest is loaded leaves a QEMU that waits for the rest in
// vain, or that has given it up: the next one ends it, takes that for no failure, and
// boots the VM, although its saved boot is there.
func TestAWarmStartThatNobodyFinishes(t *testing.T) {
	t.Parallel()
	r := qemuRig(t)
	i, a := instance("1-1", 1), r.vm("1-1", "")
	a.Spec.Warm = true
	r.must(vmm.Start, i, a)
	r.saved(i.UID)
	r.must(vmm.Kill, i, nil)
	r.exit(i, Killed)
	kept := t.TempDir()
	if err := os.CopyFS(kept, os.DirFS(r.h.boots.of(i.UID))); err != nil {
		t.Fatal(err)
	}
	at := r.h.at.stateOf(i.UID)
	for _, half := range []bool{false, true} {
		i.Attempt++
		r.must(vmm.Receive, i, a) // which waits as a warm start does
		r.report("waiting", i, func(v vmm.Report) bool { return v.Liveness == vmm.Alive && v.Incoming == vmm.Listening })
		r.h.Close()
		rec, err := readRecord(at)
		if err != nil {
			t.Fatal(err)
		}
		rec.Incoming, rec.Warm, rec.Warming = false, true, true
		if err := rec.write(at); err != nil {
			t.Fatal(err)
		}
		r.contract.Ordered(vmm.Action{Verb: vmm.Start, Instance: i}) // as it was, by the record now
		if half {
			c, err := net.Dial("unix", filepath.Join(r.h.at.runOf(i.UID), incomingSocket))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write([]byte("QEVM\x00\x00\x00\x03")); err != nil {
				t.Fatal(err)
			}
			c.Close()
			for end := time.Now().Add(patience); !shims.Dead(r.h.at.runOf(i.UID)); time.Sleep(20 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("QEMU goes on waiting for a guest of which it has got half")
				}
			}
		}
		r.open()
		if e := r.down(i).Exit; e == nil || e.Reason != Interrupted {
			t.Errorf("half of it was there: %t: it ended with %+v", half, e)
		}
	}
	i.Attempt++
	_ = os.RemoveAll(r.h.boots.of(i.UID)) // the second of those starts has taken it away
	if err := os.CopyFS(r.h.boots.of(i.UID), os.DirFS(kept)); err != nil {
		t.Fatal(err)
	}
	r.must(vmm.Start, i, a)
	r.report("booted", i, func(v vmm.Report) bool { return v.Ready && !v.Warm })
}

// What a guest's memory relies on is in the key, and the attempt is not.
func TestTheKeyOfABoot(t *testing.T) {
	h := &Host{versions: map[blixardv1.Hypervisor]string{blixardv1.Hypervisor_HYPERVISOR_QEMU: "7.2"}}
	v := &vm{h: h, rec: &record{Hypervisor: blixardv1.Hypervisor_HYPERVISOR_QEMU}, at: place{state: t.TempDir()}}
	disk := diskPath(v.at.state, "seed")
	if err := os.MkdirAll(filepath.Dir(disk), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(disk, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	driver := &qemu{machine: machine{program: "qemu"}}
	image := &blixardv1.Image{Kernel: &blixardv1.Artifact{Digest: "k"}, Initrd: &blixardv1.Artifact{Digest: "i"}, Disks: []*blixardv1.Disk{{Name: "seed", ReadOnly: true, Source: &blixardv1.Artifact{Digest: "d"}}}}
	b := boot{name: "web", instance: shim.Instance{UID: "1-9", Attempt: 1}, vcpus: 1, memoryMib: 128, kernel: "/k", cmdline: "a"}
	key := func() string {
		t.Helper()
		argv, err := driver.machine.argv(b)
		if err != nil {
			t.Fatal(err)
		}
		a := vmm.Action{Instance: b.instance, Assignment: &blixardv1.Assignment{Spec: &blixardv1.VMSpec{Source: &blixardv1.VMSpec_Image{Image: image}}}}
		k, err := v.bootKey(driver, a, command{argv: argv})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	first := key()
	b.instance.Attempt = 12
	if key() != first {
		t.Error("the attempt is in it")
	}
	seen := map[string]string{first: "nothing"}
	for _, c := range []struct {
		what   string
		change func()
	}{
		{"name", func() { b.name = "web2" }},
		{"uid", func() { b.instance.UID = "1-10" }},
		{"vcpus", func() { b.vcpus = 2 }},
		{"memory", func() { b.memoryMib = 256 }},
		{"cmdline", func() { b.cmdline = "b" }},
		{"nic", func() { b.nics = []nic{{mac: "52:54:00:00:00:01", user: true}} }},
		{"kernel", func() { image.Kernel.Digest = "k2" }},
		{"initrd", func() { image.Initrd.Digest = "i2" }},
		{"disk", func() { image.Disks[0].Source.Digest = "d2" }},
		{"disk's file", func() { _ = os.Chtimes(disk, time.Time{}, time.Unix(1, 0)) }},
		{"version", func() { h.versions[blixardv1.Hypervisor_HYPERVISOR_QEMU] = "9.0" }},
		{"machine", func() { b.q35 = true }},
		{"accelerator", func() { driver.machine.kvm = true }},
	} {
		c.change()
		k := key()
		if same, ok := seen[k]; ok {
			t.Errorf("the key after another %s is that after another %s", c.what, same)
		}
		seen[k] = c.what
	}
}

// A host keeps a few saved boots, those that were used last, and none of another boot
// of the host, of a VM that is gone, or half a one; and uses none that is damaged or has
// another key.
func TestSavedBootsAreBounded(t *testing.T) {
	all := t.TempDir()
	b := &boots{}
	if err := b.begin(all, "today", nil); err != nil {
		t.Fatal(err)
	}
	keep := func(uid string, age time.Duration) {
		t.Helper()
		tmp := b.of(uid) + newSuffix
		if err := os.Mkdir(tmp, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := writeManifest(tmp, &manifest{Key: uid}); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(-age)
		if err := os.Chtimes(filepath.Join(tmp, manifestFile), when, when); err != nil {
			t.Fatal(err)
		}
		if err := b.name(tmp, uid); err != nil {
			t.Fatal(err)
		}
	}
	for n := range vmm.MostBoots {
		keep(fmt.Sprintf("1-%d", n), time.Hour-time.Duration(n)*time.Minute)
	}
	if dir, err := b.use(t.Context(), "1-0", "1-0"); dir == "" || err != nil {
		t.Fatal(dir, err)
	}
	if dir, err := b.use(t.Context(), "1-1", "another"); dir != "" || err != nil {
		t.Error("used with another key:", dir, err)
	}
	if err := os.WriteFile(filepath.Join(b.of("1-4"), memoryFile), []byte("tick"), 0o600); err != nil {
		t.Fatal(err)
	}
	all4, err := sums(t.Context(), b.of("1-4"))
	if err != nil {
		t.Fatal(err)
	}
	whole := &manifest{Key: "1-4", Files: all4[len(all4)-1:]}
	if whole.Files[0].Name != memoryFile {
		t.Fatal(whole.Files)
	}
	if err := writeManifest(b.of("1-4"), whole); err != nil {
		t.Fatal(err)
	}
	if dir, err := b.use(t.Context(), "1-4", "1-4"); dir == "" || err != nil {
		t.Error(dir, err)
	}
	if err := os.WriteFile(filepath.Join(b.of("1-4"), memoryFile), []byte("tock"), 0o600); err != nil {
		t.Fatal(err)
	}
	if dir, err := b.use(t.Context(), "1-4", "1-4"); dir != "" || err == nil {
		t.Error("a damaged one is used:", dir)
	}
	keep("1-99", 0)
	for uid, want := range map[string]bool{"1-0": true, "1-1": false, "1-2": true, "1-99": true} {
		if _, err := os.Stat(b.of(uid)); (err == nil) != want {
			t.Errorf("%s is kept: %t", uid, !want)
		}
	}
	if err := os.Mkdir(b.of("1-0")+newSuffix, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(b.of("1-3"), manifestFile)); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(all, "yesterday", "1-0"), 0o700); err != nil {
		t.Fatal(err)
	}
	b = &boots{}
	if err := b.begin(all, "today", []string{"1-0", "1-3"}); err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(filepath.Join(all, "*", "*"))
	if len(left) != 1 || left[0] != b.of("1-0") {
		t.Errorf("left %v", left)
	}
}

// BenchmarkWarmStart says how long it is from the order to start to the guest's first
// word, and to where its agent answers.
func BenchmarkWarmStart(t *testing.B) {
	for _, warm := range []bool{false, true} {
		t.Run(fmt.Sprintf("warm=%t", warm), func(t *testing.B) {
			b := newGuestBench(t)
			i, a := instance("1-1", 1), b.image("1-1", "blixard.tick=50ms")
			a.Spec.Warm = warm
			b.must(vmm.Start, i, a)
			b.awaitConsole(i.UID, "tick ")
			if warm {
				t.Logf("paused %d ms while its boot was saved", b.saved(i.UID).PausedMs)
			}
			var word, answer time.Duration
			for t.Loop() {
				b.must(vmm.Kill, i, nil)
				b.exit(i, Killed)
				i.Attempt++
				mark, begin := len(b.console(i.UID)), time.Now()
				b.must(vmm.Start, i, a)
				b.awaitConsoleFrom(i.UID, mark, "tick ")
				word += time.Since(begin)
				for b.h.agents.ping(t.Context(), filepath.Join(b.h.at.runOf(i.UID), agentSocket)) != nil {
					time.Sleep(5 * time.Millisecond)
				}
				answer += time.Since(begin)
				if got := b.report("up", i, func(r vmm.Report) bool { return r.Ready }); got.Warm != warm {
					t.Fatal(got)
				}
			}
			t.ReportMetric(float64(word.Milliseconds())/float64(t.N), "ms-first-word")
			t.ReportMetric(float64(answer.Milliseconds())/float64(t.N), "ms-agent")
			b.must(vmm.Kill, i, nil)
		})
	}
}
