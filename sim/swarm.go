package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A profile is a kind of world; a seed makes one of that kind.
var profiles = map[string]func(seed uint64) Config{"swarm": Swarm, "base": Base, "calm": Calm, "large": Large, "moving": Roaming}

const standardProfile = "swarm"

// Profile makes the world of a seed. The name is swarm, base, calm, large or moving, and may be
// followed by the only faults that are to strike: base:Isolate,Drop.
func Profile(name string, seed uint64) (Config, error) {
	kind, only, some := strings.Cut(name, ":")
	draw := profiles[kind]
	if draw == nil {
		return Config{}, fmt.Errorf("there is no profile %q: swarm, base, calm, large and moving are, and base:Isolate,Drop is base with those faults only", kind)
	}
	c := draw(seed)
	c.Profile = name
	if !some {
		return c, nil
	}
	names := strings.Split(only, ",")
	for _, name := range names {
		if !slices.Contains(faultNames, name) && !slices.Contains(mishapNames, name) {
			return Config{}, fmt.Errorf("there is no fault %q", name)
		}
	}
	c.Mix.only(names)
	return c, nil
}

// only leaves out every fault but those named.
func (m *Mix) only(names []string) {
	m.Only = append([]string{}, names...)
	m.Quorum, m.Disaster = 0, 0
	for _, name := range faultNames {
		if !slices.Contains(names, name) {
			delete(m.Weights, name)
		}
	}
}

// Swarm draws everything from the seed: another size, other settings, and faults
// of another kind and number for each. Two of three seeds have a theme besides.
func Swarm(seed uint64) Config {
	c := Config{Seed: seed, Profile: "swarm"}
	r := chance{seed}.stream("swarm")
	c.Servers = pick(r, 1, 1, 3, 3, 3, 3, 3, 3, 5, 5, 7)
	c.Hosts = pick(r, 0, 0, 1, 2, 4)
	c.Spares = pick(r, 0, 1, 2, 2)
	mix := drawMix(r)
	c.Mix = &mix
	lease := uint32(between(r, 6, 15)) * 1000
	c.Settings = &blixardv1.Settings{
		LeaseMs: lease, RenewMs: lease / uint32(3+r.IntN(4)),
		LongLeaseMs:    uint32(between(r, 30, 90)) * 1000,
		DedupeWindowMs: uint32(between(r, 60, 600)) * 1000,
	}
	c.KeepEntries = pick[uint64](r, 0, 20, 100, 500)
	mix.Quorum, mix.Disaster = drawQuorum(seed), drawDisaster(seed)
	c.complete()
	drawTheme(&c)
	return c
}

// Base is the same kind of world for every seed: a bit of everything.
func Base(seed uint64) Config {
	mix := Mix{
		Latency: time.Millisecond, Drop: 0.01, Duplicate: 0.01, Late: 0.005, Lateness: 10 * time.Second,
		ShimSlow: 0.005, ForkFails: 0.02, Deaf: 0.1, BootHangs: 0.02, BootSlow: 0.05, EarlyExit: 0.05, LateExit: 0.05,
		SlowKill: 0.1, Zombie: 0.02, Disconnect: 0.02, BuildFails: 0.05, BuildSlow: 0.05, ApiHangs: 0.05, ReplyLost: 0.05, StreamSlow: 0.05, StreamBreaks: 0.03, StreamEnds: 0.03, Collects: 0.1, VolumeFull: 0.1, Fickle: 0.1, Clients: 4, Names: 8, Think: time.Second,
		Snapshots: 0.1, Backups: 0.2, SnapshotFails: 0.1, Greedy: 0.1,
		Files: 2, Every: 6 * time.Second, Longest: 30 * time.Second, Safety: time.Minute, Weights: map[string]int{},
	}
	mix.Quorum = drawQuorum(seed)
	for _, name := range faultNames {
		mix.Weights[name] = 1
	}
	c := Config{
		Seed: seed, Servers: 3, Hosts: 1, Spares: 1, Profile: "base", Mix: &mix,
		Settings: &blixardv1.Settings{LongLeaseMs: 60_000, DedupeWindowMs: 300_000},
	}
	c.complete()
	return c
}

// Large is a swarm of 200 to 400 hosts with 2,000 to 5,200 VMs, which are there
// when faults begin.
func Large(seed uint64) Config {
	c := Swarm(seed)
	c.Profile = "large"
	r := chance{seed}.stream("large")
	c.Servers, c.Hosts, c.KeepEntries = pick(r, 3, 3, 5, 7), 200+r.IntN(201), max(c.KeepEntries, 500)
	c.large(c.Hosts * (10 + r.IntN(4)))
	return c
}

