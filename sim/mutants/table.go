package mutants

import (
	"time"

	"github.com/blixard/blixard/sim"
)

// The promises that judges and assertions of the simulator make, by their names.
const (
	panics      = "nothing panics"
	stops       = "a node stops only when its disk does"
	opens       = "a node opens what its disk holds"
	histories   = "histories are linearizable"
	lost        = "acknowledged is never lost"
	firstAnswer = "a retry gets the first answer"
	states      = "equal state at equal index"
	leaders     = "one leader a term"
	logs        = "logs match"
	capacity    = "capacity is never exceeded"
	ledger      = "the ledger is the sum of the VMs"
	twoCopies   = "never two copies"
	placed      = "a live VM is where it is placed"
	mayBe       = "a VM is placed where it may be"
	once        = "an instance is forked once"
	timer       = "no fork before the timer stands"
	revived     = "a lapsed lease is never revived"
	tooLong     = "a lease is no longer than it is"
	undisturbed = "no VM is ended that should run"
	policy      = "restarts are as the policy says"
	atRest      = "desired equals observed"
	quorum      = "a quorum is enough"
	raised      = "a level is raised when every member knows it"
	beyond      = "no server applies beyond its level"
	repeatable  = "the same seed gives the same run"
	watched     = "a watcher knows what is there"
	// Of stories.
	adopted = "what runs is taken over by a restarted daemon"
	stopped = "a stopped VM is stopped within its grace"
)

