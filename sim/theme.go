package sim

import (
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/blixard/blixard/vmm"
)

// A theme makes one thing go wrong often: what some bugs need is rare in a world
// where everything does now and then.
type theme struct {
	weight int // how often it is drawn, among the others
	set    func(*Config)
}

var themes = []theme{
	{1, Crashes}, {1, SlowDisksAndCrashes}, {1, ShortLog}, {1, Busy}, {1, BusyAndCrashes}, {1, LossyNetwork}, {1, SlowNetwork}, {1, DeafNetwork},
	{1, ShortLives}, {1, SoonAtRest}, {1, QuorumOnly}, {1, Hangs}, {1, Deaf}, {1, Crowded}, {1, Fickle}, {1, Renewals}, {1, Lagging},
	// These have many steps at which something may go wrong, each of which a soak must see.
	{2, Upgrades}, {2, Orphans}, {2, Shims}, {3, Ballooning}, {11, Moving}, {10, Saving}, {7, BackingUp}, {3, Warming},
}

// drawTheme gives two of three seeds a theme.
func drawTheme(c *Config) {
	all := 0
	for _, t := range themes {
		all += t.weight
	}
	i := (chance{c.Seed}).stream("theme").IntN(3 * all)
	for _, t := range themes {
		if i -= 2 * t.weight; i < 0 {
			t.set(c)
			return
		}
	}
}

// Crashes has daemons and machines die every second.
func Crashes(c *Config) {
	c.Mix.Every = time.Second
	c.Mix.Weights = map[string]int{"Crash": 10, "PowerLoss": 5, "Isolate": 1, "DiskError": 2}
	c.Mix.Longest = 10 * time.Second
}

// SlowDisksAndCrashes has them die while much is on its way to their disks.
func SlowDisksAndCrashes(c *Config) {
	Crashes(c)
	c.Mix.Every = 500 * time.Millisecond
	c.Mix.Weights["DiskSlow"], c.Mix.Weights["DiskStall"] = 10, 10
}

// ShortLog has whoever is behind get a snapshot.
func ShortLog(c *Config) {
	Crashes(c)
	Busy(c)
	c.KeepEntries = 5
	c.Servers = 3
}

// Busy has many clients, for a minute at most.
func Busy(c *Config) {
	c.Mix.Clients, c.Mix.Think, c.Mix.Safety = 8, 100*time.Millisecond, time.Minute
}

// BusyAndCrashes has many clients ask servers that die.
func BusyAndCrashes(c *Config) {
	Crashes(c)
	Busy(c)
}

// LossyNetwork loses much, and brings much late.
func LossyNetwork(c *Config) {
	Busy(c)
	c.Servers = max(c.Servers, 3)
	c.Mix.Drop, c.Mix.Late, c.Mix.Lateness = 0.2, 0.2, 2*time.Second
}

// SlowNetwork brings much late, and twice.
func SlowNetwork(c *Config) {
	Busy(c)
	c.Mix.Drop, c.Mix.Duplicate, c.Mix.Late, c.Mix.Lateness = 0, 0.2, 0.3, 5*time.Second
}

// DeafNetwork loses so much that a single word is not heard, and that many would
// never all have a lease at once.
func DeafNetwork(c *Config) {
	LossyNetwork(c)
	c.Servers, c.Hosts = 3, min(c.Hosts, 1)
	SoonAtRest(c)
	c.Mix.Drop = 0.4
}

// ShortLives has VMs end by themselves.
func ShortLives(c *Config) {
	quiet(c)
	c.Mix.EarlyExit, c.Mix.LateExit = 0.3, 0.6
}

// Disasters loses all servers at the end, in every seed, while much changes and
// leases are long.
func Disasters(c *Config) {
	c.Mix.Disaster, c.Mix.Quorum = 1+c.Seed%1000, 0
	c.Mix.Think, c.Settings.LongLeaseMs = min(c.Mix.Think, 500*time.Millisecond), 60_000
}

// SoonAtRest shortens the time in which a healed world must come to rest.
func SoonAtRest(c *Config) { c.Settings.LongLeaseMs = 20_000 }

