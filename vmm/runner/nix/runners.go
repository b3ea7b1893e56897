package nix

import (
	"context"
	"crypto/sha1"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// runner is one store path that is rooted here; but for the fields at its end,
// it is what runner.json says.
type runner struct {
	Path         string `json:"path"`
	ClosureBytes uint64 `json:"closureBytes"`
	Hypervisor   string `json:"hypervisor"`
	// Registered is Nix's link to ours; empty: we do not know where it is.
	Registered string `json:"registered,omitempty"`
	// Keys that it is the answer to, each with what was locked to get there.
	Keys map[string]string `json:"keys"`
	UIDs []string          `json:"uids"` // sorted

	dir     string
	busy    int  // flights that are about to hold it, and exports
	changed bool // since it was written down
}

const (
	rootLink   = "root"
	runnerFile = "runner.json"
)

func (b *Builder) runnersRoot() string { return filepath.Join(b.cfg.Dir, "runners") }
func (b *Builder) workRoot() string    { return filepath.Join(b.cfg.Dir, "work") }
func (b *Builder) home() string        { return filepath.Join(b.cfg.Dir, "home") }

func (r *runner) proto(locked string) *blixardv1.Runner {
	h, _ := hypervisorNamed(r.Hypervisor)
	stays := Stays(r.Path)
	return &blixardv1.Runner{StorePath: r.Path, ClosureBytes: r.ClosureBytes, Hypervisor: h, Locked: locked, Movable: stays == "", Stays: stays}
}

// valid gives the runner if it is rooted and there, else nil.
func (b *Builder) valid(r *runner) *runner {
	if r == nil || !leadsTo(filepath.Join(r.dir, rootLink), r.Path) {
		return nil
	}
	if r.Registered != "" && !leadsTo(r.Registered, filepath.Join(r.dir, rootLink)) {
		return nil
	}
	if _, err := os.Stat(r.Path); err != nil {
		return nil
	}
	return r
}

func leadsTo(link, target string) bool {
	to, err := os.Readlink(link)
	return err == nil && to == target
}

// load reads what an earlier Builder left. What nobody holds goes.
func (b *Builder) load() error {
	names, err := os.ReadDir(b.runnersRoot())
	if err != nil {
		return fmt.Errorf("open the builder: %w", err)
	}
	// In the order of their numbers: of two that answer one key, the newer does.
	slices.SortFunc(names, func(x, y fs.DirEntry) int { return number(x) - number(y) })
	for _, n := range names {
		b.next = max(b.next, number(n)+1)
		dir := filepath.Join(b.runnersRoot(), n.Name())
		r := readRunner(dir)
		if r == nil || len(r.UIDs) == 0 {
			b.cfg.Log.Info("nobody holds it", "runner", dir)
			if err := os.RemoveAll(dir); err != nil {
				return fmt.Errorf("open the builder: %w", err)
			}
			continue
		}
		if b.valid(r) == nil {
			if err := b.rootAgain(r); err != nil {
				b.cfg.Log.Warn("a runner is not here any more", "path", r.Path, "uids", r.UIDs, "error", err)
				if err := os.RemoveAll(dir); err != nil {
					return fmt.Errorf("open the builder: %w", err)
				}
				continue
			}
		}
		if old := b.runners[r.Path]; old != nil {
			// A crash while one took the other's place: the newer has all of it.
			if err := os.RemoveAll(old.dir); err != nil {
				return fmt.Errorf("open the builder: %w", err)
			}
		}
		b.runners[r.Path] = r
		for k := range r.Keys {
			b.keys[k] = r
		}
	}
	return nil
}

func number(e fs.DirEntry) int {
	n, _ := strconv.Atoi(e.Name())
	return n
}

func readRunner(dir string) *runner {
	b, err := os.ReadFile(filepath.Join(dir, runnerFile))
	if err != nil {
		return nil
	}
	r := &runner{}
	if err := json.Unmarshal(b, r); err != nil || !storePath(r.Path) {
		return nil
	}
	if _, ok := hypervisorNamed(r.Hypervisor); !ok {
		return nil
	}
	if r.Keys == nil {
		r.Keys = map[string]string{}
	}
	r.dir = dir
	return r
}

// save replaces runner.json as a whole.
func (r *runner) save() error {
	b, err := json.Marshal(r)
	if err == nil {
		err = replace(filepath.Join(r.dir, runnerFile), b)
	}
	if err != nil {
		return fmt.Errorf("write down the runner %s: %w", r.Path, full(err))
	}
	r.changed = false
	return nil
}

func replace(path string, b []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// full says ErrFull of an error that means it.
func full(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: free some on the disk of the daemon's state: %w", ErrFull, err)
	}
	return err
}

// newRoot makes the folder of a runner to be, for a root to be put in.
func (b *Builder) newRoot() (dir string, err error) {
	b.mu.Lock()
	dir = filepath.Join(b.runnersRoot(), strconv.Itoa(b.next))
	b.next++
	b.mu.Unlock()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("root a runner: %w", full(err))
	}
	return dir, nil
}

