package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
)

// shared is a folder of the host with a note for guests in it.
func shared(t *testing.T, note string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "note-of-the-host"), []byte(note+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A real guest reads what the host wrote and writes what the host reads, on both
// machines; what is read-only is so whatever the guest tries; and nothing is left.
func TestShares(t *testing.T) {
	t.Parallel()
	b := newGuestBench(t)
	if b.h.sharer.program == "" {
		_, err := b.h.findSharer()
		t.Skip(err)
	}
	open, closed := shared(t, "come in"), shared(t, "look only")
	b.cfg.AllowPaths = []string{open, closed}
	b.reopen()
	for n, machine := range []blixardv1.Machine{0, blixardv1.Machine_MACHINE_Q35} {
		uid := fmt.Sprintf("share-%d", n)
		i, a := instance(uid, 1), b.image(uid, "blixard.tick=50ms blixard.share=open,closed")
		a.Spec.Machine = machine
		a.Spec.Shares = []*blixardv1.Share{{Tag: "open", Source: open}, {Tag: "closed", Source: closed, ReadOnly: true}}
		b.must(vmm.Start, i, a)
		b.awaitConsole(uid, `share open holds "come in"`)
		b.awaitConsole(uid, `share open has a note now`)
		b.awaitConsole(uid, `share closed holds "look only"`)
		b.awaitConsole(uid, `share closed is read-only`)
		b.awaitConsole(uid, "tick 3 ")
		if got, err := os.ReadFile(filepath.Join(open, "note-of-the-guest")); string(got) != "uid="+uid+" attempt=1\n" {
			t.Errorf("the guest left %q (%v)", got, err)
		}
		if len(sharers(b.bench)) < 2 {
			t.Error("nobody serves the shares: the test looks at the wrong place")
		}
		stop := vmm.Stop
		if n > 0 {
			stop = vmm.Kill // what runs beside it dies with it, too
		}
		b.must(stop, i, a)
		b.down(i)
		if n := len(sharers(b.bench)); n != 0 {
			t.Errorf("%d virtiofsd have outlived the VM", n)
		}
		if n > 0 { // and what it cannot do without takes it along
			i.Attempt = 2
			b.must(vmm.Start, i, a)
			b.awaitConsole(uid, "attempt=2")
			b.ready(i)
			kill9(t, sharers(b.bench)[0])
			if e := b.exit(i, ShareLost); !strings.Contains(e.Message, "virtiofsd failed: it ended with signal 9") {
				t.Error(e)
			}
			if n := len(sharers(b.bench)); n != 0 {
				t.Errorf("%d virtiofsd have outlived the VM", n)
			}
		}
		b.must(vmm.Remove, i, nil)
	}
	if left, _ := filepath.Glob(filepath.Join(b.cfg.RunRoot, "*", "v", "*")); len(left) != 0 {
		t.Errorf("left are %v", left)
	}
	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(mounts), b.cfg.RunRoot) {
		t.Errorf("mounts are left, or were everybody's (%v):\n%s", err, mounts)
	}
	if list, _ := os.ReadDir(closed); len(list) != 1 {
		t.Errorf("in the folder that is read-only there is %v", list)
	}
}

// sharers are the processes that serve the shares of a host's VMs.
func sharers(b *bench) (pids []int) {
	b.t.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		line, _ := os.ReadFile(f)
		if strings.Contains(string(line), "virtiofsd\x00") && strings.Contains(string(line), b.cfg.RunRoot) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// What a guest may not have, it does not get, and no link leads to it.
func TestSharesThatAreRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	allowed, other := shared(t, ""), shared(t, "")
	if err := os.Symlink(other, filepath.Join(allowed, "out")); err != nil {
		t.Fatal(err)
	}
	cfg := b.cfg
	cfg.AllowPaths = []string{allowed}
	s := &sharer{cfg: &cfg, program: "/virtiofsd"}
	p := place{run: t.TempDir()}
	for source, words := range map[string]string{
		other:                         "nix.allow_paths",
		allowed + "/../x":             "nix.allow_paths",
		allowed + "/out":              other + " on the host, which its guests may not have",
		allowed + "/nowhere":          "make the folder on this host",
		allowed + "/note-of-the-host": "is no folder",
	} {
		list := []*blixardv1.Share{{Tag: "t", Source: source}}
		err := s.check(list)
		if err == nil {
			_, err = s.shares(p, list)
		}
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v, want %s", source, err, words)
		}
	}
	list := []*blixardv1.Share{{Tag: "t", Source: allowed}}
	if made, err := s.shares(p, list); err != nil || len(made) != 1 {
		t.Error(made, err)
	}
	s.program = ""
	if _, err := s.shares(p, list); err == nil || !strings.Contains(err.Error(), "node get") {
		t.Error("a host without virtiofsd says", err)
	}
	b.cfg.Virtiofsd = "/nowhere/virtiofsd"
	b.reopen()
	if _, err := b.h.findSharer(); err == nil {
		t.Error("a host finds a virtiofsd where there is none")
	}
}

func TestSharesOnCommandLines(t *testing.T) {
	b := aBoot()
	b.shares = []share{{tag: "a", socket: "/r/fs,0", step: []string{"/s"}}}
	argv, err := machine{program: "q"}.argv(b)
	line := strings.Join(argv, " ")
	for _, want := range []string{
		",memory-backend=mem ", "-object memory-backend-memfd,id=mem,share=on," + machine{}.memory(b),
		"-chardev socket,id=fs0,path=/r/fs,,0 -device vhost-user-fs-device,chardev=fs0,tag=a",
	} {
		if err != nil || !strings.Contains(line, want) {
			t.Errorf("no %q in %s (%v)", want, line, err)
		}
	}
	argv, err = (&cloud{}).argv(b)
	line = strings.Join(argv, " ")
	for _, want := range []string{"M,shared=on ", `--fs tag=a,socket="/r/fs,0",num_queues=1,queue_size=1024`} {
		if err != nil || !strings.Contains(line, want) {
			t.Errorf("no %q in %s (%v)", want, line, err)
		}
	}
	if c := b.beside(command{shape: "x"}); c.shape != "" || !c.pidNamespace || len(c.steps.Beside) != 1 {
		t.Errorf("it could be moved, or is not held: %+v", c)
	}
}