// QuorumOnly heals a quorum first, and kills many leaders before.
func QuorumOnly(c *Config) {
	SoonAtRest(c)
	Crashes(c)
	c.Servers = max(c.Servers, 3)
	c.Mix.Quorum = c.Seed
}

// Upgrades has binaries replaced by newer ones, and by those before.
func Upgrades(c *Config) {
	c.Hosts, c.Mix.Every = max(c.Hosts, 1), 2*time.Second
	c.Mix.Weights = map[string]int{"Upgrade": 3, "Rolling": 2, "Crash": 1}
	c.Mix.Longest = 20 * time.Second
}

// Hangs has no VM become ready at its first boot, and little else that ends one.
func Hangs(c *Config) {
	SoonAtRest(c)
	quiet(c)
	c.Mix.BootHangs = 1
}

// quiet has hosts keep their leases, and people leave VMs alone for a while.
func quiet(c *Config) {
	c.Mix.Weights = map[string]int{"Clog": 1, "DiskSlow": 1, "WallJump": 1}
	c.Mix.Longest, c.Mix.Drop, c.Mix.Points = time.Second, 0, nil
	c.Mix.Clients, c.Mix.Names, c.Mix.Think = 4, 16, 2*time.Second
	c.Mix.Fickle, c.Mix.Renews = 0, 0
}

// Deaf has VMs ignore their power button.
func Deaf(c *Config) {
	SoonAtRest(c)
	c.Mix.Deaf = 1
}

// Crowded has many want room on machines that have little.
func Crowded(c *Config) {
	Busy(c)
	SoonAtRest(c)
	c.Hosts, c.Mix.Small, c.Mix.Names = min(c.Hosts, 1), true, 16
}

// Fickle has people change their minds about what they have just asked for, before
// its host has said a word about it.
func Fickle(c *Config) {
	Busy(c)
	c.Mix.Clients, c.Mix.Fickle, c.Mix.Renews = 4, 0.8, 0
	c.Mix.Late, c.Mix.Lateness = 0.2, 2*time.Second
}

// Renewals has people want another spec of the same few VMs again and again, and
// about as often as that takes to build; what is told of it comes late at times,
// and what Nix does not hold is collected while both specs matter.
func Renewals(c *Config) {
	c.Mix.Clients, c.Mix.Names, c.Mix.Think = 4, 4, 4*time.Second
	c.Mix.Fickle, c.Mix.Renews, c.Mix.Late, c.Mix.Lateness = 0, 0.5, 0.1, 5*time.Second
	c.Mix.Collects = 0.3
}

// Snapshots has people take snapshots of a few VMs all the time, and go back to them;
// guests crash, and leases are lost.
func Snapshots(c *Config) {
	c.Servers, c.Mix.Names, c.Mix.Clients, c.Mix.Think = max(c.Servers, 3), 6, 4, time.Second
	c.Mix.Files, c.Mix.Snapshots, c.Mix.Small, c.Mix.LateExit = 2, 0.8, false, 0.3
	c.Mix.Weights = map[string]int{"Crash": 3, "OneWay": 3, "Isolate": 2, "Freeze": 2}
	c.Mix.Every = 6 * time.Second
}

// Lagging has servers fall behind while many ask them.
func Lagging(c *Config) {
	Busy(c)
	c.Servers, c.Mix.Every, c.Mix.Longest = max(c.Servers, 3), time.Second, 5*time.Second
	c.Mix.Weights = map[string]int{"Clog": 5, "DiskSlow": 3, "DiskStall": 3, "OneWay": 3, "Pause": 2, "Capacity": 3}
}

// Moving has guests sent from host to host, and whoever has a part in that die at the
// steps before they leave, or at those from there on, with streams that do not break:
// otherwise few would get far.
func Moving(c *Config) {
	c.images()
	c.Hosts = max(c.Hosts, 2)
	c.Mix.Moves, c.Mix.Snapshots, c.Mix.Think = 0.6, 0, time.Second
	r := chance{c.Seed}.stream("moving")
	points := landPoints
	c.Mix.StreamBreaks, c.Mix.StreamEnds, c.Mix.StreamSlow = 0, 0, pick(r, 0, 0.2)
	if r.IntN(3) == 0 {
		points = leavePoints
		c.Mix.StreamBreaks, c.Mix.StreamEnds = pick(r, 0, 0.2), pick(r, 0, 0.4)
	}
	c.opens(r, 2, true, points...)
	c.Mix.Volumes = r.IntN(2) == 0
}

