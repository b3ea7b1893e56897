package sim

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func init() { register(Settle{}) }

// Settle changes the leases of the cluster while it runs: shorter or longer ones,
// renewed more often or less. It is refused where a VM has a shorter lease of its
// own.
type Settle struct{ Lease, Renew, Long time.Duration }

func (Settle) draw(d dice) Fault {
	lease := time.Duration(between(d.Rand, 4, 20)) * time.Second
	return Settle{lease, (lease / time.Duration(3+d.IntN(4))).Truncate(time.Millisecond), time.Duration(between(d.Rand, 25, 90)) * time.Second}
}

func (f Settle) strike(w *World) bool {
	given := &blixardv1.Settings{
		LeaseMs: uint32(f.Lease.Milliseconds()), RenewMs: uint32(f.Renew.Milliseconds()), LongLeaseMs: uint32(f.Long.Milliseconds()),
	}
	next, err := cluster.MergeSettings(w.settings, given)
	if err != nil {
		return false
	}
	k := w.machines[0].keeper
	return k.start(func() {
		// What is promised within a time is promised for the longest there was.
		longest := proto.CloneOf(w.settings)
		longest.LeaseMs, longest.LongLeaseMs = max(longest.LeaseMs, next.LeaseMs), max(longest.LongLeaseMs, next.LongLeaseMs)
		w.settings = longest
		k.ask(&Operation{Verb: SetSettings, Settings: given}, func(op *Operation) {
			if op.Error == nil && !op.Unknown {
				w.fired("Settled")
			}
			k.done()
		})
	})
}
