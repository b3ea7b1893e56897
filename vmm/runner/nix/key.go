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
	// lock is the flake.lock to begin with: what an earlier build locked, else the
	// order's own, given.
	lock, given string
	key         string
	log         *sink
}

func (b *Builder) newJob(o Order) *job {
	j := &job{order: o, log: newSink(o.Log)}
	if i := slices.IndexFunc(o.Files, isLock); i >= 0 {
		j.given = o.Files[i].Text
	}
	j.lock = j.given
	if l := o.Want.GetLocked(); l != "" && !o.Fresh {
		j.lock = l
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

func isLock(f nixflake.File) bool { return f.Path == lockFile }

// flight names what may be done once for several orders.
func (j *job) flight() string {
	return j.key + " " + strconv.FormatBool(j.order.Fresh) + " " + j.want()
}

// keyWith hashes all that Nix sees: two orders have the same key only if Nix
// would build the same.
func (j *job) keyWith(system, lock string) string {
	files := slices.DeleteFunc(slices.Clone(j.order.Files), isLock)
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