// Roaming is a swarm in which guests are moved live all the time, in two of three seeds
// while machines crash and are cut off besides.
func Roaming(seed uint64) Config {
	c := Swarm(seed)
	c.Profile = "moving"
	Moving(&c)
	m, r := c.Mix, chance{seed}.stream("roaming")
	m.Names, m.Disaster, m.VolumeFull = 12, 0, 0.05
	if r.IntN(2) == 0 { // more of them get far
		for _, name := range slices.Concat(leavePoints, landPoints) {
			if r.IntN(2) == 0 {
				delete(m.Points, name)
			}
		}
	}
	if r.IntN(2) == 0 { // so that the states of a move last
		m.Drop, m.Late, m.Lateness = 0.1, 0.1, 4*time.Second
	}
	if r.IntN(3) > 0 {
		m.Weights = map[string]int{"Crash": 3, "PowerLoss": 1, "Isolate": 2, "OneWay": 2, "Freeze": 1, "Clog": 1}
		m.Every, m.Longest = time.Duration(3+r.IntN(8))*time.Second, 15*time.Second
	}
	return c
}

// large has so many VMs, and as much going on as that many hosts see.
func (c *Config) large(vms int) {
	m := c.Mix
	m.VMs, m.Names, m.Clients, m.Think, m.Small = vms, vms+vms/10, 16, 100*time.Millisecond, false
	m.Every, m.Safety, m.Disaster = 500*time.Millisecond, time.Minute, 0
	// Each strikes one of hundreds, or would befall one of them all the time.
	m.Drop, m.Late, m.Duplicate = m.Drop/4, m.Late/4, m.Duplicate/4
}

// drawQuorum says whether a quorum is healed before the rest: in a third of seeds.
func drawQuorum(seed uint64) uint64 {
	r := chance{seed}.stream("quorum")
	if r.IntN(3) > 0 {
		return 0
	}
	return 1 + r.Uint64N(1000)
}

// drawDisaster says whether all servers are lost at the end: in a tenth of seeds.
func drawDisaster(seed uint64) uint64 {
	r := chance{seed}.stream("disaster")
	if r.IntN(10) > 0 {
		return 0
	}
	return 1 + r.Uint64N(1000)
}

// Calm is a world in which clients work and nothing goes wrong.
func Calm(seed uint64) Config {
	c := Base(seed)
	c.Profile = "calm"
	c.Mix.only(nil)
	return c
}

// Mix is how hard a world is: each field stands with its swarm range in
// drawMix. The zero Mix is a world in which nothing goes wrong.
type Mix struct {
	// The network.
	Latency   time.Duration
	Drop      float64
	Duplicate float64
	Late      float64
	Lateness  time.Duration
	// Shims and guests, a chance each.
	ShimSlow, ForkFails, Deaf, BootHangs, BootSlow, EarlyExit, LateExit, SlowKill, Zombie, Orphan float64
	BuildFails, BuildSlow, PauseFails, ApiHangs, ReplyLost, StreamSlow, StreamBreaks, StreamEnds  float64
	Collects                                                                                      float64 // right after a build
	VolumeFull                                                                                    float64
	SnapshotFails                                                                                 float64 // and restores, and loading them
	Greedy                                                                                        float64 // a guest's balloon gets nothing
	// Shares: an image sees a folder of its host, in a world where not every host can serve
	// one; ShareFails: what serves it does not come up, or dies alone.
	Shares, ShareFails float64
	// OneMachine: each two nodes are of one machine, as those of 'blixard up' are, and have
	// its ports in common.
	OneMachine bool
	// Warm: some images start from their saved boots; WarmFails: that goes wrong. Boots: so
	// many of these a host keeps; 0: as many as in production.
	Warm, WarmFails float64
	Boots           int
	// Snapshots: a client's next wish is about one, where there are VMs of which some
	// can be taken.
	Snapshots float64
	// Backups: that is about a backup of one.
	Backups float64
	// Moves: it is about a live move, there.
	Moves float64
	// Volumes: most VMs of images write one.
	Volumes bool
	// Clients.
	Disconnect float64
	Clients    int
	Names      int
	Think      time.Duration
	// VMs that are there when faults begin.
	VMs int
	// Fickle: a client's next wish is about what it has just changed. Renews: it is
	// for another spec.
	Fickle, Renews float64
	// Loose: every other machine cannot hold a program that forks.
	Loose bool
	// Files that are uploaded, and that the VMs which Nix builds need.
	Files int
	// Small machines, so that not everything has room.
	Small bool
	// Every is the mean time between two faults; 0: none are drawn.
	Every time.Duration
	// Weights of the faults that are drawn, by name.
	Weights map[string]int
	// Points are the crash points that are open, and CrashGap the mean time between
	// two crashes of one machine there.
	Points   map[string]bool
	CrashGap time.Duration
	// Only these mishaps happen; nil: all that have a chance.
	Only []string
	// Longest is how long a fault lasts at most.
	Longest time.Duration
	Safety  time.Duration
	// Disaster draws which servers are lost, all at once, after everything was healed,
	// and on which the cluster is restored from a backup; 0: none are.
	Disaster uint64
	// Quorum draws which quorum is healed at first, while the rest stays broken; 0:
	// everything is healed at once.
	Quorum uint64
}

// calm is a world for stories: the network takes time, and people come only
// when called.
func calm() Mix {
	return Mix{Latency: 500 * time.Microsecond, Names: 8, Think: time.Second}
}

