package mutants

import "github.com/blixard/blixard/sim"

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
	addressed   = "an address is one VM's"
	hasAddress  = "what lives has its address"
	inUse       = "addresses in use are those that VMs have"
	ports       = "a port leads to one VM"
	device      = "a device is one VM's"
	volumes     = "a VM that waits is not taken from its host"
	oneWriter   = "no volume is open twice"
	withVolume  = "a VM runs where its volumes are"
	holds       = "what lives has its volumes"
	hasWrites   = "a volume has every acknowledged write"
	noVolume    = "what is on its way is no volume"
	byName      = "a volume goes by its name only"
	roots       = "what runs keeps its root"
	builds      = "what is built is what the spec says"
	rollback    = "a rollback gives back the spec before"
	needs       = "what VMs need is known"
	once        = "an instance is forked once"
	timer       = "no fork before the timer stands"
	revived     = "a lapsed lease is never revived"
	tooLong     = "a lease is no longer than it is"
	undisturbed = "no VM is ended that should run"
	policy      = "restarts are as the policy says"
	atRest      = "desired equals observed"
	keeps       = "a host keeps its contract"
	quorum      = "a quorum is enough"
	raised      = "a level is raised when every member knows it"
	beyond      = "no server applies beyond its level"
	repeatable  = "the same seed gives the same run"
	watched     = "a watcher knows what is there"
	inTurn      = "a higher priority is placed first"
	drains      = "a drain keeps to its bound"
	drainsMay   = "a drain moves what it may"
	oneMoment   = "a snapshot is of one moment"
	hasShares   = "a VM has its shares where it runs"
	ownBoot     = "a guest goes on from its own boot"
	fewBoots    = "a host keeps few saved boots"
	isThere     = "what is ready is there"
	isGone      = "what is forgotten is gone"
	backedUp    = "what is brought back is what was backed up"
	restoreOnce = "a restore is done once"
	accounted   = "what runs is accounted"
	asked       = "what is accounted is what was asked"
	// Of stories.
	handed  = "what was handed over never goes on"
	memory  = "a guest goes on with its memory"
	wrote   = "the running copy has every acknowledged write"
	noRight = "who has no right to run does not"
	stays   = "what has left is not called back"
	held    = "what is left of a VM is held"
	adopted = "what runs is taken over by a restarted daemon"
	unwell  = "a VM is restarted for its own sickness, and no other"
	emptied = "a drained host is emptied, and restored"
	resumed = "what its host has ended is started again"
	served  = "a VM ends with what serves its shares"
	stopped = "a stopped VM is stopped within its grace"
)

