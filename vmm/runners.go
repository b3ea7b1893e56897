package vmm

import (
	"slices"

	"github.com/blixard/blixard/core/mutant"
)

// Runners is what of Nix's one VM has on a host; each is a path in the store.
// What it lists must not be collected: what runs is stopped by its own runner,
// and a rollback needs no build.
type Runners struct {
	// Booted is what the newest attempt was started with.
	Booted string `json:"booted,omitempty"`
	// Current is what was built last, for the spec of Generation.
	Current    string `json:"current,omitempty"`
	Generation uint32 `json:"generation,omitempty"`
	// Previous is what was current before.
	Previous string `json:"previous,omitempty"`
}

// Of is what was built for a spec generation, if it is what was built last.
func (r Runners) Of(generation uint32) string {
	if r.Generation != generation && !mutant.On("StaleBuild") {
		return ""
	}
	return r.Current
}

// Have says that a path was built for a spec generation.
func (r Runners) Have(path string, generation uint32) Runners {
	if path != r.Current {
		r.Previous, r.Current = r.Current, path
	}
	r.Generation = generation
	return r
}

// Boot says that an attempt is about to be started with a path, which may be an
// older one than what was built last.
func (r Runners) Boot(path string, generation uint32) Runners {
	if r.Current == "" {
		r = r.Have(path, generation)
	}
	r.Booted = path
	return r
}

// Paths are all of them, each once.
func (r Runners) Paths() (all []string) {
	for _, p := range []string{r.Booted, r.Current, r.Previous} {
		if p != "" && !slices.Contains(all, p) && !(mutant.On("RootDropped") && p == r.Booted && p != r.Current) {
			all = append(all, p)
		}
	}
	return all
}
