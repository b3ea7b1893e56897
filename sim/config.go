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
	// Spares are in no cluster at first: by turns a host only and a server.
	Spares   int
	Settings *blixardv1.Settings
	Mix      *Mix
	Tick     time.Duration
	// KeepEntries of the log; whoever is further behind gets a snapshot.
	KeepEntries uint64
	// Script is all that goes wrong and all that clients do, in the order of
	// time, and nothing of that is drawn; nil: drawn.
	Script []Strike
	// Record keeps every decision, so that the run can be written down.
	Record bool
	// Until and UntilEvent end the run at a time, or after so many events, before
	// any judgement of the end; 0: after the judgement.
	Until      time.Duration
	UntilEvent uint64
	// Patience is how long a healed world may take to come to rest; 0: as long as
	// it is promised. A shrinker is less patient.
	Patience time.Duration
	// Profile is where the rest came from: see swarm.go.
	Profile string
	// Mutant plants a bug by its name, in a build that carries them: see package
	// sim/mutants.
	Mutant string
	// marked is told of each event; false stops the world.
	marked func(Mark) bool
	// Log gets every line of what happens.
	Log io.Writer
}

const standardTick = 100 * time.Millisecond

func (c *Config) complete() {
	if c.Servers == 0 {
		c.Servers = 3
	}
	if c.Tick == 0 {
		c.Tick = standardTick
	}
	if c.Mix == nil {
		m := calm()
		c.Mix = &m
	}
	settings, err := cluster.CompleteSettings(c.Settings)
	if err != nil {
		panic("sim: settings: " + err.Error())
	}
	c.Settings = settings
}