// All are the bugs that are planted, by what they are about.
var All = []Mutant{
	// Live migrations.
	{
		Name: "TargetRunsEarly", What: "a target is told that it may run before the switch",
		Caught: []string{twoCopies, noRight, placed, memory}, Story: goesLive,
	},
	{
		Name: "SwitchUnchecked", What: "a switch is applied whatever has become of its migration",
		Caught: []string{twoCopies, placed, memory}, Story: breaksAtItsEnd,
	},
	{
		Name: "HandedOverStarts", What: "a source starts a VM again that it has handed over, while the switch may be on its way",
		Caught: []string{twoCopies, placed}, Story: sourceDiesHandedOver,
	},
	{
		Name: "HandedOverGoesOn", What: "a source lets a guest go on that it has handed over, when the move has ended",
		Caught: []string{handed, twoCopies}, Story: targetDiesLoaded,
	},
	{
		Name: "CancelledTooLate", What: "a move is called off after its hand-over, and its VM is started anew for nothing",
		Caught: []string{stays}, Story: calledOffLate,
	},
	{
		Name: "TargetFreedEarly", What: "what a target holds is free before it says that nothing of the VM is left there",
		Caught: []string{held, atRest}, Story: calledOff,
	},
	{
		Name: "MirrorUnsettled", What: "a guest is handed over when its disks' mirrors are in step, and not once they have come to their end",
		Caught: []string{wrote}, Story: goesLive,
	},
	{
		Name: "VolumeBeforeSwitch", What: "a volume is its target's when its VM is handed over, before the switch",
		Caught: []string{withVolume}, Story: volumeGoesLive,
	},
	{
		Name: "CopyUnmarked", What: "what comes of a volume bears no mark, and stays when its move has ended",
		Caught: []string{atRest, noVolume}, Story: volumeStays,
	},
	{
		Name: "LeftBehindEarly", What: "what a source had of a volume goes with the switch, before the target has said that it has all of it",
		Caught: []string{byName}, Story: volumeUnheard,
	},
	{
		Name: "MirrorUnsynced", What: "a target says that it has a guest before what has come of its volume is on the disk",
		Caught: []string{hasWrites}, Story: volumeLosesPower,
	},
	{
		Name: "RootLeftEarly", What: "a source lets go of what Nix built once a guest was handed over, and not when it is removed",
		Caught: []string{roots}, Story: nixMoves,
	},
	{
		Name: "WaitsWithoutClosure", What: "a target is told to wait for a guest before it has what Nix built for it",
		Caught: []string{roots}, Story: nixMoves,
	},
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
		Caught: []string{panics, lost, states, leaders, logs, histories, opens}, Harder: sim.SlowDisksAndCrashes,
	},
	{
		Name: "EarlyAck", What: "the disk says durable before it is",
		Caught: []string{panics, lost, states, leaders, logs, histories, opens, stops}, Harder: sim.SlowDisksAndCrashes,
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
		Caught: []string{panics, opens}, Harder: sim.SlowDisksAndCrashes,
	},
	{
		Name: "AppliedBeyondCommit", What: "the state on disk is ahead of the commit index beside it, and nobody repairs that",
		Caught: []string{panics, opens}, Harder: sim.Crashes,
	},
	{
		Name: "BatchOutOfOrder", What: "the operations of a batch take effect in the wrong order",
		Caught: []string{opens, panics, states, logs, lost}, Harder: sim.Crashes,
	},
	{
		Name: "AppliedApart", What: "the applied index is in another transaction than what was applied",
		Caught: []string{states, panics, opens}, Harder: sim.SlowDisksAndCrashes,
	},
	{
		Name: "CutBeyondDurable", What: "the log is cut beyond the durable state",
		Caught: []string{opens, panics, stops}, Harder: sim.ShortLog,
	},
	// Snapshots.
	{
		Name: "NewerSnapshot", What: "a snapshot carries newer records than its index says",
		Caught: []string{states}, Harder: sim.ShortLog,
	},
	{
		Name: "SnapshotMissesTable", What: "a snapshot leaves out what was answered to whom",
		Caught: []string{states}, Harder: sim.ShortLog,
	},
	{
		Name: "RestoreMerges", What: "a snapshot is added to the old state instead of replacing it",
		Caught: []string{states, opens, panics}, Harder: sim.ShortLog,
	},
	// Clients.
	{
		Name: "NoDedupe", What: "every attempt of a client has a request id of its own",
		Caught: []string{histories, rollback}, Harder: sim.BusyAndCrashes, Few: true,
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
		Caught: []string{histories}, Harder: sim.Lagging,
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
		Caught: []string{histories}, Harder: sim.LossyNetwork,
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
		Caught: []string{states}, Harder: sim.Upgrades,
	},
	{
		Name: "BehindGoesOn", What: "a binary that is older than its cluster applies what it does not know",
		Caught: []string{beyond}, Harder: sim.Upgrades,
	},
	{
		Name: "ServersRaise", What: "the cluster is raised when its servers are upgraded, whatever its hosts are",
		Caught: []string{raised}, Harder: sim.Upgrades,
	},
	// The state.
	{
		Name: "Misheard", What: "one server gets other log entries than the rest",
		Caught: []string{logs, states}, Few: true,
	},
	{
		Name: "BigFacts", What: "hosts claim twice the memory that they have",
		Caught: []string{capacity}, Few: true, Harder: sim.Crowded,
	},
	{
		Name: "MemoryIgnored", What: "placement does not look at memory",
		Caught: []string{capacity}, Harder: sim.Crowded,
	},
	{
		Name: "PriorityIgnored", What: "what waits for a host is placed oldest first, whatever its priority",
		Caught: []string{inTurn}, Story: hostLostOfTwo,
	},
	// Shares.
	{
		Name: "SharesIgnored", What: "placement does not look at who can serve a folder",
		Caught: []string{hasShares}, Harder: sim.Sharing,
	},
	{
		Name: "FolderIgnored", What: "placement does not look at which folders a host allows",
		Caught: []string{hasShares}, Harder: sim.Sharing,
	},
	{
		Name: "ShareLossUnseen", What: "a guest lives on whose folders nothing serves any more",
		Caught: []string{served}, Story: losesShares,
	},
	// Warm starts.
	{
		Name: "BootOfAnotherSpec", What: "a guest goes on from a boot that was saved with another spec",
		Caught: []string{ownBoot}, Harder: sim.Warming,
	},
	{
		Name: "InterruptedIsFault", What: "a VM whose warm start its daemon's end has interrupted counts as failed",
		Caught: []string{resumed}, Story: diesWarming,
	},
	{
		Name: "WarmUntold", What: "a guest is not told who it is when the daemon dies that had it go on from its saved boot",
		Caught: []string{atRest}, Story: diesUntold,
	},
	{
		Name: "BootsUnbounded", What: "a host keeps every boot that it has saved",
		Caught: []string{fewBoots}, Harder: sim.Warming,
	},
	// Health.
	{
		Name: "HealthIgnored", What: "a VM that is not well is not restarted",
		Caught: []string{unwell}, Story: sick,
	},
	{
		Name: "StalledIsSick", What: "a probe during which the host stood still counts against the VM",
		Caught: []string{unwell}, Story: stalled,
	},
	// Drains.
	{
		Name: "DrainReleasesEarly", What: "a VM that leaves a drained host is placed elsewhere before the host has acknowledged",
		Caught: []string{twoCopies, placed}, Story: drained,
	},
	{
		Name: "DrainForgets", What: "a drain does not go on when something has become free",
		Caught: []string{emptied}, Story: drained,
	},
	{
		Name: "DrainUnbounded", What: "a drain moves all VMs at once",
		Caught: []string{drains}, Story: drained,
	},
	{
		Name: "DrainMovesLocal", What: "a drain moves VMs that wait for their host",
		Caught: []string{drainsMay, volumes}, Story: drained,
	},
	{
		Name: "HeldForEver", What: "what a drain has stopped does not start when its host is restored",
		Caught: []string{emptied}, Story: drained,
	},
	// Networks.
	{
		Name: "AddressTwice", What: "an address is given whether somebody has it or not",
		Caught: []string{addressed},
	},
	{
		Name: "AddressLeaked", What: "the addresses of a VM that is gone are not given back",
		Caught: []string{inUse},
	},
	{
		Name: "AddressFreedEarly", What: "the addresses of a VM are given back when it is to be deleted, while it lives",
		Caught: []string{hasAddress},
	},
	{
		Name: "PortsIgnored", What: "placement does not look whose a port is",
		Caught: []string{ports}, Harder: sim.Crowded,
	},
	{
		Name: "PortSpaceIgnored", What: "placement does not look whose a port is on the other node of a machine",
		Caught: []string{ports}, Harder: sim.Crowded,
	},
	{
		Name: "MoveWithinOneMachine", What: "a VM is moved live to a node whose ports it needs where it is",
		Caught: []string{ports}, Harder: sim.Moving,
	},
	{
		Name: "DeviceTwice", What: "placement does not look whose a device is",
		Caught: []string{device},
	},
	{
		Name: "DeviceFreedEarly", What: "an update gives away the devices that the spec before may still run with",
		Caught: []string{device}, Story: devices,
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
		Caught: []string{atRest, quorum}, Harder: sim.Crowded,
	},
	{
		Name: "MapOrder", What: "peers hear of a death in the order of a map",
		Caught: []string{repeatable}, Harder: sim.Crashes, Twice: true, Few: true,
	},
	// Leases, fences and what they release.
	{
		Name: "FencesWhomItHeard", What: "a leader fences only hosts that it has heard of itself",
		Caught: []string{quorum}, Harder: sim.QuorumOnly,
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
		Name: "RestoreStartsAtOnce", What: "a restored cluster does not wait for what the backup does not know",
		Caught: []string{twoCopies, placed}, Harder: sim.Disasters,
	},
	{
		Name: "SettledTooSoon", What: "the wait after a restore ends with the first leader's short window",
		Caught: []string{twoCopies, placed}, Harder: sim.Disasters,
	},
	{
		Name: "FenceBeforeWindow", What: "a fence counts however long its proposer has waited",
		Caught: []string{twoCopies, placed}, Story: hastyFence,
	},
	{
		Name: "ShorterAtOnce", What: "a lease that is made shorter counts before its host knows",
		Caught: []string{twoCopies, placed}, Story: shorter,
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
		Caught: []string{placed, atRest}, Harder: sim.Fickle,
	},
	{
		Name: "ExitReleases", What: "the report that a VM has ended releases its placement",
		Caught: []string{placed, twoCopies}, Harder: sim.ShortLives,
	},
	{
		Name: "CloneGranted", What: "a copy of a host is granted the epoch of the original",
		Caught: []string{twoCopies, placed}, Story: clonedInPlace, Config: spareHost,
	},
	{
		Name: "LostAtOnce", What: "a host is given up as lost while what runs there has a lease",
		Caught: []string{placed, twoCopies, volumes}, Story: lostAtOnce, Config: oneMoreHost,
	},
	{
		Name: "LostUnderLongLease", What: "a host is given up as lost while what runs there has a long lease",
		Caught: []string{placed, twoCopies, volumes}, Story: lostWhenFenced, Config: oneMoreHost,
	},
	{
		Name: "LostStartsAnew", What: "a VM that waited for a lost host starts without its volumes, its owner not asked",
		Caught: []string{volumes}, Story: lostForGood, Config: soonLost,
	},
	// Volumes.
	{
		Name: "VolumeDeletedWithVM", What: "a VM's volumes are deleted with it, though nobody asked for that",
		Caught: []string{byName, holds},
	},
	{
		Name: "VolumeFreedEarly", What: "a volume that was taken out of a spec is free while the VM runs with the spec before",
		Caught: []string{holds, oneWriter},
	},
	{
		Name: "VolumeFreedByDelete", What: "a VM that is being deleted has its volumes no more, while it lives",
		Caught: []string{holds, oneWriter},
	},
	{
		Name: "VolumeSharedForWriting", What: "a volume that a VM writes is given to another one, too",
		Caught: []string{oneWriter},
	},
	{
		Name: "PlacedAwayFromVolume", What: "a VM is placed where its volume is not",
		Caught: []string{withVolume},
	},
	{
		Name: "VolumeUnaccounted", What: "a volume takes no room of its host",
		Caught: []string{ledger, capacity},
	},
	// Hosts.
	{
		Name: "OldDelta", What: "old changes of the assignments are taken after newer ones",
		Caught: []string{placed, atRest, undisturbed, once}, Harder: sim.SlowNetwork,
	},
	{
		Name: "ToldOnce", What: "a host reports what it sees once, whether it was heard or not",
		Caught: []string{atRest}, Harder: sim.DeafNetwork,
	},
	{
		Name: "EndsUntold", What: "a host acts before it has been told all that is placed on it",
		Caught: []string{undisturbed}, Harder: sim.Crashes,
	},
	{
		Name: "BlindInventory", What: "a daemon that starts does not find the VMs that run",
		Caught: []string{adopted}, Story: adoption,
	},
	{
		Name: "StaleView", What: "what the host sees of a VM arrives late, and out of order",
		Caught: []string{keeps, atRest, undisturbed, once},
	},
	{
		Name: "StoppedRestarts", What: "a VM that its user has stopped is started again",
		Caught: []string{stopped}, Story: stopDeaf, Config: deafVMs,
	},
	{
		Name: "PolicyIgnored", What: "a VM that has ended is started again, whatever its restart policy",
		Caught: []string{policy}, Harder: sim.ShortLives,
	},
	{
		Name: "AttemptReused", What: "a restarted daemon counts attempts from the beginning",
		Caught: []string{keeps, once}, Harder: sim.Crashes,
	},
	{
		Name: "NeverKills", What: "a VM that ignores its power button is never killed",
		Caught: []string{stopped}, Story: stopDeaf, Config: deafVMs,
	},
	{
		Name: "PauseForgotten", What: "a paused VM that had to be started anew runs on",
		Caught: []string{atRest}, Story: pausedCrashes, Config: soonAtRest,
	},
	{
		Name: "HungForEver", What: "a VM that never becomes ready is left hanging",
		Caught: []string{atRest, quorum}, Harder: sim.Hangs,
	},
	{
		Name: "KillLies", What: "a kill is reported as done while the VM lives",
		Caught: []string{atRest, twoCopies}, Harder: sim.Deaf,
	},
	{
		Name: "RemoveLies", What: "a VM's files are reported as removed while they are there",
		Caught: []string{keeps, atRest}, Harder: sim.SoonAtRest,
	},
	{
		Name: "RemoveUnanswered", What: "a removal that was done is waited for when its answer is lost",
		Caught: []string{atRest, quorum},
	},
	{
		Name: "AwaitedForever", What: "a word that a hypervisor does not answer is waited for without end",
		Caught: []string{atRest, quorum},
	},
	{
		Name: "DeadIsAlive", What: "a dead VM is reported as alive",
		Caught: []string{keeps, atRest}, Harder: sim.SoonAtRest,
	},
	// Specs, and what Nix builds of them.
	{
		Name: "RootDropped", What: "what a VM runs with may be collected as soon as something newer is built",
		Caught: []string{roots}, Harder: sim.Renewals,
	},
	{
		Name: "StaleBuild", What: "what was built for a spec is taken for a newer one",
		Caught: []string{builds}, Harder: sim.Renewals,
	},
	{
		Name: "RunnerKept", What: "an update keeps what was built of the spec before",
		Caught: []string{builds}, Harder: sim.Renewals,
	},
	{
		Name: "OldBuildCounts", What: "what a host has built of an older spec is recorded as built of the newest",
		Caught: []string{builds}, Harder: sim.Renewals,
	},
	{
		Name: "UnaskedRestart", What: "an update restarts a VM that was to go on until its next start",
		Caught: []string{undisturbed}, Harder: sim.Renewals,
	},
	{
		Name: "StoppedUnbuilt", What: "a VM is stopped for a newer spec that is not built yet",
		Caught: []string{undisturbed}, Harder: sim.Renewals,
	},
	{
		Name: "RollbackTooFar", What: "a rollback gives back the oldest spec that is kept",
		Caught: []string{rollback},
	},
	{
		Name: "NeedUncounted", What: "only the first VM that needs a file is counted",
		Caught: []string{needs},
	},
	{
		Name: "CollectedEarly", What: "a file that nothing needs is collected before its hour has passed",
		Caught: []string{needs, histories},
	},
	{
		Name: "CollectedInUse", What: "a file is collected though a VM needs it",
		Caught: []string{needs}, Story: twoHours, Config: oneFile,
	},
	// Snapshots.
	{
		Name: "SnapshotWhileRunning", What: "a snapshot is taken of a guest that runs on",
		Caught: []string{oneMoment}, Harder: sim.Snapshots,
	},
	{
		Name: "RestoreKeepsDisks", What: "a guest goes on from a snapshot's memory with the disks that it has",
		Caught: []string{oneMoment}, Harder: sim.Snapshots,
	},
	{
		Name: "RestoredAgain", What: "what was restored, and has crashed since, is restored once more",
		Caught: []string{restoreOnce}, Story: crashesRestored,
	},
	{
		Name: "EpochWithoutList", What: "with a new epoch comes a list of snapshots to keep that has none",
		Caught: []string{isThere}, Harder: sim.Snapshots,
	},
	{
		Name: "SnapshotStays", What: "a host says that a snapshot is removed, and keeps its bytes",
		Caught: []string{isGone, atRest}, Harder: sim.Snapshots,
	},
	// Backups.
	{
		Name: "UploadCutShort", What: "an archive that breaks off is taken as whole",
		Caught: []string{backedUp}, Harder: sim.BackingUp,
	},
	{
		Name: "UploadStays", What: "what has come of an archive that broke off is not collected",
		Caught: []string{isGone, atRest}, Harder: sim.BackingUp,
	},
	{
		Name: "RetryRefused", What: "who has brought an archive, and has not heard so, is refused when he asks again",
		Caught: []string{firstAnswer}, Harder: sim.BackingUp,
	},
	{
		Name: "GivenUpByName", What: "with an archive that does not come another snapshot is given up that has its name by then",
		Caught: []string{lost}, Story: broughtInVain,
	},
	// Balloons.
	{
		Name: "BalloonCredited", What: "what a guest's balloon has taken is given to other VMs",
		Caught: []string{accounted, asked}, Harder: sim.Ballooning,
	},
	{
		Name: "BalloonKept", What: "a guest is never given back what its balloon has taken",
		Caught: []string{atRest}, Story: balloons, Config: soonAtRest,
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
		Name: "OutlivesItsShim", What: "a VM outlives its shim",
		Caught: []string{twoCopies, placed, atRest},
	},
}
