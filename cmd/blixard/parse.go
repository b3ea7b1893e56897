package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/blixard/blixard/nixflake"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/rpc"
)

// Inline modules are code, and a typing error in one is best told to whoever
// typed it, not to the log of a build an hour later. So where there is a Nix it
// parses them before a spec is accepted. It parses and no more: nothing is
// evaluated, nothing imported, no store is touched.

// parser is a real Nix that parses.
type parser struct {
	program string        // nix-instantiate
	slots   chan struct{} // so many at once
	log     *slog.Logger
}

const (
	parseTime   = 30 * time.Second
	parseCPU    = 10 // seconds
	parseMemory = 2 << 20
	parseOutput = 16 << 10
)

// findParser finds nix-instantiate beside the given nix, or in PATH; nil when
// there is none.
func findParser(nix string, log *slog.Logger) *parser {
	program := "nix-instantiate"
	if nix != "" {
		program = filepath.Join(filepath.Dir(nix), program)
	}
	program, err := exec.LookPath(program)
	if err != nil {
		return nil
	}
	return &parser{program: program, slots: make(chan struct{}, 2), log: log}
}

// A syntaxError is what Nix says of one module.
type syntaxError struct {
	file         string // as in nixflake.File
	line, column string
	message      string
	source       string // the line
}

func (e *syntaxError) Error() string {
	s := e.message
	if e.line != "" {
		s = fmt.Sprintf("line %s, column %s: %s", e.line, e.column, s)
	}
	if e.source != "" {
		s += ": " + e.source
	}
	return s
}

// parse parses modules. Only a *syntaxError says something of them.
func (p *parser) parse(ctx context.Context, modules []nixflake.File) error {
	if len(modules) == 0 {
		return nil
	}
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	dir, err := os.MkdirTemp("", "blixard-parse-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	args := []string{"-c", fmt.Sprintf(`ulimit -t %d; ulimit -v %d; ulimit -c 0; exec "$@"`, parseCPU, parseMemory), "sh", p.program, "--parse"}
	for _, m := range modules {
		path := filepath.Join(dir, filepath.FromSlash(m.Path))
		if err := writeFile(path, []byte(m.Text), 0o600); err != nil {
			return err
		}
		args = append(args, path)
	}
	limited, cancel := context.WithTimeout(ctx, parseTime)
	defer cancel()
	cmd := exec.CommandContext(limited, "/bin/sh", args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "NIX_CONF_DIR=" + dir, "NIX_USER_CONF_FILES=", "NIX_STATE_DIR=" + dir,
		"NIX_CONFIG=store = dummy://\nsubstituters =\n", "LC_ALL=C.UTF-8"}
	cmd.WaitDelay = time.Second
	said := &head{most: parseOutput}
	cmd.Stderr = said
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil:
		return nil
	case limited.Err() != nil: // the machine is slow: a module that takes long takes CPU
		return fmt.Errorf("%s: no answer within %s", p.program, parseTime)
	}
	if e := readSyntaxError(said.String(), dir); e != nil {
		return e
	}
	if s := cmd.ProcessState; s != nil && !s.Exited() { // by a signal: a bound of ours, or its own stack
		return &syntaxError{file: modules[0].Path, message: fmt.Sprintf("Nix does not come to an end with the inline modules within %d s of CPU and %d GiB of memory (%s)",
			parseCPU, parseMemory>>20, s)}
	}
	return fmt.Errorf("%s: %w: %s", p.program, err, strings.TrimSpace(said.String()))
}

// at is how Nix names a place: file, line, column.
var at = regexp.MustCompile(`(?m)^ *at (/.*):([0-9]+):([0-9]+):$`)

// readSyntaxError finds in Nix's words which of the files below dir it means.
func readSyntaxError(said, dir string) *syntaxError {
	_, rest, found := strings.Cut(said, "error:")
	place := at.FindStringSubmatch(said)
	if !found || place == nil {
		return nil
	}
	file, err := filepath.Rel(dir, place[1])
	if err != nil || !filepath.IsLocal(file) {
		return nil
	}
	e := &syntaxError{file: filepath.ToSlash(file), line: place[2], column: place[3]}
	message, _, _ := strings.Cut(rest, "\n")
	e.message = strings.TrimSpace(strings.ReplaceAll(message, place[1]+":", "line "))
	for l := range strings.SplitSeq(rest, "\n") {
		if number, text, ok := strings.Cut(l, "| "); ok && strings.TrimSpace(number) == e.line {
			e.source = shorten(strings.TrimSpace(text), 120)
			break
		}
	}
	return e
}

// shorten cuts a text that is longer than most, by runes.
func shorten(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

// check is rpc.Config.CheckVM. Only a module that Nix cannot parse is refused:
// a Nix that does not work says nothing of the module.
func (p *parser) check(ctx context.Context, spec *blixardv1.VMSpec) error {
	if spec.GetNixos() == nil {
		return nil
	}
	files, err := nixflake.Render("", nixflake.VM{Name: "vm", UID: "vm", Spec: spec}, nixflake.Pins{Modules: "path:/none"})
	if err == nil {
		err = p.parse(ctx, nixflake.InlineModules(files))
	}
	var e *syntaxError
	if errors.As(err, &e) {
		return &rpc.Refusal{Detail: e.refusal()}
	}
	if err != nil && ctx.Err() == nil {
		p.log.Warn("inline modules are accepted unparsed", "error", err)
		err = nil
	}
	return err
}

// refusal names the field.
func (e *syntaxError) refusal() *blixardv1.Error {
	d := &blixardv1.Error{Code: blixardv1.ErrorCode_ERROR_CODE_INVALID, Field: "spec.nixos.modules",
		Message: e.Error(), Advice: "correct the module; the line is that of its own text"}
	var i int
	if _, err := fmt.Sscanf(e.file, "modules/%d-inline.nix", &i); err == nil && e.line != "" {
		d.Field = fmt.Sprintf("spec.nixos.modules[%d].inline", i)
	}
	return d
}

// head keeps the first bytes that are written to it.
type head struct {
	bytes.Buffer
	most int
}

func (h *head) Write(b []byte) (int, error) {
	h.Buffer.Write(b[:min(len(b), max(0, h.most-h.Len()))])
	return len(b), nil
}
