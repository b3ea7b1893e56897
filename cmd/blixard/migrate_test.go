package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A real guest goes from host to host while it counts on its console, and on a disk of
// its own before it says so, and echoes what it is told over one TCP connection through
// a bridge.

// roamer is a guest that moves, and what was heard of it.
type roamer struct {
	*Cluster
	vm *blixardv1.VM

	mu       sync.Mutex
	consoles []*os.File // of every host that it was seen on, in that order
	at       map[string]bool
	stop     chan struct{}
	watching sync.WaitGroup
	two      atomic.Pointer[string] // what was seen, if two ran
}

const (
	roamTick = 100 * time.Millisecond
	roamDisk = "name=data,size=64"
)

var roamWords = "blixard.count=data blixard.tick=" + roamTick.String()

func (r *roamer) console(n *Node) string {
	return filepath.Join(n.Data, "host", "vms", r.vm.GetUid(), "console.log")
}

// look opens the consoles that are there: what is open can be read when it is
// removed.
func (r *roamer) look() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.nodes {
		f, err := os.Open(r.console(n))
		if err != nil {
			continue
		}
		key := inode(f)
		if r.at[key] {
			f.Close()
			continue
		}
		r.at[key] = true
		r.consoles = append(r.consoles, f)
	}
}

func inode(f *os.File) string {
	st, err := f.Stat()
	if err != nil {
		return ""
	}
	return fmt.Sprint(st.Sys().(*syscall.Stat_t).Ino)
}

// watch looks whether two guests count at a time: two consoles that grow, one after
// the other and again the first.
func (r *roamer) watch() {
	var history []int
	sizes := map[int]int64{}
	for {
		select {
		case <-r.stop:
			return
		case <-time.After(roamTick / 2):
		}
		r.look()
		r.mu.Lock()
		for i, f := range r.consoles {
			st, err := f.Stat()
			if err != nil || st.Size() == sizes[i] {
				continue
			}
			b, _ := io.ReadAll(io.NewSectionReader(f, sizes[i], st.Size()-sizes[i]))
			sizes[i] = st.Size()
			if len(strings.TrimSpace(markLine.ReplaceAllString(string(b), ""))) == 0 {
				continue // its host says that it waits for the guest
			}
			if n := len(history); n == 0 || history[n-1] != i {
				history = append(history, i)
			}
		}
		// A console is a directory's: a guest that comes back has a new one.
		seen := map[int]bool{}
		for k, i := range history {
			if seen[i] && k > 0 {
				s := fmt.Sprintf("consoles grew in the order %v", history)
				r.two.CompareAndSwap(nil, &s)
			}
			seen[i] = true
		}
		r.mu.Unlock()
	}
}

var (
	tickLine = regexp.MustCompile(`tick (\d+) name=roamer`)
	markLine = regexp.MustCompile(`\n?--- attempt \d+ ---\n|tap-up as .*\n|runner version .*\n`)
)

// said is all that was said, over all consoles, in the order of the hosts.
func (r *roamer) said() string {
	r.look()
	r.mu.Lock()
	defer r.mu.Unlock()
	var all strings.Builder
	for _, f := range r.consoles {
		b, _ := io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
		all.Write(b)
	}
	return markLine.ReplaceAllString(all.String(), "")
}

// counted is how far the guest has counted; it fails if a number is missing.
func (r *roamer) counted() int {
	r.t.Helper()
	last := 0
	for _, m := range tickLine.FindAllStringSubmatch(r.said(), -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil || n != last+1 {
			r.t.Fatalf("after %d it counted %s (%v)", last, m[1], err)
		}
		last = n
	}
	return last
}

var countLine = regexp.MustCompile(`tick (\d+) name=roamer|disk data has counted to (\d+)`)

// keptAll fails when a guest that was started anew has less on its disk than was said
// before, on whichever host: a number is written, and flushed, before it is said.
func (r *roamer) keptAll() {
	r.t.Helper()
	last, boots := 0, 0
	for _, m := range countLine.FindAllStringSubmatch(r.said(), -1) {
		n, _ := strconv.Atoi(m[1] + m[2])
		switch {
		case m[2] != "" && n < last:
			r.t.Fatalf("it had said %d, and was started anew with a disk that has %d", last, n)
		case m[2] != "":
			boots++
		case n != last+1:
			r.t.Fatalf("after %d it counted %d", last, n)
		}
		last = n
	}
	r.t.Logf("it has counted to %d, and was started %d times", last, boots)
}

// move moves it, and waits until it has.
func (r *roamer) move(to string) *blixardv1.Migration {
	r.t.Helper()
	resp, err := r.Client().VM.Migrate(ctx(r.t), connect.NewRequest(&blixardv1.MigrateRequest{Name: "roamer", To: to}))
	if err != nil {
		r.t.Fatalf("migrate: %v", err)
	}
	id := resp.Msg.GetVm().GetMigration().GetId()
	var m *blixardv1.Migration
	r.Eventually(120*time.Second, "the end of the move", func() error {
		v, _ := r.VM("roamer")
		m = v.GetMigration()
		switch {
		case m.GetId() != id:
			return fmt.Errorf("it is about another: %v", m)
		case m.GetState() == blixardv1.MigrationState_MIGRATION_STATE_DONE, m.GetState() == blixardv1.MigrationState_MIGRATION_STATE_FAILED:
			return nil
		}
		return fmt.Errorf("it is %v", m)
	})
	return m
}

