package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/blixard/blixard/core/cluster"
	"github.com/blixard/blixard/nixflake"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// What Nix is given can be looked at without a cluster: these commands ask
// nobody. What a spec names is read here, and put where the daemon would put
// the artifact.

func (c *VMRenderCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	dir, err := g.folder()
	if err != nil {
		return err
	}
	drafts, err := readSpecs(c.File, t.in)
	if err != nil {
		return err
	}
	pins := nixflake.Pins{Nixpkgs: c.Nixpkgs, FlakeParts: c.FlakeParts, Microvm: c.Microvm, Modules: c.BlixardModules}
	if c.Lock != "" {
		b, err := os.ReadFile(c.Lock)
		if err != nil {
			return usagef("--lock: %v", err)
		}
		pins.Lock = string(b)
	}
	parser := findParser(c.Nix, slog.New(slog.DiscardHandler))
	if c.Nix != "" && parser == nil {
		return usagef("--nix %s: there is no nix-instantiate beside it", c.Nix)
	}
	for _, d := range drafts {
		to := dir
		if len(drafts) > 1 {
			to = filepath.Join(dir, d.name)
		}
		if err := c.render(ctx, d, pins, parser, to); err != nil {
			return fmt.Errorf("VM %s: %w", d.name, err)
		}
		fmt.Fprintf(t.out, "%s: nix build '%s#packages.x86_64-linux.%s'\n", d.name, "path:"+to, d.name)
	}
	return nil
}

func (c *VMRenderCmd) render(ctx context.Context, d *draft, pins nixflake.Pins, parser *parser, dir string) error {
	contents, err := d.readLocally()
	if err != nil {
		return err
	}
	if bad := cluster.ValidateVM(d.name, d.spec); bad != nil {
		return refused(bad)
	}
	uid := c.UID
	if uid == "" {
		uid = d.name
	}
	files, err := nixflake.Render(c.ClusterID, nixflake.VM{Name: d.name, UID: uid, Spec: d.spec}, pins)
	if errors.Is(err, nixflake.ErrSource) {
		return usagef("it boots an image or a program, which Nix does not build; render is for nixos and flake")
	}
	if err != nil {
		return err
	}
	if parser != nil {
		err := parser.parse(ctx, nixflake.InlineModules(files))
		var bad *syntaxError
		if errors.As(err, &bad) {
			return refused(bad.refusal())
		}
		if err != nil {
			return err
		}
	}
	return writeFiles(dir, files, contents)
}

// refused is a refusal that came from no server.
func refused(e *blixardv1.Error) *failure {
	return &failure{code: exitUsage, what: e.GetField() + ": " + e.GetMessage(), next: e.GetAdvice()}
}

func (c *ModulesCmd) Run(g *Globals, t *terminal) error {
	dir, err := g.folder()
	if err != nil {
		return err
	}
	if err := writeFiles(dir, nixflake.Modules, nil); err != nil {
		return err
	}
	fmt.Fprintf(t.out, "%s: %d files; use it as a flake input with blixard.url = \"path:%s\"\n", dir, len(nixflake.Modules), dir)
	return nil
}

// A folderWriter is a command whose -o names the folder that it writes.
type folderWriter interface{ writesFolder() }

func (*VMRenderCmd) writesFolder() {}
func (*ModulesCmd) writesFolder()  {}

// folder is -o where it names a folder to write.
func (g *Globals) folder() (string, error) {
	if g.Output == defaultOutput {
		return "", usagef("say where to write: -o DIR")
	}
	return filepath.Abs(g.Output)
}

// readLocally finds every artifact of a draft on this disk.
func (d *draft) readLocally() (map[string][]byte, error) {
	contents := map[string][]byte{}
	for _, r := range d.refs {
		if strings.HasPrefix(r.text, "sha256:") {
			return nil, r.fail("its content is in a cluster, and render asks none; give the file")
		}
		f, _, err := r.open()
		if err != nil {
			return nil, r.fail("%v", err)
		}
		b, err := io.ReadAll(io.LimitReader(f, nixflake.MaxPacked+1))
		f.Close()
		if err != nil {
			return nil, r.fail("%v", err)
		}
		if len(b) > nixflake.MaxPacked {
			return nil, r.fail("it is larger than %s", bytesText(nixflake.MaxPacked))
		}
		sum := sha256.Sum256(b)
		r.target.Digest, r.target.Size = hex.EncodeToString(sum[:]), uint64(len(b))
		contents[r.target.Digest] = b
	}
	return contents, nil
}

// ours are the names at the top of what render and modules write. They are
// replaced as a whole: a module that left the spec leaves the folder too.
var ours = []string{"flake.nix", "flake.lock", "modules", nixflake.ModulesDir, nixflake.SourceDir,
	"flake-module.nix", "checks-module.nix", "core", "profiles", "host"}

// writeFiles fills a folder that is not there, is empty, or was written so before.
func writeFiles(dir string, files []nixflake.File, contents map[string][]byte) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return usagef("%v", err)
	}
	if len(entries) > 0 {
		b, err := os.ReadFile(filepath.Join(dir, "flake.nix"))
		if err != nil || !nixflake.Written(b) {
			return usagef("%s holds something else; give a folder that is new or empty", dir)
		}
		for _, name := range ours {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	for _, f := range files {
		path := filepath.Join(dir, filepath.FromSlash(f.Path))
		switch {
		case f.Unpack:
			err = nixflake.Unpack(bytes.NewReader(contents[f.Digest]), func(name string, executable bool, content []byte) error {
				mode := fs.FileMode(0o644)
				if executable {
					mode = 0o755
				}
				return writeFile(filepath.Join(path, filepath.FromSlash(name)), content, mode)
			})
		case f.Digest != "":
			err = writeFile(path, contents[f.Digest], 0o644)
		default:
			err = writeFile(path, []byte(f.Text), 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func writeFile(path string, content []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, mode)
}
