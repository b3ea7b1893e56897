package vmm

import (
	"slices"
	"strconv"
	"strings"

	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A snapshot of a VM is taken by an order like any other: the guest is paused, its
// memory and its disks are written down, and it goes on. Its uid is
// "GENERATION-INDEX" of the log entry that ordered it.
//
// Which snapshots a host keeps it is told as a whole, now and then (KeepList). Such a
// list may come late. It says nothing of a snapshot that was ordered after it.

// KeepList is a list of all the snapshots that a host is to keep.
type KeepList struct {
	// Generation of the cluster, and log index, as of which it is all of them.
	Generation, Revision uint64
	UIDs                 []string
}

// Wants says whether a snapshot that is here is to stay.
func (k *KeepList) Wants(uid string) bool {
	if slices.Contains(k.UIDs, uid) {
		return true
	}
	generation, index, ok := parseUID(uid)
	return ok && (generation > k.Generation || generation == k.Generation && index > k.Revision)
}

func parseUID(uid string) (generation, index uint64, ok bool) {
	g, i, _ := strings.Cut(uid, "-")
	generation, err1 := strconv.ParseUint(g, 10, 64)
	index, err2 := strconv.ParseUint(i, 10, 64)
	return generation, index, err1 == nil && err2 == nil
}

// planSnapshot takes the oldest snapshot that is wanted of a live instance.
func (u *Unit) planSnapshot(c Context) *Action {
	if !u.Seen.Ready || u.restores() {
		return nil
	}
	for _, o := range u.Want.GetSnapshots() {
		if u.snapshots[o.Uid] == nil {
			u.health.probe = 0 // what is under way would say of a healthy guest that it stands still
			a := u.await(c, Snapshot)
			a.Snapshot, u.snapshot = o.Uid, o.Uid
			return a
		}
	}
	return nil
}

// finishSnapshot takes the answer to a Snapshot.
func (u *Unit) finishSnapshot(d Done) {
	r := &blixardv1.SnapshotResult{Uid: u.snapshot, Image: d.Image}
	if d.Err != "" || d.Image == nil {
		r.Image, r.Message = nil, sayable(d.Err)
	}
	u.result(r)
}

func (u *Unit) result(r *blixardv1.SnapshotResult) {
	if u.snapshots == nil {
		u.snapshots = map[string]*blixardv1.SnapshotResult{}
	}
	// any order: each alike
	for uid := range u.snapshots {
		if !slices.ContainsFunc(u.Want.GetSnapshots(), func(o *blixardv1.SnapshotOrder) bool { return o.Uid == uid }) {
			delete(u.snapshots, uid)
		}
	}
	u.snapshots[r.Uid] = r
}

// untaken fails the snapshots that were to be taken of what has ended.
func (u *Unit) untaken() {
	for _, o := range u.Want.GetSnapshots() {
		if u.snapshots[o.Uid] == nil {
			u.result(&blixardv1.SnapshotResult{Uid: o.Uid, Message: "the VM has ended before it was taken"})
		}
	}
}

// results are those that are still asked for.
func (u *Unit) results() (list []*blixardv1.SnapshotResult) {
	for _, o := range u.Want.GetSnapshots() {
		if r := u.snapshots[o.Uid]; r != nil {
			list = append(list, r)
		}
	}
	return list
}

// ends says that the live instance is to end, so that a snapshot of it under way is
// not waited for.
func (u *Unit) ends() bool {
	return u.Want == nil || !u.current() || u.Want.Remove || !u.Want.Run
}

// restores says that the next start is one from a snapshot.
func (u *Unit) restores() bool {
	r := u.Want.GetRestore()
	return r != nil && (r.Index > u.restored || mutant.On("RestoredAgain"))
}
