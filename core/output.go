package core

import (
	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
)

// Output is what a node wants done after one step. Everything in it may be
// carried out at once and in any order: what must wait for the disk is held
// back inside the node until Wrote says that it may go.
type Output struct {
	// Write, when not nil, is the one batch of this step. There is at most one
	// batch under way at a time.
	Write *Batch
	// Messages may be lost.
	Messages []Message
	// Actions are carried out at least once, in order for each VM.
	Actions []vmm.Action
	// Replies answer clients.
	Replies []Reply
	// Applied is what the entries applied in this step have changed, oldest first,
	// for whoever follows the state. Every entry changes something, so a gap in
	// the indexes shows that a snapshot was installed.
	Applied []cluster.Change
}

// Reply answers the Request with the same ID.
type Reply struct {
	ID uint64
	// Response to a mutation. Its Error may be NO_QUORUM: the outcome is unknown.
	Response *blixardv1.Response
	// View answers a read: a frozen state, to be read outside of the loop for as
	// long as one likes.
	View *cluster.State
	// One answers a read of one VM.
	One *cluster.One
	// Error, for a read that could not be made.
	Error *blixardv1.Error
}