// another is the name of a host on which it is not.
func (r *roamer) another() string { return r.Node(r.other(r.HostOf("roamer"))).Name }

// talker says something over one connection, again and again, and hears it back.
type talker struct {
	conn net.Conn
	said atomic.Int64
	gap  atomic.Int64 // the longest, in ns
	err  chan error
}

func talkTo(t testing.TB, address string) *talker {
	t.Helper()
	var conn net.Conn
	eventually(t, 90*time.Second, "a connection to the guest", func() (err error) {
		conn, err = net.DialTimeout("tcp4", address, 3*time.Second)
		return err
	})
	k := &talker{conn: conn, err: make(chan error, 1)}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 8)
		for last := time.Now(); ; {
			word := fmt.Sprintf("%08d", k.said.Load())
			conn.SetDeadline(time.Now().Add(60 * time.Second))
			if _, err := io.WriteString(conn, word); err != nil {
				k.err <- err
				return
			}
			if _, err := io.ReadFull(conn, buf); err != nil || string(buf) != word {
				k.err <- fmt.Errorf("said %s, heard %q: %w", word, buf, err)
				return
			}
			now := time.Now()
			k.gap.Store(max(k.gap.Load(), int64(now.Sub(last))))
			last = now
			k.said.Add(1)
			time.Sleep(20 * time.Millisecond)
		}
	}()
	return k
}

