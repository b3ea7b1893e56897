package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/rpc"
)

// realNix is a real Nix, or skips: BLIXARD_NIX, what scripts/nix unpacked, or the
// machine's own.
func realNix(t testing.TB) string {
	t.Helper()
	cache := os.Getenv("BLIXARD_CACHE")
	if cache == "" {
		if dir, err := os.UserCacheDir(); err == nil {
			cache = filepath.Join(dir, "blixard")
		}
	}
	for _, nix := range []string{os.Getenv("BLIXARD_NIX"), filepath.Join(cache, "nix", "bin", "nix")} {
		if nix != "" && findParser(nix, nil) != nil {
			return nix
		}
	}
	if findParser("", nil) == nil {
		t.Skip("there is no Nix: scripts/nix --setup brings one, where it can")
	}
	return ""
}

func inline(texts ...string) *blixardv1.VMSpec {
	n := &blixardv1.Nixos{Modules: []*blixardv1.NixosModule{{Source: &blixardv1.NixosModule_FlakePart{FlakePart: "webserver"}}}}
	for _, text := range texts {
		n.Modules = append(n.Modules, &blixardv1.NixosModule{Source: &blixardv1.NixosModule_Inline{Inline: text}})
	}
	return &blixardv1.VMSpec{Source: &blixardv1.VMSpec_Nixos{Nixos: n}}
}

func TestInlineModulesAreParsed(t *testing.T) {
	p := findParser(realNix(t), slog.New(slog.DiscardHandler))
	const good = "{ lib, ... }: { services.nginx.enable = lib.mkDefault true; }"
	for _, c := range []struct {
		spec        *blixardv1.VMSpec
		field, want string
	}{
		{spec: inline()},
		{spec: inline(good, "{ }")},
		// It is parsed, and nothing else.
		{spec: inline(`{ x = import /etc/passwd; y = abort "no"; z = builtins.readFile /etc/shadow; }`)},
		{inline(good, "{\n  a = 1;\n  b = ;\n}"), "spec.nixos.modules[2].inline", "line 3, column 7: syntax error, unexpected ';': b = ;"},
		{inline("{ a = lib.x; }"), "spec.nixos.modules[1].inline", "line 1, column 7: undefined variable 'lib': { a = lib.x; }"},
		{inline("{ a = 1; a = 2; }"), "spec.nixos.modules[1].inline", "attribute 'a' already defined at line 1:3"},
		{inline("\xc3\xa9 = ''${"), "spec.nixos.modules[1].inline", "line 1"},
		{inline(strings.Repeat("[", 200_000)), "spec.nixos.modules[1].inline", "memory exhausted: [[["},
		{inline(strings.Repeat("(", 120_000) + strings.Repeat(")", 120_000)), "spec.nixos.modules[1].inline", "line 1"},
	} {
		err := p.check(t.Context(), c.spec)
		d, _ := rpc.Refused(err)
		if (err == nil) != (c.want == "") || d.GetField() != c.field || !strings.Contains(d.GetMessage(), c.want) {
			t.Errorf("%.60v\n got %v\nwant %s: %s", c.spec.GetNixos().Modules, err, c.field, c.want)
		}
		if err != nil && (d.GetCode() != blixardv1.ErrorCode_ERROR_CODE_INVALID || len(d.GetMessage()) > 500) {
			t.Errorf("%v", d)
		}
	}
}

// fakeInstantiate is a nix-instantiate that does what a shell script says.
func fakeInstantiate(t *testing.T, script string) *parser {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "nix-instantiate"), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return findParser(filepath.Join(dir, "nix"), slog.New(slog.DiscardHandler))
}

func TestParserIsBounded(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	// A Nix that does not work says nothing of the module.
	for _, script := range []string{"exit 1", "echo 'error: cannot open the store' >&2; exit 1", "exit 127"} {
		if err := fakeInstantiate(t, script).check(t.Context(), inline("{ }")); err != nil {
			t.Errorf("%s: %v", script, err)
		}
	}
	// One that takes too much does.
	for _, script := range []string{`kill -SEGV $$`, `ulimit -t 1; while :; do :; done`, `[ "$(ulimit -t) $(ulimit -v)" != "10 2097152" ] || kill -XCPU $$`} {
		err := fakeInstantiate(t, script).check(t.Context(), inline("{ }"))
		if d, _ := rpc.Refused(err); d.GetField() != "spec.nixos.modules" || !strings.Contains(d.GetMessage(), "does not come to an end") {
			t.Errorf("%s: %v", script, err)
		}
	}
	// It ends with the request.
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := fakeInstantiate(t, "exec sleep 60").check(ctx, inline("{ }")); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 10*time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
	// And waits for its turn no longer either.
	p := fakeInstantiate(t, "exit 0")
	p.slots <- struct{}{}
	p.slots <- struct{}{}
	if err := p.check(ctx, inline("{ }")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no slot: %v", err)
	}
	if left, err := fs.Glob(os.DirFS(os.TempDir()), "blixard-parse-*"); err != nil || len(left) != 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func TestRenderParses(t *testing.T) {
	nix := realNix(t)
	spec := filepath.Join(t.TempDir(), "spec.yaml")
	if err := os.WriteFile(spec, []byte("name: a\nnixos:\n  modules:\n    - inline: |\n        { a = ; }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	dir := filepath.Join(t.TempDir(), "out")
	code := run([]string{"vm", "render", "-f", spec, "-o", dir, "--nix", nix}, nil, &out, &errs)
	if code != exitUsage || !strings.Contains(errs.String(), "spec.nixos.modules[0].inline: line 1, column 7: syntax error, unexpected ';'") {
		t.Errorf("exit %d: %s", code, &errs)
	}
	if exists(dir) {
		t.Error("it was written")
	}
}
