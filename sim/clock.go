package sim

import (
	"math"
	"time"
)

// A clock is one machine's CLOCK_BOOTTIME and wall clock. BOOTTIME never goes
// back within a boot, and its rate, drawn once a boot, is within the drift bound
// of the settings, the bound included. The wall clock may be wrong by years and
// may jump either way; nothing may depend on it.
type clock struct {
	booted int64 // real time at which BOOTTIME was start
	start  int64
	rate   float64
	wall   int64 // what is added to the true Unix time
}

// epoch is the true Unix time at which every simulation starts.
const epoch = 1_800_000_000 * int64(time.Second)

func (c *clock) now(real int64) int64 {
	return c.start + int64(float64(real-c.booted)*c.rate)
}

// when is the first real time at which BOOTTIME shows at least boot.
func (c *clock) when(boot int64) int64 {
	real := c.booted + int64(math.Ceil(float64(boot-c.start)/c.rate))
	for c.now(real) < boot {
		real++
	}
	return real
}

func (c *clock) unix(real int64) int64 { return epoch + real + c.wall }
