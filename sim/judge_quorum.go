package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// While a random quorum is healed and the rest stays broken, a write succeeds
// within writesWithin, and within restsWithin every VM runs, waits because
// nothing has room, or is on a machine that stays broken and must not be taken
// from it: and that it says.
//
// The rest is silent: without power, cut off, stopped. What is half broken for
// ever, a host that speaks and does not hear, is promised nothing.
func judgeQuorum(w *World) {
	w.judges.judged["quorum"]++
	if !w.writes("quorum") {
		return
	}
	w.comesToRest("a quorum is enough", "healing all but "+names(w.rest))
}

// forEver is how long the rest stays broken: until all is healed.
const forEver = 1000 * time.Hour

// HealQuorum heals everything but some machines, drawn by a number: of the voters
// it heals at least a majority, of the hosts any. It does nothing, and says so,
// while a server is coming or going: who votes next is not known then.
func (w *World) HealQuorum(draw uint64) bool {
	r := chance{draw}.stream("quorum")
	if !w.settled() {
		return false
	}
	var voters []*Machine
	w.rest = nil
	for _, m := range w.machines {
		switch {
		case !m.member || m.keeper.busy:
		case slices.Contains(w.judges.newest.meta.Voters, m.id):
			voters = append(voters, m)
		case r.IntN(2) == 0:
			w.rest = append(w.rest, m)
		}
	}
	if n := len(w.judges.newest.meta.Voters); n > len(voters) {
		return false
	} else if n > 1 {
		r.Shuffle(n, func(i, k int) { voters[i], voters[k] = voters[k], voters[i] })
		w.rest = append(w.rest, voters[:r.IntN((n-1)/2+1)]...)
	}
	if len(w.rest) == 0 {
		return false
	}
	w.heal("all is healed but " + names(w.rest))
	for _, m := range w.rest {
		f := pick[Fault](r, PowerLoss{m.N(), forEver}, Pause{m.N(), forEver}, Freeze{m.N(), forEver}, nil)
		if f == nil || !f.strike(w) { // it may have no daemon yet
			f = cutOff{m.N()}
			f.strike(w)
		}
		w.say(nil, FaultString(f))
	}
	w.fired("QuorumOnly")
	return true
}

// cutOff cuts a machine off from all that are healed, and not from others that
// are not.
type cutOff struct{ Node N }

func (f cutOff) strike(w *World) bool {
	var links []link
	for _, m := range w.machines {
		if !slices.Contains(w.rest, m) {
			links = append(links, link{m.Index, int(f.Node)}, link{int(f.Node), m.Index})
		}
	}
	return w.cutLinks(f, forEver, links)
}

func names(list []*Machine) string {
	var s []string
	for _, m := range list {
		s = append(s, m.Name)
	}
	slices.Sort(s)
	return strings.Join(s, ", ")
}

// broken says what is wrong with a VM that is placed on a machine which stays
// broken.
func (w *World) unrestOfBroken(v *cluster.State, vm *blixardv1.VM, m *Machine) string {
	st := v.Shown(vm).GetStatus()
	switch st.GetPhase() {
	case blixardv1.Phase_PHASE_UNREACHABLE, blixardv1.Phase_PHASE_STOPPED, blixardv1.Phase_PHASE_FAILED, blixardv1.Phase_PHASE_DELETING:
	default:
		return fmt.Sprintf("is said to be %s on %s, which is broken", st.GetPhase(), m.Name)
	}
	if vm.Placement.Lease == blixardv1.LeaseClass_LEASE_CLASS_SHORT {
		return fmt.Sprintf("is kept on %s, which is broken, though its lease has ended", m.Name)
	}
	return ""
}