// All are the bugs that are planted, by what they are about.
var All = []Mutant{
	// What watchers are told.
	{
		Name: "WatchSkips", What: "a watch begins one revision too late",
		Caught: []string{watched},
	},
	{
		Name: "WatchForgets", What: "what was removed is not remembered for those who watch",
		Caught: []string{watched},
	},
	// The disk, and Raft's use of it.
	{
		Name: "AnswersBeforeSync", What: "what claims that entries are durable leaves before they are",
		Caught: []string{panics, lost, states, leaders, logs, histories, opens}, Harder: slowDisksAndCrashes,
	},
	{
		Name: "EarlyAck", What: "the disk says durable before it is",
		Caught: []string{panics, lost, states, leaders, logs, histories, opens, stops}, Harder: slowDisksAndCrashes,
	},
	{
		Name: "VoteForgotten", What: "whom a server voted for is not written down",
		Caught: []string{leaders}, Story: votesTwice,
	},
	{
		Name: "ConfChangeEarly", What: "changes of the configuration are used before they are committed, several at a time",
		Caught: []string{states, leaders, histories, lost, panics}, Story: twoServersLeave, Config: fiveServers,
	},
	{
		Name: "HardStateFirst", What: "the hard state is durable before the entries that it speaks of",
		Caught: []string{panics, opens}, Harder: slowDisksAndCrashes,
	},
	{
		Name: "AppliedBeyondCommit", What: "the state on disk is ahead of the commit index beside it, and nobody repairs that",
		Caught: []string{panics, opens}, Harder: crashes,
	},
	{
		Name: "BatchOutOfOrder", What: "the operations of a batch take effect in the wrong order",
		Caught: []string{opens, panics, states, logs, lost}, Harder: crashes,
	},
	{
		Name: "AppliedApart", What: "the applied index is in another transaction than what was applied",
		Caught: []string{states, panics, opens}, Harder: slowDisksAndCrashes,
	},
	{
		Name: "CutBeyondDurable", What: "the log is cut beyond the durable state",
		Caught: []string{opens, panics, stops}, Harder: shortLog,
	},
	// Snapshots.
	{
		Name: "NewerSnapshot", What: "a snapshot carries newer records than its index says",
		Caught: []string{states}, Harder: shortLog,
	},
	{
		Name: "SnapshotMissesTable", What: "a snapshot leaves out what was answered to whom",
		Caught: []string{states}, Harder: shortLog,
	},
	{
		Name: "RestoreMerges", What: "a snapshot is added to the old state instead of replacing it",
		Caught: []string{states, opens, panics}, Harder: shortLog,
	},
	// Clients.
	{
		Name: "NoDedupe", What: "every attempt of a client has a request id of its own",
		Caught: []string{histories}, Harder: busyAndCrashes, Few: true,
	},
	{
		Name: "LoggedTimeIsWallTime", What: "what was answered is forgotten by a wall clock",
		Caught: []string{firstAnswer}, Story: clocksJump,
	},
	{
		Name: "AnswersByOrder", What: "an answer goes to whoever has waited longest",
		Caught: []string{histories, "a request is answered in time", panics},
	},
	{
		Name: "StaleRead", What: "linearizable reads are answered from the server's own copy",
		Caught: []string{histories},
	},
	{
		Name: "LeaderReadsLocally", What: "who believes to lead answers reads at once",
		Caught: []string{histories}, Story: oldLeaderReads,
	},
	{
		Name: "LeaseRead", What: "a leader reads for as long as nobody else can have been elected, by its own clock",
		Caught: []string{histories}, Story: oldLeaderReads,
	},
	{
		Name: "AloneReadsAtOnce", What: "a server that votes alone answers reads before it knows what was committed in its last life",
		Caught: []string{histories}, Story: aloneAgain, Config: sim.Config{Servers: 1},
	},
	{
		Name: "ReadBeforeApplied", What: "a read is answered before the state is as new as was promised",
		Caught: []string{histories}, Harder: lossyNetwork,
	},
	{
		Name: "UidByName", What: "a VM's uid is made from its name",
		Caught: []string{histories, once, placed, twoCopies},
	},
	{
		Name: "AnswersOnlyTheKnown", What: "a server answers only servers that its state knows",
		Caught: []string{atRest}, Story: strangerLeads, Config: aSpareServer,
	},
	// Upgrades.
	{
		Name: "ChangeWithoutLevel", What: "a newer binary applies entries in its own way before the cluster is at its level",
		Caught: []string{states}, Harder: upgrades,
	},
	{
		Name: "BehindGoesOn", What: "a binary that is older than its cluster applies what it does not know",
		Caught: []string{beyond}, Harder: upgrades,
	},
	{
		Name: "ServersRaise", What: "the cluster is raised when its servers are upgraded, whatever its hosts are",
		Caught: []string{raised}, Harder: upgrades,
	},
	// The state.
	{
		Name: "Misheard", What: "one server gets other log entries than the rest",
		Caught: []string{logs, states}, Few: true,
	},
	{
		Name: "BigFacts", What: "hosts claim twice the memory that they have",
		Caught: []string{capacity}, Few: true,
	},
	{
		Name: "MemoryIgnored", What: "placement does not look at memory",
		Caught: []string{capacity},
	},
	{
		Name: "CordonIgnored", What: "placement does not look whether a node is cordoned",
		Caught: []string{mayBe}, Story: cordon,
	},
	{
		Name: "LabelsIgnored", What: "placement does not look at labels",
		Caught: []string{mayBe}, Story: labels,
	},
	{
		Name: "CreditTwice", What: "what a stopped VM held is given back twice",
		Caught: []string{ledger},
	},
	{
		Name: "NotFreed", What: "VMs that wait are not looked at when something is freed",
		Caught: []string{atRest}, Harder: soonAtRest,
	},
	{
		Name: "MapOrder", What: "peers hear of a death in the order of a map",
		Caught: []string{repeatable}, Harder: crashes, Twice: true, Few: true,
	},
	// Leases, fences and what they release.
	{
		Name: "FencesWhomItHeard", What: "a leader fences only hosts that it has heard of itself",
		Caught: []string{quorum}, Harder: quorumOnly,
	},
	{
		Name: "NoTimer", What: "the kernel's timer does not ring, so a stopped shim outlives its deadline",
		Caught: []string{twoCopies, placed}, Story: frozenHost, Few: true,
	},
	{
		Name: "WallTimer", What: "the kernel's timer goes by the wall clock",
		Caught: []string{twoCopies, placed}, Story: wallClockBack,
	},
	{
		Name: "LateGrant", What: "a Grant counts for the newest Sync, whatever Sync it answers",
		Caught: []string{twoCopies, placed}, Story: lateGrant, Config: quickRenewal,
	},
	{
		Name: "LeaseFromAnswer", What: "a lease counts from when it was granted to the host's knowledge, not from when it was asked for",
		Caught: []string{twoCopies, placed}, Story: lateGrant, Config: quickRenewal,
	},
	{
		Name: "LocalLease", What: "a host knows by itself how long a lease is",
		Caught: []string{tooLong},
	},
	{
		Name: "ReviveLease", What: "a lease page that has passed is extended",
		Caught: []string{revived}, Story: restartAfterLapse,
	},
	{
		Name: "GrantAcrossReboot", What: "a Grant to the boot before is taken, and nonces begin anew",
		Caught: []string{twoCopies, placed}, Story: grantAcrossReboot, Config: oneServer,
	},
	{
		Name: "RebootAtOnce", What: "another boot of a host gets an epoch at once, while the one before may be alive",
		Caught: []string{placed, twoCopies}, Story: clonedHost, Config: spareHost,
	},
	{
		Name: "GrantWhileFencing", What: "an epoch is granted between the proposal of its fence and the fence",
		Caught: []string{twoCopies, placed}, Story: grantWhileFencing, Config: shortLeases,
	},
	{
		Name: "GrantByBelief", What: "who believes to lead grants without asking a quorum",
		Caught: []string{twoCopies, placed}, Story: granterByBelief, Config: oneMoreHost,
	},
	{
		Name: "FenceOfOldTerm", What: "a fence counts in whatever term it was appended",
		Caught: []string{twoCopies, placed}, Story: oldFence,
	},
	{
		Name: "NewLeaderFencesAtOnce", What: "a new leader fences hosts that it has not heard of yet",
		Caught: []string{twoCopies, placed},
	},
	{
		Name: "DriftForgotten", What: "the window is too short for clocks that differ",
		Caught: []string{twoCopies, placed}, Story: clocksDiffer, Config: oneServerSlowDeaths,
	},
	{
		Name: "KillTimeForgotten", What: "the window leaves no time for what was killed to die",
		Caught: []string{twoCopies, placed}, Story: diesLate, Config: oneServerSlowDeaths,
	},
	{
		Name: "FenceReleasesLong", What: "the short window's fence releases what lives under the long lease",
		Caught: []string{twoCopies, placed}, Story: waits,
	},
	{
		Name: "ConsentSkipsWindow", What: "a VM that waits is gone when its owner deletes it, the long window notwithstanding",
		Caught: []string{twoCopies, placed}, Story: consent,
	},
	{
		Name: "FreedUnreported", What: "a deletion frees the name of a VM whose host has not reported it yet",
		Caught: []string{placed, atRest},
	},
	{
		Name: "ExitReleases", What: "the report that a VM has ended releases its placement",
		Caught: []string{placed, twoCopies},
	},
	// Hosts.
	{
		Name: "OldDelta", What: "old changes of the assignments are taken after newer ones",
		Caught: []string{placed, atRest, undisturbed, once}, Harder: slowNetwork,
	},
	{
		Name: "ToldOnce", What: "a host reports what it sees once, whether it was heard or not",
		Caught: []string{atRest}, Harder: deafNetwork,
	},
	{
		Name: "EndsUntold", What: "a host acts before it has been told all that is placed on it",
		Caught: []string{undisturbed}, Harder: crashes,
	},
	{
		Name: "BlindInventory", What: "a daemon that starts does not find the VMs that run",
		Caught: []string{adopted}, Story: adoption,
	},
	{
		Name: "StaleView", What: "what the host sees of a VM arrives late, and out of order",
		Caught: []string{atRest, undisturbed, once},
	},
	{
		Name: "StoppedRestarts", What: "a VM that its user has stopped is started again",
		Caught: []string{stopped}, Story: stopDeaf, Config: deafVMs,
	},
	{
		Name: "PolicyIgnored", What: "a VM that has ended is started again, whatever its restart policy",
		Caught: []string{policy}, Harder: shortLives,
	},
	{
		Name: "AttemptReused", What: "a restarted daemon counts attempts from the beginning",
		Caught: []string{once}, Harder: crashes,
	},
	{
		Name: "NeverKills", What: "a VM that ignores its power button is never killed",
		Caught: []string{stopped}, Story: stopDeaf, Config: deafVMs,
	},
	{
		Name: "PauseForgotten", What: "a paused VM that had to be started anew runs on",
		Caught: []string{atRest}, Story: pausedCrashes,
	},
	{
		Name: "HungForEver", What: "a VM that never becomes ready is left hanging",
		Caught: []string{atRest}, Harder: hangs,
	},
	{
		Name: "KillLies", What: "a kill is reported as done while the VM lives",
		Caught: []string{atRest, twoCopies}, Harder: deaf,
	},
	{
		Name: "RemoveLies", What: "a VM's files are reported as removed while they are there",
		Caught: []string{atRest}, Harder: soonAtRest,
	},
	{
		Name: "DeadIsAlive", What: "a dead VM is reported as alive",
		Caught: []string{atRest}, Harder: soonAtRest,
	},
	// Shims.
	{
		Name: "CheckBeforeArm", What: "the shim looks at the page, forks, and then arms its timer",
		Caught: []string{timer, twoCopies},
	},
	{
		Name: "TimerNotMoved", What: "the shim does not move its timer when the page grows",
		Caught: []string{undisturbed},
	},
	{
		Name: "Orphan", What: "a VM outlives its shim",
		Caught: []string{twoCopies, placed, atRest},
	},
}