// root makes Nix keep a path, or what a derivation makes of itself: it is built,
// fetched, or just there. It gives the folder and where the root leads.
func (b *Builder) root(ctx context.Context, c command, what string, options ...string) (dir, path string, err error) {
	if dir, err = b.newRoot(); err != nil {
		return "", "", err
	}
	link := filepath.Join(dir, rootLink)
	c.program = b.tools.store
	c.args = append([]string{"--realise", what, "--add-root", link}, options...)
	if _, err = b.ask(ctx, c); err == nil {
		path, err = os.Readlink(link)
	}
	if err == nil && !storePath(path) {
		err = fmt.Errorf("%s: the root leads to %q, which is no store path", c.what, path)
	}
	if err != nil {
		os.RemoveAll(dir)
		return "", "", err
	}
	return dir, path, nil
}

// rootAgain registers a root that Nix has forgotten.
func (b *Builder) rootAgain(r *runner) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	link := filepath.Join(r.dir, rootLink)
	c := command{what: "root " + r.Path, program: b.tools.store,
		args: []string{"--realise", r.Path, "--add-root", link, "--option", "substitute", "false"}}
	if _, err := b.ask(ctx, c); err != nil {
		return err
	}
	r.Registered = b.registration(link)
	return r.save()
}

// registration finds the link by which Nix knows a root of ours.
func (b *Builder) registration(link string) string {
	state := "/nix/var/nix"
	for _, e := range b.environment() {
		if dir, ok := strings.CutPrefix(e, "NIX_STATE_DIR="); ok && dir != "" {
			state = dir
		}
	}
	sum := sha1.Sum([]byte(link))
	auto := filepath.Join(state, "gcroots", "auto", base32(sum[:]))
	if leadsTo(auto, link) {
		return auto
	}
	return ""
}

// nix32 are the digits of Nix's own base 32.
const nix32 = "0123456789abcdfghijklmnpqrsvwxyz"

func base32(b []byte) string {
	var s strings.Builder
	for n := (len(b)*8 - 1) / 5; n >= 0; n-- {
		i, j := n*5/8, n*5%8
		c := b[i] >> j
		if i+1 < len(b) {
			c |= b[i+1] << (8 - j)
		}
		s.WriteByte(nix32[c&0x1f])
	}
	return s.String()
}

// adopt makes a runner of a folder with a root in it, or gives the one that the
// root's path has already. It is busy until somebody has held it.
func (b *Builder) adopt(found *runner) (*runner, error) {
	found.Registered = b.registration(filepath.Join(found.dir, rootLink))
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.runners[found.Path]
	if b.valid(old) != nil {
		os.RemoveAll(found.dir)
		old.busy++
		return old, nil
	}
	found.Keys = map[string]string{}
	if old != nil { // its root was lost: ours takes its place
		found.UIDs, found.Keys, found.busy = old.UIDs, old.Keys, old.busy
		if err := found.save(); err != nil {
			os.RemoveAll(found.dir)
			return nil, err
		}
		os.RemoveAll(old.dir)
		for k := range found.Keys {
			b.keys[k] = found
		}
	}
	found.busy++
	b.runners[found.Path] = found
	return found, nil
}

