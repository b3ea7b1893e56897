// Package tsc measures how fast this machine's time stamp counter counts.
//
// Why a host must know: an emulated guest (QEMU's TCG) reads the host's own
// counter, and has nothing else to keep time by. Left alone it measures the
// counter against an emulated timer while it boots, which on a busy host
// never ends. So it is told the frequency, on its command line
// (tsc_early_khz=), and believes it: a value that is 6% wrong gives a guest
// whose clock is 6% wrong for all of its life.
//
// A guest under KVM has better means, and must not be told.
package tsc

import (
	"errors"
	"time"
)

// ErrUnknown is a machine without a counter that could be measured.
var ErrUnknown = errors.New("this machine has no time stamp counter that counts steadily")

// KHz measures for about 30 ms. It is right to about 0.1%: the error is how
// long a thread can be held up between two instructions, over the time that
// was measured; of several tries the one that was held up least counts.
func KHz() (int, error) {
	begin, ok := sample()
	if !ok {
		return 0, ErrUnknown
	}
	time.Sleep(30 * time.Millisecond)
	end, _ := sample()
	elapsed := end.at.Sub(begin.at)
	if elapsed <= 0 || end.ticks <= begin.ticks {
		return 0, ErrUnknown
	}
	khz := float64(end.ticks-begin.ticks) / elapsed.Seconds() / 1000
	if khz < 100_000 || khz > 20_000_000 {
		return 0, ErrUnknown
	}
	return int(khz + 0.5), nil
}

// moment is one instant on both clocks.
type moment struct {
	at    time.Time
	ticks uint64
}

// sample reads both clocks as close together as it can.
func sample() (best moment, ok bool) {
	closest := time.Duration(1<<63 - 1)
	for range 50 {
		before := time.Now()
		ticks := read()
		after := time.Now()
		if d := after.Sub(before); ticks != 0 && d < closest {
			closest, ok = d, true
			best = moment{before.Add(d / 2), ticks}
		}
	}
	return best, ok
}
