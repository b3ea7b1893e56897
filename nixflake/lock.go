package nixflake

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ErrLock says that a flake.lock does not belong to pins.
var ErrLock = errors.New("nixflake: the lock does not fit")

// lockFile is a flake.lock, as far as it matters here.
type lockFile struct {
	Version int
	Root    string
	Nodes   map[string]lockNode
}

type lockNode struct {
	// Inputs are names of nodes, or paths from the root of inputs that they follow.
	Inputs   map[string]any
	Original map[string]any
	Locked   map[string]any
}

// CheckLock says whether a lock has just the inputs that a rendered flake has,
// from where the pins say. Nix would replace what does not belong: the lock would
// then pin nothing, and nobody would hear of it.
func CheckLock(lock []byte, p Pins) error {
	var l lockFile
	if err := json.Unmarshal(lock, &l); err != nil {
		return fmt.Errorf("%w: it is no flake.lock: %w", ErrLock, err)
	}
	if l.Version < 5 || l.Version > 7 {
		return fmt.Errorf("%w: it is no flake.lock of version 5 to 7", ErrLock)
	}
	root := l.Nodes[l.Root]
	want := map[string]string{
		"nixpkgs":         cmp.Or(p.Nixpkgs, DefaultNixpkgs),
		"flake-parts":     cmp.Or(p.FlakeParts, DefaultFlakeParts),
		"microvm":         cmp.Or(p.Microvm, DefaultMicrovm),
		"blixard-modules": cmp.Or(p.Modules, "path:./"+ModulesDir),
	}
	for _, name := range slices.Sorted(maps.Keys(root.Inputs)) {
		if want[name] == "" {
			return fmt.Errorf("%w: it has an input %s, and no NixOS VM's flake has one", ErrLock, name)
		}
	}
	expected := map[string]bool{l.Root: true}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		key, ok := root.Inputs[name].(string)
		switch {
		case root.Inputs[name] == nil && name == "blixard-modules" && p.Modules == "":
			continue // they are beside each flake, whatever the lock says
		case !ok || l.Nodes[key].Locked == nil:
			return fmt.Errorf("%w: it does not lock %s", ErrLock, name)
		}
		if from := reference(l.Nodes[key].Original); from != "" && from != want[name] && !strings.Contains(want[name], "?") {
			return fmt.Errorf("%w: it has %s from %s, and the pins say %s", ErrLock, name, from, want[name])
		}
		expected[key] = true
		if name == "blixard-modules" {
			l.below(key, expected)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(l.Nodes)) {
		if !expected[key] {
			return fmt.Errorf("%w: it also locks %s, which is an input of an input; in a NixOS VM's flake those follow nixpkgs", ErrLock, key)
		}
	}
	return nil
}

// below adds all that a node refers to.
func (l *lockFile) below(key string, to map[string]bool) {
	for _, input := range l.Nodes[key].Inputs {
		if name, ok := input.(string); ok && !to[name] {
			to[name] = true
			l.below(name, to)
		}
	}
}

// reference writes what a lock calls original as people do; empty when it is of a
// kind that has several spellings.
func reference(o map[string]any) string {
	s := func(key string) string { text, _ := o[key].(string); return text }
	for _, key := range []string{"dir", "host", "narHash"} {
		if s(key) != "" {
			return ""
		}
	}
	rev := cmp.Or(s("ref"), s("rev"))
	switch s("type") {
	case "github", "gitlab", "sourcehut":
		if rev != "" {
			rev = "/" + rev
		}
		return s("type") + ":" + s("owner") + "/" + s("repo") + rev
	case "path":
		return "path:" + s("path")
	case "git":
		if rev == "" {
			return "git+" + s("url")
		}
	case "indirect":
		return "flake:" + s("id")
	}
	return ""
}