// rate is 0 in half of the seeds, and up to most in the others.
func rate(r *rand.Rand, most float64) float64 {
	if r.IntN(2) == 0 {
		return 0
	}
	return most * r.Float64()
}

// drawMix draws a swarm: most worlds are hard in some ways, and each in others.
func drawMix(r *rand.Rand) Mix {
	m := Mix{
		Latency: time.Duration(between(r, 200*time.Microsecond, 10*time.Millisecond)),
		Drop:    rate(r, 0.1), Duplicate: rate(r, 0.1), Late: rate(r, 0.05),
		Lateness: time.Duration(between(r, time.Second, 40*time.Second)),
		ShimSlow: rate(r, 0.02), ForkFails: rate(r, 0.1), Deaf: rate(r, 0.3), BootHangs: rate(r, 0.1),
		BootSlow: rate(r, 0.2), EarlyExit: rate(r, 0.2), LateExit: rate(r, 0.2), SlowKill: rate(r, 0.5), Zombie: rate(r, 0.1), Orphan: rate(r, 1), Disconnect: rate(r, 0.1), Loose: r.IntN(2) == 0,
		BuildFails: rate(r, 0.2), BuildSlow: rate(r, 0.2),
		Clients: 2 + r.IntN(4), Names: 3 + r.IntN(8),
		Think:   time.Duration(between(r, 200*time.Millisecond, 3*time.Second)),
		Every:   time.Duration(between(r, 2*time.Second, 20*time.Second)),
		Longest: time.Duration(between(r, 5*time.Second, 60*time.Second)),
		Safety:  pick(r, time.Minute, time.Minute, time.Minute, 4*time.Minute),
		Small:   r.IntN(3) == 0,
		Weights: map[string]int{},
	}
	// A stream each, so that a fault more changes nothing about the others.
	weights := chance{r.Uint64()}
	if r := weights.stream("crash points"); r.IntN(2) == 0 {
		m.Points, m.CrashGap = drawPoints(r), time.Duration(between(r, time.Second, 20*time.Second))
	}
	for _, name := range faultNames {
		if r := weights.stream(name); r.IntN(2) == 0 {
			m.Weights[name] = 1 + r.IntN(5)
		}
	}
	m.PauseFails = rate(r, 0.3)
	m.ApiHangs, m.ReplyLost = rate(weights.stream("API hangs"), 0.3), rate(weights.stream("replies lost"), 0.3)
	m.StreamSlow, m.StreamBreaks = rate(weights.stream("streams slow"), 0.2), rate(weights.stream("streams break"), 0.2)
	m.StreamEnds = rate(weights.stream("streams end"), 0.2)
	m.Fickle, m.Renews = rate(weights.stream("fickle"), 0.8), rate(weights.stream("renews"), 0.5)
	m.Collects = rate(weights.stream("collects"), 0.5)
	m.Files = pick(weights.stream("files"), 0, 1, 3)
	m.VolumeFull = rate(weights.stream("volumes"), 0.3)
	m.Snapshots, m.SnapshotFails = rate(weights.stream("snapshots"), 0.4), rate(weights.stream("snapshots fail"), 0.3)
	m.Backups = rate(weights.stream("backups"), 0.5)
	m.Moves = rate(weights.stream("moves"), 0.6)
	m.Greedy = rate(weights.stream("greedy"), 0.3)
	m.Shares, m.ShareFails = rate(weights.stream("virtiofs"), 1), 0.1+0.4*weights.stream("shares fail").Float64()
	m.Warm, m.WarmFails = rate(weights.stream("warm"), 2), 0.2+0.4*weights.stream("warm fails").Float64()
	m.Boots = pick(weights.stream("boots"), 0, 1)
	m.OneMachine = weights.stream("ports in common").IntN(3) == 0
	return m
}

// drawFault draws one fault, or nil when the mix has none.
func drawFault(r *rand.Rand, mix *Mix, machines int) Fault {
	total := 0
	for _, name := range faultNames {
		total += mix.Weights[name]
	}
	if total == 0 {
		return nil
	}
	x := r.IntN(total)
	for _, name := range faultNames {
		if x -= mix.Weights[name]; x < 0 {
			return faultKinds[name].draw(dice{r, mix, machines})
		}
	}
	return nil
}

// dice are what a fault is drawn with.
type dice struct {
	*rand.Rand
	mix      *Mix
	machines int
}

// node is any machine. Where there are many, every other is one of the first: the
// servers.
func (d dice) node() N {
	if d.machines > mostSides && d.IntN(2) == 0 {
		return N(1 + d.IntN(8))
	}
	return N(1 + d.IntN(d.machines))
}

// mostSides are the machines that a number can tell which side they are on. Where
// there are more, they are so many groups.
const mostSides = 60

func (d dice) side() int { return 2 * (1 + d.IntN(1<<min(d.machines, mostSides)-1)) }

// on says on which side a machine is.
func on(side int, m *Machine) int { return side >> (1 + (m.Index-1)%mostSides) & 1 }

func (d dice) time() time.Duration {
	return time.Duration(between(d.Rand, 100*time.Millisecond, d.mix.Longest)).Truncate(time.Millisecond)
}
