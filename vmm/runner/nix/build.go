package nix

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/blixard/blixard/nixflake"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// make gives the runner that a job comes to, busy.
func (b *Builder) make(ctx context.Context, f *flight, j *job) (*runner, string, error) {
	if j.want() != "" {
		r, err := b.bring(ctx, f, j)
		if err == nil {
			return r, j.order.Want.GetLocked(), nil
		}
		if ctx.Err() != nil || errors.Is(err, ErrFull) || errors.Is(err, ErrShape) {
			return nil, "", err
		}
		if len(j.order.Files) == 0 {
			return nil, "", fmt.Errorf("%s is nowhere to be had: %w", j.want(), err)
		}
		f.log.line("%s is nowhere to be had: building it here", j.want())
		b.mu.Lock()
		r, locked := b.cached(j)
		if r != nil {
			r.busy++
			b.mu.Unlock()
			f.log.line("%s was built here from the same files", r.Path)
			return r, locked, nil
		}
		b.mu.Unlock()
	}
	err := b.builds.enter(ctx, func(n int) { f.log.line("waiting for a place to build, behind %d others", n) })
	if err != nil {
		return nil, "", err
	}
	defer b.builds.leave()
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.Timeout, ErrTimeout)
	defer cancel()
	return b.build(ctx, f, j)
}

// build does it in a work directory that nothing is left of.
func (b *Builder) build(ctx context.Context, f *flight, j *job) (r *runner, locked string, err error) {
	begin := time.Now()
	work, err := os.MkdirTemp(b.workRoot(), "build-")
	if err != nil {
		return nil, "", fmt.Errorf("make a work directory: %w", full(err))
	}
	defer func() { err = errors.Join(err, removeAll(work)) }()
	flake := filepath.Join(work, "flake")
	if err := j.write(ctx, flake); err != nil {
		return nil, "", full(err)
	}
	attribute := "packages." + b.system + "." + j.order.Name
	f.log.line("building %s with Nix %s", attribute, b.version)
	drv, err := b.evaluate(ctx, f, j, flake)
	if err != nil {
		return nil, "", err
	}
	if locked, err = j.locked(flake); err != nil {
		return nil, "", err
	}
	f.log.line("evaluated in %s: %s", since(begin), drv)
	dir, path, err := b.root(ctx, command{what: "the build of " + attribute, log: f.log}, drv+"!out")
	if err != nil {
		return nil, "", err
	}
	if r, err = b.describe(ctx, f.log, dir, path, 0); err != nil {
		return nil, "", err
	}
	if err = b.remember(r, j, locked); err != nil {
		return r, "", err
	}
	f.log.line("built %s in %s, %d MiB with all that it refers to", path, since(begin), r.ClosureBytes>>20)
	return r, locked, nil
}

// remember notes the keys that a built runner answers: that of the order, and
// that of an order which comes with what was locked.
func (b *Builder) remember(r *runner, j *job, locked string) error {
	if err := b.answer(r, j.key, locked); err != nil || locked == "" {
		return err
	}
	return b.answer(r, j.keyWith(b.system, locked), locked)
}

func since(t time.Time) time.Duration { return time.Since(t).Round(10 * time.Millisecond) }

// evaluate locks what is open, and gives the derivation.
func (b *Builder) evaluate(ctx context.Context, f *flight, j *job, flake string) (string, error) {
	ref := "path:" + (&url.URL{Path: flake}).EscapedPath()
	c := command{program: b.tools.nix, dir: flake, memoryMiB: b.cfg.MemoryMiB, log: f.log}
	common := []string{"--extra-experimental-features", "nix-command flakes", "--log-format", "raw", "--print-build-logs", "--option", "eval-cache", "false"}
	if j.order.Fresh {
		common = append(common, "--refresh")
	}
	if j.lock == "" {
		c.what = "locking the flake's inputs"
		c.args = append([]string{"flake", "lock", ref}, common...)
		if _, err := b.ask(ctx, c); err != nil {
			return "", err
		}
	}
	c.what = "the evaluation of packages." + b.system + "." + j.order.Name
	c.args = append([]string{"path-info", "--derivation", ref + "#packages." + b.system + `."` + j.order.Name + `"`}, common...)
	out, err := b.ask(ctx, c)
	if err != nil {
		return "", err
	}
	if !storePath(out) || !strings.HasSuffix(out, ".drv") {
		return "", fmt.Errorf("%w: %s gave %.120q, not one derivation", ErrShape, c.what, out)
	}
	return out, nil
}

// maxLocked bounds a lock file: it is replicated with its VM.
const maxLocked = 1 << 20