// Worlds in which what some bugs need happens often.

func crashes(c *sim.Config) {
	c.Mix.Every = time.Second
	c.Mix.Weights = map[string]int{"Crash": 10, "PowerLoss": 5, "Isolate": 1, "DiskError": 2}
	c.Mix.Longest = 10 * time.Second
}

func slowDisksAndCrashes(c *sim.Config) {
	crashes(c)
	c.Mix.Every = 500 * time.Millisecond
	c.Mix.Weights["DiskSlow"], c.Mix.Weights["DiskStall"] = 10, 10
}

func shortLog(c *sim.Config) {
	crashes(c)
	busy(c)
	c.KeepEntries = 5
	c.Servers = 3
}

func busy(c *sim.Config) { c.Mix.Clients, c.Mix.Think = 8, 100*time.Millisecond }

func busyAndCrashes(c *sim.Config) {
	crashes(c)
	busy(c)
}

func lossyNetwork(c *sim.Config) {
	busy(c)
	c.Servers = max(c.Servers, 3)
	c.Mix.Drop, c.Mix.Late, c.Mix.Lateness = 0.2, 0.2, 2*time.Second
}

func slowNetwork(c *sim.Config) {
	busy(c)
	c.Mix.Drop, c.Mix.Duplicate, c.Mix.Late, c.Mix.Lateness = 0, 0.2, 0.3, 5*time.Second
}

