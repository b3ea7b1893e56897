package vmm

import "github.com/blixard/blixard/core/mutant"

// A guest is started with the memory of a spec, and never has more than that. Of a
// newer spec that says less, or as much, it has so much at once: its balloon takes the
// rest. What it is accounted with stays what it was started with, for a guest can
// take back what it has given, and under pressure it does.

// balloon is what was last asked of a live instance's.
type balloon struct {
	mib     uint64
	again   int64 // when the same may be asked again
	message string
}

// balloonAgain is how long a guest that has not given, or taken, all of it is left to
// it.
const balloonAgain = 30 * second

// planBalloon leaves a live guest the memory of its newest spec, as far as it was
// started with so much.
func (u *Unit) planBalloon(now int64, c Context) *Action {
	want := min(u.Want.GetSpec().GetMemoryMib(), u.Seen.BootMiB)
	if mutant.On("BalloonKept") {
		want = min(want, max(u.Seen.MemoryMiB, 1))
	}
	if want == 0 || want == u.Seen.MemoryMiB {
		u.balloon = balloon{}
		return nil
	}
	if !u.Seen.Ready || u.Seen.Paused || u.Want.Migration != nil || u.restores() {
		return nil // there is nobody who could do it, or not here
	}
	if want == u.balloon.mib && u.early(now, u.balloon.again) {
		return nil
	}
	u.balloon.mib, u.balloon.again = want, now+balloonAgain
	return u.await(c, Balloon)
}