// locked is the lock that the build used, when the order left something open.
func (j *job) locked(flake string) (string, error) {
	lock, err := os.ReadFile(filepath.Join(flake, lockFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // no inputs at all
	}
	if err != nil {
		return "", fmt.Errorf("read the lock: %w", err)
	}
	if len(lock) > maxLocked {
		return "", fmt.Errorf("the flake's lock has %d KiB, and at most %d are kept with a VM: its inputs have too many inputs", len(lock)>>10, maxLocked>>10)
	}
	if string(lock) == j.given {
		return "", nil
	}
	return string(lock), nil
}

// describe looks at what is rooted in a folder, and makes a runner of it.
func (b *Builder) describe(ctx context.Context, l *log, dir, path string, closure uint64) (r *runner, err error) {
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	name, err := shape(path)
	if err != nil {
		return nil, err
	}
	if closure == 0 {
		if closure, err = b.closureBytes(ctx, l, path); err != nil {
			return nil, err
		}
	}
	return b.adopt(&runner{Path: path, ClosureBytes: closure, Hypervisor: name, dir: dir})
}

// shape reads of a store path what it runs, and sees that it is a runner.
func shape(path string) (hypervisor string, err error) {
	run := filepath.Join(path, "bin", "microvm-run")
	st, err := os.Stat(run)
	if err != nil || !st.Mode().IsRegular() || st.Mode()&0o111 == 0 {
		return "", fmt.Errorf("%w: there is no program bin/microvm-run in %s; the VM's attribute must be a declaredRunner of microvm.nix", ErrShape, path)
	}
	name, err := Fact(path, "hypervisor")
	if err != nil {
		return "", fmt.Errorf("%w: it does not say what it runs: %w", ErrShape, err)
	}
	if _, ok := hypervisorNamed(name); !ok {
		return "", fmt.Errorf("%w that runs here: it is for %.40q, and these are for cloud-hypervisor, firecracker or qemu", ErrShape, name)
	}
	return name, nil
}

func hypervisorNamed(name string) (blixardv1.Hypervisor, bool) {
	h, ok := map[string]blixardv1.Hypervisor{
		"qemu":             blixardv1.Hypervisor_HYPERVISOR_QEMU,
		"cloud-hypervisor": blixardv1.Hypervisor_HYPERVISOR_CLOUD_HYPERVISOR,
		"firecracker":      blixardv1.Hypervisor_HYPERVISOR_FIRECRACKER,
	}[name]
	return h, ok
}

func (b *Builder) closureBytes(ctx context.Context, l *log, path string) (uint64, error) {
	out, err := b.ask(ctx, command{what: "the size of " + path, program: b.tools.nix, log: l,
		args: []string{"path-info", "--extra-experimental-features", "nix-command", "--closure-size", path}})
	if err != nil {
		return 0, err
	}
	words := strings.Fields(out)
	if len(words) != 2 || words[0] != path {
		return 0, fmt.Errorf("the size of %s: nix path-info says %.120q", path, out)
	}
	return strconv.ParseUint(words[1], 10, 64)
}

func validFiles(files []nixflake.File) error {
	seen := map[string]bool{}
	for _, f := range files {
		if !fs.ValidPath(f.Path) || f.Path == "." || seen[f.Path] {
			return fmt.Errorf("nix: %.120q cannot be a file of a flake", f.Path)
		}
		if isLock(f) && f.Digest != "" {
			return errors.New("nix: a flake.lock must come as text")
		}
		seen[f.Path] = true
	}
	return nil
}

// write puts the files of the flake where Nix reads them.
func (j *job) write(ctx context.Context, flake string) error {
	if err := os.MkdirAll(flake, 0o700); err != nil {
		return err
	}
	for _, f := range j.order.Files {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		path := filepath.Join(flake, filepath.FromSlash(f.Path))
		if f.Digest == "" {
			if err := put(path, false, []byte(f.Text)); err != nil {
				return err
			}
			continue
		}
		if err := j.content(f, path); err != nil {
			return fmt.Errorf("the artifact sha256:%.12s of %s: %w", f.Digest, f.Path, err)
		}
	}
	if j.lock != j.given {
		return put(filepath.Join(flake, lockFile), false, []byte(j.lock))
	}
	return nil
}

// content writes what a digest names, and sees that it is that.
func (j *job) content(f nixflake.File, path string) error {
	if j.order.Open == nil {
		return errors.New("there is nobody to ask for it")
	}
	r, err := j.order.Open(f.Digest)
	if err != nil {
		return err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, nixflake.MaxPacked+1))
	if err != nil {
		return err
	}
	if len(b) > nixflake.MaxPacked {
		return fmt.Errorf("it has more than %d MiB", nixflake.MaxPacked>>20)
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != f.Digest {
		return fmt.Errorf("its bytes have the digest %x", sum)
	}
	if !f.Unpack {
		return put(path, false, b)
	}
	return nixflake.Unpack(bytes.NewReader(b), func(name string, executable bool, content []byte) error {
		return put(filepath.Join(path, filepath.FromSlash(name)), executable, content)
	})
}

func put(path string, executable bool, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	mode := os.FileMode(0o600)
	if executable {
		mode = 0o700
	}
	return os.WriteFile(path, content, mode)
}

// sweep empties a directory.
func sweep(dir string) error {
	names, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("sweep %s: %w", dir, err)
	}
	for _, n := range names {
		if err := removeAll(filepath.Join(dir, n.Name())); err != nil {
			return err
		}
	}
	return nil
}

func removeAll(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}