// Saving has guests saved and restored, and that fail, or the daemon die in the middle
// of it.
func Saving(c *Config) {
	c.images()
	r := chance{c.Seed}.stream("saving")
	c.Mix.Snapshots, c.Mix.SnapshotFails, c.Mix.Moves, c.Mix.Think = 0.8, 0.4, 0, time.Second
	c.opens(r, 2, true, pick(r, actPoints[vmm.Snapshot], pointSaved, pointSaved).names()...)
}

// BackingUp has what was saved taken out of the cluster and brought back, where that may
// break off, and a host die when all has come.
func BackingUp(c *Config) {
	c.images()
	r := chance{c.Seed}.stream("backing up")
	c.Servers, c.Mix.Clients = max(c.Servers, 3), 4
	c.Mix.Snapshots, c.Mix.Backups, c.Mix.SnapshotFails, c.Mix.Moves, c.Mix.Think = 0.9, 0.6, 0.2, 0, time.Second
	c.opens(r, 2, true, slices.Concat(pointBrought.names(), pointAdded.names(), actPoints[vmm.Snapshot].names())...)
}

// Sharing has most images see a folder of their host, which not every host can serve.
func Sharing(c *Config) {
	c.images()
	c.Servers = max(c.Servers, 3)
	c.Mix.Shares, c.Mix.ShareFails, c.Mix.Snapshots, c.Mix.Moves = 0.8, 0.3, 0, 0
}

// Warming has a few images started again and again, and most from their saved boots, by
// daemons that die while they save one, or now and then as they extend leases.
func Warming(c *Config) {
	c.images()
	c.Mix.Names, c.Mix.Clients, c.Mix.Think, c.Mix.Boots = 8, 4, time.Second, 1
	c.Mix.Warm, c.Mix.WarmFails, c.Mix.LateExit, c.Mix.Snapshots, c.Mix.Moves = 1, 0.3, 0.5, 0, 0
	c.opens(chance{c.Seed}.stream("warming"), 2, true, slices.Concat(pointBooted.names(), pointExtend.names())...)
	c.Mix.CrashGap = 15 * time.Second
}

// opens opens one of so many crash points: always, or for one crash.
func (c *Config) opens(r *rand.Rand, of int, always bool, names ...string) {
	c.Mix.Points = map[string]bool{}
	for _, name := range names {
		if r.IntN(of) == 0 {
			c.Mix.Points[name] = always
		}
	}
}

// Shims has shims die at some of the steps of a start and of an end.
func Shims(c *Config) {
	r := chance{c.Seed}.stream("shims")
	var names []string
	for _, k := range slices.Sorted(maps.Keys(shimPoints)) {
		names = append(names, shimPoints[k].names()...)
	}
	c.opens(r, 3, false, names...)
}

// Orphans has programs fork where nothing holds them, and their shims die.
func Orphans(c *Config) {
	SoonAtRest(c)
	quiet(c)
	c.Mix.Loose, c.Mix.Orphan = true, 1
	c.Mix.Weights, c.Mix.Every = map[string]int{"ShimKill": 4, "Crash": 1}, 3*time.Second
}

// Ballooning has people give VMs more and less memory while they run.
func Ballooning(c *Config) {
	c.images()
	c.Mix.Names, c.Mix.Renews, c.Mix.Snapshots, c.Mix.Moves, c.Mix.Greedy = 2, 0.6, 0, 0.1, 0.1
	c.opens(chance{c.Seed}.stream("ballooning"), 2, true, actPoints[vmm.Balloon].names()...)
}

// images has people leave the few VMs of images alone that there are, but for what the
// theme is about.
func (c *Config) images() {
	SoonAtRest(c)
	quiet(c)
	c.Mix.Files, c.Mix.Names, c.Mix.Small, c.Mix.Shares, c.Mix.Warm = 1, 6, false, 0, 0
	c.Mix.BuildFails, c.Mix.ForkFails, c.Mix.EarlyExit, c.Mix.LateExit, c.Mix.BootHangs = 0, 0, 0, 0, 0
}