// deafNetwork loses so much that a single word is not heard.
func deafNetwork(c *sim.Config) {
	lossyNetwork(c)
	soonAtRest(c)
	c.Mix.Drop = 0.4
}

func shortLives(c *sim.Config) {
	busy(c)
	c.Mix.EarlyExit, c.Mix.LateExit = 0.3, 0.6
}

// soonAtRest shortens the time in which a healed world must come to rest.
func soonAtRest(c *sim.Config) { c.Settings.LongLeaseMs = 20_000 }

// quorumOnly heals a quorum first, and kills many leaders before.
func quorumOnly(c *sim.Config) {
	soonAtRest(c)
	crashes(c)
	c.Servers = max(c.Servers, 3)
	c.Mix.Quorum = c.Seed
}

func upgrades(c *sim.Config) {
	c.Hosts, c.Mix.Every = max(c.Hosts, 1), 2*time.Second
	c.Mix.Weights = map[string]int{"Upgrade": 3, "Rolling": 1, "Crash": 1}
	c.Mix.Longest = 20 * time.Second
}

func hangs(c *sim.Config) {
	soonAtRest(c)
	c.Mix.BootHangs = 1
}

func deaf(c *sim.Config) {
	soonAtRest(c)
	c.Mix.Deaf = 1
}