// answer writes down that a runner is what a key comes to. Whoever holds it next
// saves it.
func (b *Builder) answer(r *runner, key, locked string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	r.Keys[key], r.changed = locked, true
	before := b.keys[key]
	b.keys[key] = r
	if before == nil || before == r {
		return nil
	}
	delete(before.Keys, key)
	return before.save()
}

// hold writes down who needs a runner. Under the lock.
func (b *Builder) hold(r *runner, uids ...string) error {
	before := r.UIDs
	after := append(slices.Clone(before), uids...)
	slices.Sort(after)
	if r.UIDs = slices.Compact(after); len(r.UIDs) == len(before) && !r.changed {
		return nil
	}
	if err := r.save(); err != nil {
		r.UIDs = before
		return err
	}
	return nil
}

// release lets a runner go that nobody needs. Under the lock.
func (b *Builder) release(r *runner) error {
	if len(r.UIDs) > 0 || r.busy > 0 || b.runners[r.Path] != r {
		return nil
	}
	delete(b.runners, r.Path)
	for k := range r.Keys {
		if b.keys[k] == r {
			delete(b.keys, k)
		}
	}
	// At once and for good: what was moved is no root, and swept after a crash.
	gone, err := os.MkdirTemp(b.workRoot(), "gone-")
	if err == nil {
		err = os.Rename(r.dir, filepath.Join(gone, "runner"))
	}
	if err == nil {
		err = os.RemoveAll(gone)
	}
	if err != nil {
		return fmt.Errorf("release %s: %w", r.Path, err)
	}
	return nil
}

// Hold says all that a VM needs: exactly these paths stay for its uid, the
// others of it go, and Nix may collect what nobody holds. With no path, the VM
// needs nothing any more.
//
// What Build gave the uid last, and no Hold has named yet, stays as well, unless
// there is no path at all: so a build that ends while its VM is looked after is
// not lost.
//
// A path that is not rooted here is rooted if it is in the store; if it is not,
// that is ErrNotHeld, and all else is done as it was said.
func (b *Builder) Hold(uid string, paths ...string) error {
	if !plain(uid) {
		return fmt.Errorf("nix: %.80q cannot be a uid", uid)
	}
	var problems []error
	for _, p := range paths {
		problems = append(problems, b.holdOne(uid, p))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(paths) == 0 || slices.Contains(paths, b.latest[uid]) {
		delete(b.latest, uid)
	}
	for path, r := range b.runners {
		i, found := slices.BinarySearch(r.UIDs, uid)
		if !found || slices.Contains(paths, path) || path == b.latest[uid] {
			continue
		}
		r.UIDs = slices.Delete(r.UIDs, i, i+1)
		if len(r.UIDs) > 0 || r.busy > 0 {
			problems = append(problems, r.save())
			continue
		}
		problems = append(problems, b.release(r))
	}
	return errors.Join(problems...)
}

// holdOne makes a uid hold a path, whoever does already.
func (b *Builder) holdOne(uid, path string) error {
	if !storePath(path) {
		return fmt.Errorf("%w: %.120q is no store path", ErrNotHeld, path)
	}
	b.mu.Lock()
	r := b.valid(b.runners[path])
	if r == nil {
		b.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		dir, got, err := b.root(ctx, command{what: "root " + path}, path, "--option", "substitute", "false")
		if err == nil {
			r, err = b.describe(ctx, nil, dir, got, 0)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNotHeld, err)
		}
		b.mu.Lock()
		r.busy--
	}
	defer b.mu.Unlock()
	if err := b.hold(r, uid); err != nil {
		return errors.Join(err, b.release(r))
	}
	return nil
}

// Holding gives the paths that each uid holds, sorted.
func (b *Builder) Holding() map[string][]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := map[string][]string{}
	for path, r := range b.runners {
		for _, uid := range r.UIDs {
			all[uid] = append(all[uid], path)
		}
	}
	for _, paths := range all {
		slices.Sort(paths)
	}
	return all
}
