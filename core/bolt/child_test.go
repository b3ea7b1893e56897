package bolt

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/blixard/blixard/core"
)

// The tests of this file run this program again as a child, which writes batches
// until it is killed or cannot go on. What it writes follows from its seed, so
// that the parent knows it too.
const childEnv = "BLIXARD_BOLT_CHILD"

func TestMain(m *testing.M) {
	if args := os.Getenv(childEnv); args != "" {
		child(strings.Fields(args))
	}
	os.Exit(m.Run())
}

// child says "open", then the Seq of every report, then "failed: ..." if it must.
func child(args []string) {
	path := args[0]
	seed, _ := strconv.ParseUint(args[1], 10, 64)
	if limit, _ := strconv.ParseUint(args[2], 10, 64); limit > 0 {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
			panic(err)
		}
	}
	reports := make(chan struct{}, 3)
	ended := make(chan struct{})
	d, _, err := Open(path, Options{
		Wrote: func(w core.Wrote) {
			fmt.Println(w.Seq)
			for len(reports) > 0 {
				<-reports
			}
		},
		Failed: func(err error) {
			fmt.Println("failed:", err)
			close(ended)
		},
	})
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(0)
	}
	fmt.Println("open")
	r := rand.New(rand.NewPCG(seed, 0))
	for seq := 1; ; seq++ {
		d.Write(core.Batch{Seq: uint64(seq), Ops: opsOf(seed, r, seq)})
		select {
		case reports <- struct{}{}: // up to 3 more may queue up
		case <-ended:
			os.Exit(0)
		}
	}
}

// Seeds from growing on only ever add: they fill what they are given.
const growing = 1000

func opsOf(seed uint64, r *rand.Rand, seq int) []core.Op {
	if seed < growing {
		return randomOps(r, seq)
	}
	var ops []core.Op
	for i := range 16 {
		ops = append(ops, core.Op{Table: core.Log, Key: fmt.Appendf(nil, "%d/%06d/%d", seed, seq, i), Value: randomBytes(r, 4000)})
	}
	return ops
}

// run starts a child, kills it after the given time (0: lets it end, soon) and returns
// the last report and the failure.
func run(t *testing.T, path string, seed, limit uint64, after time.Duration) (last int, failure string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %d", childEnv, path, seed, limit))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tooLong := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer tooLong.Stop()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		line := lines.Text()
		if line == "open" {
			if after > 0 {
				time.AfterFunc(after, func() { cmd.Process.Kill() })
			}
		} else if seq, err := strconv.Atoi(line); err == nil {
			last = seq
		} else {
			failure = line
		}
	}
	cmd.Wait()
	return last, failure
}

// model is the naive disk: one copy of everything.
type model [core.Tables]map[string]string

func modelOf(image core.Image) model {
	var m model
	for t := range m {
		m[t] = map[string]string{}
		for _, kv := range image[t] {
			m[t][string(kv.Key)] = string(kv.Value)
		}
	}
	return m
}

func (m model) apply(ops []core.Op) {
	for _, op := range ops {
		for k := range m[op.Table] {
			if op.Range && k >= string(op.Key) && (len(op.End) == 0 || k < string(op.End)) || !op.Range && k == string(op.Key) {
				delete(m[op.Table], k)
			}
		}
		if !op.Range && op.Value != nil {
			m[op.Table][string(op.Key)] = string(op.Value)
		}
	}
}

func (m model) equal(image core.Image) bool {
	for t := range m {
		if len(m[t]) != len(image[t]) {
			return false
		}
		for _, kv := range image[t] {
			if v, ok := m[t][string(kv.Key)]; !ok || v != string(kv.Value) {
				return false
			}
		}
	}
	return true
}

// prefix reopens the disk, which held before, and fails unless it holds the
// batches of seed up to some n >= last.
func prefix(t *testing.T, path string, before core.Image, seed uint64, last int) core.Image {
	t.Helper()
	d, image, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	m := modelOf(before)
	r := rand.New(rand.NewPCG(seed, 0))
	for n := 0; n <= last+10; n++ {
		if n > 0 {
			m.apply(opsOf(seed, r, n))
		}
		if n >= last && m.equal(image) {
			return image
		}
	}
	t.Fatalf("seed %d: no prefix of the batches that contains %d", seed, last)
	return image
}

// Fifty lives on one file, each ended by kill -9: what was acknowledged is there,
// and a whole prefix of the batches.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	var image core.Image
	r := rand.New(rand.NewPCG(5, 0))
	reported := 0
	for seed := range uint64(50) {
		after := time.Duration(1+r.IntN(30_000)) * time.Microsecond
		last, failure := run(t, path, seed, 0, after)
		if failure != "" {
			t.Fatal(failure)
		}
		reported += last
		image = prefix(t, path, image, seed, last)
	}
	t.Logf("%d batches were reported", reported)
	if reported < 50 {
		t.Fatal("hardly anything was written")
	}
}

// Killed before it has even opened: the file is there whole, or not at all.
func TestKillWhileCreating(t *testing.T) {
	dir := t.TempDir()
	for i := range 20 {
		path := filepath.Join(dir, fmt.Sprint(i), "db")
		os.Mkdir(filepath.Dir(path), 0o700)
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s 1 0", childEnv, path))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for range 2000 { // until it begins
			if names, _ := os.ReadDir(filepath.Dir(path)); len(names) > 0 {
				break
			}
			time.Sleep(100 * time.Microsecond)
		}
		time.Sleep(time.Duration(i) * 150 * time.Microsecond)
		cmd.Process.Kill()
		cmd.Wait()
		d, _ := mustOpen(t, path, Options{})
		d.Close()
	}
}

// A file that may not grow: a clear error, and nothing acknowledged is lost.
func TestFileTooLarge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	d, image := mustOpen(t, path, Options{})
	d.Close()
	full(t, path, image, 17<<20, "raise the limit on file sizes")
}

// A full disk, for real.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=512k"); err != nil {
		t.Skipf("cannot mount a small file system (TestFileTooLarge stands in for it): %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, 0) })
	path := filepath.Join(dir, "db")
	d, image := mustOpen(t, path, Options{})
	d.Close()
	full(t, path, image, 0, "free some space")
}

func full(t *testing.T, path string, image core.Image, limit uint64, says string) {
	t.Helper()
	for seed := range uint64(3) {
		seed += growing
		last, failure := run(t, path, seed, limit, 0)
		t.Logf("%d reported; %s", last, failure)
		if !strings.Contains(failure, says) || !strings.Contains(failure, "start again") {
			t.Fatalf("not explained: %q", failure)
		}
		image = prefix(t, path, image, seed, last)
	}
}
