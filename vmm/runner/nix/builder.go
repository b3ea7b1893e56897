package nix

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/nixflake"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Why there is no runner. An error that is none of these is Nix's own word.
var (
	// ErrNoNix says that this host cannot build at all.
	ErrNoNix = errors.New("there is no usable Nix on this host")
	// ErrTimeout says that Config.Timeout was not enough.
	ErrTimeout = errors.New("the time for a build is over")
	// ErrMemory says that Config.MemoryMiB was not enough.
	ErrMemory = errors.New("the memory for an evaluation is used up")
	// ErrFull says that a disk of this host has no room.
	ErrFull = errors.New("no space left on this host")
	// ErrShape says that what was built is no microvm.nix runner.
	ErrShape = errors.New("not a microvm.nix runner")
	// ErrNotHeld says that a path is not rooted here.
	ErrNotHeld = errors.New("not held here")
)

// Config is what a Builder is told.
type Config struct {
	// Dir is the builder's own, on a disk, and absolute.
	Dir string
	// Path is the folder that nix and nix-store are in; empty: they are in PATH.
	Path string
	// Env is added to what nix finds in its environment.
	Env []string
	// Timeout bounds one build, evaluation included, without the time it waits
	// for its turn; 0: an hour.
	Timeout time.Duration
	// MemoryMiB bounds one evaluation; 0: 4096.
	MemoryMiB uint64
	// Jobs is how many build at once; 0: one for every 2 GiB of memory and every
	// two CPUs, whichever are fewer.
	Jobs int
	// Peer opens a closure as `nix-store --export` writes it, from the host at an
	// address; nil: no host has any. The builder closes it.
	Peer func(ctx context.Context, address, storePath string) (io.ReadCloser, error)
	// Log takes what is of use to operators only; nil: nowhere.
	Log *slog.Logger
}

// Order asks for the runner of one VM.
type Order struct {
	// UID is who holds the runner; Name is its attribute, packages.SYSTEM.Name.
	UID, Name string
	// Files are the flake; those with a digest are opened by Open. Without any,
	// only Want will do: it is not built.
	Files []nixflake.File
	Open  func(digest string) (io.ReadCloser, error)
	// Fresh builds even what was built here before, from the newest that the
	// flake refers to.
	Fresh bool
	// Want is what another host, or this one, built from the same files;
	// Addresses are the hosts that have it.
	Want      *blixardv1.Runner
	Addresses []string
	// Log takes the progress and the build's log, line by line; nil: nowhere.
	// Where nothing is to be done, nothing is said. A Log that blocks holds the
	// build up.
	Log io.Writer
}

// Builder builds runners and keeps them. Its methods may be called from any
// goroutine.
type Builder struct {
	cfg     Config
	system  string
	tools   tools
	version string
	guard   *os.File // the lock of the directory
	silence time.Duration

	// Three queues: were a host's exports to wait behind its imports, two hosts
	// that copy from each other would wait for ever.
	builds, imports, exports *queue

	mu      sync.Mutex
	runners map[string]*runner // by store path
	keys    map[string]*runner
	latest  map[string]string // uid -> what Build gave it and no Hold has named yet
	flights map[string]*flight
	next    int // number of the next runner's folder
	closing bool
	flying  sync.WaitGroup
}

// Open finds Nix, and what an earlier Builder held in the directory.
func Open(cfg Config) (*Builder, error) {
	system, ok := map[string]string{"amd64": "x86_64-linux", "arm64": "aarch64-linux"}[runtime.GOARCH]
	if !ok {
		return nil, fmt.Errorf("%w: no runner is built for %s", ErrNoNix, runtime.GOARCH)
	}
	if !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("nix: the builder's directory must be an absolute path, not %q", cfg.Dir)
	}
	cfg.Timeout = cmp.Or(cfg.Timeout, time.Hour)
	cfg.MemoryMiB = cmp.Or(cfg.MemoryMiB, 4096)
	cfg.Jobs = cmp.Or(cfg.Jobs, defaultJobs())
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	b := &Builder{
		cfg: cfg, system: system, silence: peerSilence,
		builds: newQueue(cfg.Jobs), imports: newQueue(copiesAtOnce), exports: newQueue(copiesAtOnce),
		runners: map[string]*runner{}, keys: map[string]*runner{},
		latest: map[string]string{}, flights: map[string]*flight{}, next: 1,
	}
	for _, d := range []string{b.workRoot(), b.runnersRoot(), b.home()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("open the builder: %w", err)
		}
	}
	if err := b.lockDir(); err != nil {
		return nil, err
	}
	err := b.findNix()
	if err == nil {
		err = sweep(b.workRoot())
	}
	if err == nil {
		err = b.load()
	}
	if err != nil {
		b.guard.Close()
		return nil, err
	}
	return b, nil
}

// copiesAtOnce bounds what is fetched, and what is sent, at once: a copy is disk
// and network, not memory, and must not wait behind builds.
const copiesAtOnce = 4

