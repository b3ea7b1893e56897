package nix

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/blixard/blixard/nixflake"
)

const lockFile = "flake.lock"

// job is an order and what follows from it.
type job struct {
	order Order
	// lock is the flake.lock to begin with; given says that it is one of the
	// order's own files, and not what an earlier build locked.
	lock  string
	given bool
	key   string
	log   *sink
}

func (b *Builder) newJob(o Order) *job {
	j := &job{order: o, log: newSink(o.Log)}
	i := slices.IndexFunc(o.Files, func(f nixflake.File) bool { return f.Path == lockFile })
	if i >= 0 {
		j.given, j.lock = true, o.Files[i].Text
	} else if !o.Fresh {
		j.lock = o.Want.GetLocked()
	}
	j.key = j.keyWith(b.system, j.lock)
	return j
}

func (j *job) want() string {
	if j.order.Fresh {
		return ""
	}
	return j.order.Want.GetStorePath()
}

// flight names what may be done once for several orders.
func (j *job) flight() string {
	return j.key + " " + strconv.FormatBool(j.order.Fresh) + " " + j.want()
}

// keyWith hashes all that Nix sees: two orders have the same key only if Nix
// would build the same.
func (j *job) keyWith(system, lock string) string {
	files := slices.DeleteFunc(slices.Clone(j.order.Files), func(f nixflake.File) bool { return f.Path == lockFile && f.Digest == "" })
	if lock != "" {
		files = append(files, nixflake.File{Path: lockFile, Text: lock})
	}
	slices.SortFunc(files, func(a, b nixflake.File) int { return cmp.Compare(a.Path, b.Path) })
	h := sha256.New()
	// Each part is preceded by its length, so that none can pass for another.
	part := func(s string) {
		fmt.Fprintf(h, "%d:", len(s))
		io.WriteString(h, s)
	}
	part("blixard runner 1")
	part(system)
	part(j.order.Name)
	for _, f := range files {
		part(f.Path)
		part(f.Text)
		part(f.Digest)
		part(strconv.FormatBool(f.Unpack))
	}
	return hex.EncodeToString(h.Sum(nil))
}