// rounds of the soak: scripts/soak migrations.
func rounds(t testing.TB, otherwise int) int {
	n := otherwise
	if text := os.Getenv("BLIXARD_MIGRATIONS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// A guest moves from host to host, counts on without a gap, and the connection to it
// that was there before is there after.
func TestLiveMigration(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make taps and bridges")
	}
	t.Parallel()
	// The network must be there before the VM.
	guestFiles(t)
	c := up(t, 3, func(o *options) { o.settings = &blixardv1.Settings{LeaseMs: 6000, RenewMs: 1000} })
	create := pushGuest(c)
	subnet := freeSubnet(t, "10.215")
	c.Must("network", "create", "lan", subnet+".0/24")
	if out := c.Must("node", "get", "n1"); strings.Contains(out, "cannot be plugged") {
		t.Skip("no taps and bridges can be made here: " + out)
	}
	c.Must(create("roamer", "--hypervisor", "qemu", "--network", "lan", "--disk", roamDisk, "--cmdline", "blixard.work=64 "+roamWords)...)
	r := follow(c)
	k := talkTo(t, subnet+".2:7")
	n := rounds(t, 2)
	for i := range n {
		from, to := r.HostOf("roamer").Name, r.another()
		k.gap.Store(0)
		begin := time.Now()
		m := r.move(to)
		if m.GetState() != blixardv1.MigrationState_MIGRATION_STATE_DONE {
			t.Fatalf("move %d, from %s to %s: %v", i+1, from, to, m)
		}
		took := time.Since(begin)
		said, before := k.said.Load(), r.counted()
		r.Eventually(60*time.Second, "the guest counts and answers on "+to, func() error {
			select {
			case err := <-k.err:
				t.Fatalf("the connection did not come over: %v", err)
			default:
			}
			if now := r.counted(); now < before+5 || k.said.Load() < said+5 {
				return fmt.Errorf("it counted to %d, and answered %d", now, k.said.Load())
			}
			return nil
		})
		if now := r.HostOf("roamer").Name; now != to {
			t.Errorf("it is on %s", now)
		}
		t.Logf("move %d of %d: %s to %s in %s; no guest for %d ms by the log, %s between two answers; counted to %d", i+1, n, from, to,
			took.Round(time.Millisecond), m.GetDowntimeMs(), time.Duration(k.gap.Load()).Round(time.Millisecond), r.counted())
	}
	if lost := strings.Count(r.said(), "memory was lost"); lost != 0 {
		t.Errorf("%d pages were not what the guest had written", lost)
	}
	r.keptAll()
	if v, _ := c.VM("roamer"); v.GetStatus().GetFailures() != 0 {
		t.Errorf("it has failures: %v", v.GetStatus())
	}
	c.Must("vm", "delete", "-y", "roamer")
	c.Must("network", "delete", "lan")
	for _, n := range c.nodes {
		if err := noneOf(n); err != nil {
			t.Error(err)
		}
	}
}

// follow watches the VM named roamer.
func follow(c *Cluster) *roamer {
	c.t.Helper()
	c.awaitTick("roamer", 3)
	r := &roamer{Cluster: c, at: map[string]bool{}, stop: make(chan struct{})}
	r.vm, _ = c.VM("roamer")
	r.look()
	r.watching.Go(r.watch)
	c.t.Cleanup(func() {
		close(r.stop)
		r.watching.Wait()
		if s := r.two.Load(); s != nil {
			c.t.Errorf("TWO COPIES: %s", *s)
		}
		if c.t.Failed() {
			c.t.Logf("the end of what it said:\n%s", tailOf(r.said(), 8000))
		}
	})
	return r
}

// Whatever is killed at whatever step of a move, in the end one guest runs: the one
// that moved, on either host, or one that was started anew. Never two.
func TestKillWhileItMoves(t *testing.T) {
	t.Parallel()
	guestFiles(t)
	c := up(t, 3, func(o *options) { o.settings = &blixardv1.Settings{LeaseMs: 6000, RenewMs: 1000} })
	create := pushGuest(c)
	c.Must(create("roamer", "--hypervisor", "qemu", "--disk", roamDisk, "--cmdline", roamWords)...)
	r := follow(c)
	type state = blixardv1.MigrationState
	steps := []state{blixardv1.MigrationState_MIGRATION_STATE_PREPARING, blixardv1.MigrationState_MIGRATION_STATE_SENDING,
		blixardv1.MigrationState_MIGRATION_STATE_HANDED_OVER, blixardv1.MigrationState_MIGRATION_STATE_SWITCHED}
	// Each victim and each step is there in a few; scripts/soak migrations does all twenty.
	all := os.Getenv("BLIXARD_MIGRATIONS") != ""
	for i, victim := range []string{"target's daemon", "target's hypervisor", "source's daemon", "source's hypervisor", "leader"} {
		for j, at := range steps {
			if !all && (i+j)%3 != 0 {
				continue
			}
			name := victim + " at " + strings.ToLower(strings.TrimPrefix(at.String(), "MIGRATION_STATE_"))
			if !t.Run(name, func(t *testing.T) {
				c.t = t
				source := r.HostOf("roamer")
				target := c.Named(r.another())
				leader := c.Leader()
				resp, err := c.Client().VM.Migrate(ctx(t), connect.NewRequest(&blixardv1.MigrateRequest{Name: "roamer", To: target.Name}))
				if err != nil {
					t.Fatal(err)
				}
				id, reached := resp.Msg.GetVm().GetMigration().GetId(), state(0)
				for end := time.Now().Add(60 * time.Second); reached < at && time.Now().Before(end); {
					v, _ := c.VM("roamer")
					if v.GetMigration().GetId() != id {
						t.Fatalf("it is about another: %v", v.GetMigration())
					}
					reached = v.GetMigration().GetState()
				}
				t.Logf("killed when it was %v", reached)
				daemon := func(n *Node) {
					n.Kill()
					time.Sleep(time.Second)
					n.Start().Await()
				}
				hypervisor := func(n *Node) {
					if s, ok := n.Running()[r.vm.GetUid()]; ok {
						syscall.Kill(s.VM.PID, syscall.SIGKILL)
					}
				}
				switch victim {
				case "target's daemon":
					daemon(target)
				case "source's daemon":
					daemon(source)
				case "leader":
					daemon(leader)
				case "target's hypervisor":
					hypervisor(target)
				case "source's hypervisor":
					hypervisor(source)
				}
				c.Eventually(150*time.Second, "one guest that runs, and no move", func() error {
					v, node := c.VM("roamer")
					m := v.GetMigration()
					if s := m.GetState(); s != blixardv1.MigrationState_MIGRATION_STATE_DONE && s != blixardv1.MigrationState_MIGRATION_STATE_FAILED || m.GetOther() != nil {
						return fmt.Errorf("the move is %v", m)
					}
					if !isRunning(v, node) {
						return fmt.Errorf("it is %s: %v", phaseText(v), v.GetStatus())
					}
					var on []string
					for _, n := range c.nodes {
						if _, ok := n.Running()[r.vm.GetUid()]; ok {
							on = append(on, n.Name)
						}
					}
					if len(on) != 1 || on[0] != node {
						return fmt.Errorf("it is on %s, and runs on %v", node, on)
					}
					return nil
				})
				v, node := c.VM("roamer")
				t.Logf("%v, on %s: %s", v.GetMigration().GetState(), node, v.GetMigration().GetMessage())
				r.grows(node)
				r.keptAll()
				c.AwaitReady()
			}) {
				return
			}
		}
	}
	c.t = t
}

// grows waits until the guest counts on a host.
func (r *roamer) grows(node string) {
	r.t.Helper()
	path := r.console(r.Named(node))
	first := ""
	r.Eventually(120*time.Second, "the guest counts on "+node, func() error {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		all := tickLine.FindAllString(string(b), -1)
		if len(all) == 0 {
			return fmt.Errorf("it says %s", tailOf(string(b), 200))
		}
		if first == "" {
			first = all[len(all)-1]
		}
		if all[len(all)-1] == first {
			return fmt.Errorf("it stands at %s", first)
		}
		return nil
	})
}
