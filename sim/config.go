package sim

import (
	"io"
	"time"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Config says which world to make. What is left out is what production has, in
// a world in which nothing goes wrong.
type Config struct {
	Seed uint64
	// Servers are hosts too; Hosts are hosts only.
	Servers, Hosts int
	Settings       *blixardv1.Settings
	Mix            *Mix
	Tick           time.Duration
	// Script strikes with these faults instead of drawn ones; nil: drawn.
	Script []Strike
	// Until ends the run at a time, unjudged; 0: after the judgement.
	Until time.Duration
	// Mutant plants a bug by its name, in a build that carries them: see package
	// sim/mutants.
	Mutant string
	// Log gets every line of what happens.
	Log io.Writer
}

func (c *Config) complete() {
	if c.Servers == 0 {
		c.Servers = 3
	}
	if c.Tick == 0 {
		c.Tick = 100 * time.Millisecond
	}
	if c.Mix == nil {
		m := calm()
		c.Mix = &m
	}
	settings, err := cluster.CompleteSettings(c.Settings)
	if err != nil {
		panic("sim: " + err.Error())
	}
	c.Settings = settings
}

// Swarm draws a whole configuration from a seed.
func Swarm(seed uint64) Config {
	c := Config{Seed: seed}
	r := chance{seed}.stream("swarm")
	c.Servers = pick(r, 1, 3, 3, 3, 3, 5)
	c.Hosts = pick(r, 0, 0, 1, 2, 4)
	mix := drawMix(r)
	c.Mix = &mix
	lease := uint32(between(r, 6, 15)) * 1000
	c.Settings = &blixardv1.Settings{
		LeaseMs: lease, RenewMs: lease / uint32(3+r.IntN(4)),
		LongLeaseMs:    uint32(between(r, 30, 90)) * 1000,
		DedupeWindowMs: uint32(between(r, 60, 600)) * 1000,
	}
	c.complete()
	return c
}