func defaultJobs() int {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 1
	}
	memory := uint64(info.Totalram) * uint64(info.Unit) / (2 << 30)
	return int(max(1, min(memory, uint64(runtime.NumCPU()/2))))
}

func (b *Builder) lockDir() error {
	f, err := os.OpenFile(filepath.Join(b.cfg.Dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open the builder: %w", err)
	}
	for end := time.Now().Add(lockPatience); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			b.guard = f
			return nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR || time.Now().After(end) {
			f.Close()
			return fmt.Errorf("open the builder: another one uses %s: %w", b.cfg.Dir, err)
		}
	}
}

// lockPatience is how long the keepers of a daemon that was killed may take to
// end: they have its lock until no nix of theirs can write here any more.
const lockPatience = stopGrace + killPatience + time.Second

// findNix finds the programs, and asks for their version.
func (b *Builder) findNix() error {
	find := func(name string) (string, error) {
		if b.cfg.Path != "" {
			return exec.LookPath(filepath.Join(b.cfg.Path, name))
		}
		return exec.LookPath(name)
	}
	var err error
	if b.tools.nix, err = find("nix"); err == nil {
		b.tools.store, err = find("nix-store")
	}
	if err != nil {
		return fmt.Errorf("%w: %w; install Nix 2.20 or newer, or say where it is", ErrNoNix, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := b.ask(ctx, command{what: "nix --version", program: b.tools.nix, args: []string{"--version"}})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoNix, err)
	}
	words := strings.Fields(out)
	if len(words) == 0 {
		return fmt.Errorf("%w: %s --version says nothing", ErrNoNix, b.tools.nix)
	}
	b.version = words[len(words)-1]
	return nil
}

// Version is that of Nix, such as 2.26.3.
func (b *Builder) Version() string { return b.version }

// System is what is built for, such as x86_64-linux.
func (b *Builder) System() string { return b.system }

// Close ends the builds under way, and leaves all roots as they are.
func (b *Builder) Close() error {
	b.mu.Lock()
	b.closing = true
	for _, f := range b.flights {
		f.cancel(errClosed)
	}
	b.mu.Unlock()
	b.flying.Wait()
	return b.guard.Close()
}

var errClosed = errors.New("nix: the builder was closed")

// Build gives the runner of an order, held for its uid: it is rooted until a
// Hold says otherwise. A ctx that ends, ends what nobody else waits for, and
// Build returns only when nothing of that is left.
func (b *Builder) Build(ctx context.Context, o Order) (*blixardv1.Runner, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	j := b.newJob(o)
	b.mu.Lock()
	if b.closing {
		b.mu.Unlock()
		return nil, errClosed
	}
	if r, locked := b.known(j); r != nil {
		err := b.hold(r, o.UID)
		b.latest[o.UID] = r.Path
		b.mu.Unlock()
		return r.proto(locked), err
	}
	f := b.join(j)
	b.mu.Unlock()
	return f.wait(ctx, b, j)
}

// known finds, under the lock, what needs no process.
func (b *Builder) known(j *job) (*runner, string) {
	if w := j.want(); w != "" {
		if r := b.valid(b.runners[w]); r != nil {
			return r, j.order.Want.GetLocked()
		}
		return nil, ""
	}
	if j.order.Fresh {
		return nil, ""
	}
	return b.cached(j)
}

func (b *Builder) cached(j *job) (*runner, string) {
	r := b.valid(b.keys[j.key])
	if r == nil {
		return nil, ""
	}
	return r, r.Keys[j.key]
}

func (o *Order) validate() error {
	switch {
	case !plain(o.UID):
		return fmt.Errorf("nix: %.80q cannot be a uid", o.UID)
	case !plain(o.Name):
		return fmt.Errorf("nix: %.80q cannot be the name of a VM", o.Name)
	case o.Want.GetStorePath() != "" && !storePath(o.Want.GetStorePath()):
		return fmt.Errorf("nix: %.120q is no store path", o.Want.GetStorePath())
	case len(o.Files) == 0 && (o.Want.GetStorePath() == "" || o.Fresh):
		return errors.New("nix: an order without files, and nothing that was built from them")
	}
	return validFiles(o.Files)
}

// plain says whether a word is safe as a file's name, and in an attribute path.
func plain(s string) bool {
	if s == "" || len(s) > 200 || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		if !wordly(s[i]) && s[i] != '-' && s[i] != '_' && s[i] != '.' {
			return false
		}
	}
	return true
}

func wordly(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// storePath says whether a string can be the path of something in a Nix store,
// of whatever store directory.
func storePath(s string) bool {
	dir, base := filepath.Split(s)
	hash, name, found := strings.Cut(base, "-")
	if !filepath.IsAbs(s) || filepath.Clean(s) != s || dir == "/" || !found || len(hash) != 32 || name == "" || len(name) > 211 {
		return false
	}
	for i := range len(hash) {
		if !strings.ContainsRune(nix32, rune(hash[i])) {
			return false
		}
	}
	for i := range len(name) {
		if !wordly(name[i]) && !strings.ContainsRune("+-._?=", rune(name[i])) {
			return false
		}
	}
	return true
}
