package main

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/blixard/blixard/vmm/runner/lease"
)

// The witness is the program that VMs of these tests run: it writes down that it
// lives, every few milliseconds, in a file that all nodes of a test share. Two
// copies of one VM at once are two lives in that file that overlap, whatever the
// cluster believes. Every cluster of these tests is judged by it at its end.

const (
	witnessEnv  = "BLIXARD_TEST_WITNESS" // the file
	witnessBeat = 10 * time.Millisecond
)

// witness never returns.
func witness(file string) {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		panic(err)
	}
	where, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	for me := rand.Text(); ; time.Sleep(witnessBeat) {
		// One write of one short line: lines of two writers do not mix.
		fmt.Fprintf(f, "%s %s %s %d %s\n", os.Getenv("BLIXARD_UID"), os.Getenv("BLIXARD_ATTEMPT"), me, lease.Now(), where)
	}
}

// watched creates a VM that runs the witness.
func (c *Cluster) watched(name string, more ...string) []string {
	c.t.Helper()
	self, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	args := append([]string{"vm", "create", name, "--process", "--memory", "64", "--env", witnessEnv + "=" + c.witnessed()}, more...)
	return append(args, "--", self)
}

func (c *Cluster) witnessed() string { return filepath.Join(c.dir, "witnessed") }

// life is one process of a VM, from its first sign of life to its last.
type life struct {
	uid, attempt, me, where string
	first, last             time.Duration // on BOOTTIME
}

func (l life) String() string {
	return fmt.Sprintf("attempt %s of %s in %s, %.3f s to %.3f s", l.attempt, l.uid, l.where, l.first.Seconds(), l.last.Seconds())
}

// lives are all lives so far of a VM, or of all VMs when uid is empty, in order.
func (c *Cluster) lives(uid string) (all []life) {
	f, err := os.Open(c.witnessed())
	if err != nil {
		return nil
	}
	defer f.Close()
	at := map[string]int{}
	for s := bufio.NewScanner(f); s.Scan(); {
		var l life
		var now int64
		if _, err := fmt.Sscan(s.Text(), &l.uid, &l.attempt, &l.me, &now, &l.where); err != nil || uid != "" && l.uid != uid {
			continue // the last line may be half written
		}
		l.first, l.last = time.Duration(now), time.Duration(now)
		if i, ok := at[l.me]; ok {
			all[i].last = l.last
			continue
		}
		at[l.me] = len(all)
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b life) int { return int(a.first - b.first) })
	return all
}

// neverTwo is the judge: no two lives of one VM overlap.
func (c *Cluster) neverTwo() {
	c.t.Helper()
	newest := map[string]life{}
	for _, l := range c.lives("") {
		if old, ok := newest[l.uid]; ok && l.first <= old.last {
			c.t.Errorf("TWO COPIES AT ONCE:\n%v\n%v", old, l)
		}
		if old, ok := newest[l.uid]; !ok || l.last > old.last {
			newest[l.uid] = l
		}
	}
}

// beats says that the newest life of a VM is alive now.
func (c *Cluster) beats(uid string) bool {
	all := c.lives(uid)
	return len(all) > 0 && sinceBoot()-all[len(all)-1].last < time.Second
}

// awaitEnd waits until a VM has shown no sign of life for a second, and says when
// the last one was.
func (c *Cluster) awaitEnd(uid string, d time.Duration) time.Duration {
	c.t.Helper()
	c.Eventually(d, "the end of "+uid, func() error {
		if c.beats(uid) {
			return fmt.Errorf("it lives")
		}
		return nil
	})
	all := c.lives(uid)
	return all[len(all)-1].last
}

func sinceBoot() time.Duration { return time.Duration(lease.Now()) }

// strays are the processes that belong to a cluster's directories, by what they run.
func (c *Cluster) strays() (all []string) {
	words := []string{c.dir + "/"}
	for _, n := range c.nodes {
		words = append(words, n.RunAt)
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		cmdline, _ := os.ReadFile(d + "/cmdline")
		environ, _ := os.ReadFile(d + "/environ")
		cwd, _ := os.Readlink(d + "/cwd")
		text := string(cmdline) + "\x00" + string(environ) + "\x00" + cwd + "/"
		if slices.ContainsFunc(words, func(w string) bool { return strings.Contains(text, w) }) && len(cmdline) > 0 {
			all = append(all, filepath.Base(d)+" "+strings.ReplaceAll(string(cmdline), "\x00", " "))
		}
	}
	return all
}

func TestWitness(t *testing.T) {
	t.Parallel()
	c := &Cluster{t: t, dir: t.TempDir()}
	write := func(lines string) { os.WriteFile(c.witnessed(), []byte(lines), 0o600) }
	judge := func() bool {
		judged := &Cluster{t: &quiet{TB: t}, dir: c.dir}
		judged.neverTwo()
		return !judged.t.(*quiet).failed
	}
	write("1-1 1 a 100 /x\n1-1 1 a 200 /x\n1-1 2 b 201 /y\n2-2 1 c 150 /y\n")
	if !judge() {
		t.Error("lives one after the other are no fault")
	}
	write("1-1 1 a 100 /x\n1-1 2 b 150 /y\n1-1 1 a 200 /x\n")
	if judge() {
		t.Error("overlapping lives were not seen")
	}
	write("1-1 1 a 100 /x\n1-1 2 b 150 /y\n1-1 2 b 160 /y\n1-1 3 d 170 /y\n1-1 1 a 200 /x\n")
	if judge() {
		t.Error("a short life within a long one was not seen")
	}
}

// quiet takes note of a failure that is wanted.
type quiet struct {
	testing.TB
	failed bool
}

func (q *quiet) Errorf(string, ...any) { q.failed = true }
