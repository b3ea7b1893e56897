package sim

import (
	"maps"

	"github.com/blixard/blixard/vmm/shim"
)

// judges hold the world to its promises, each in a file of its own, whose head
// says in one sentence what it holds true.
type judges struct {
	addresses   judgeAddresses
	devices     judgeDevices
	artifacts   judgeArtifacts
	states      judgeStates
	capacity    judgeCapacity
	contract    judgeContract
	copies      judgeCopies
	drains      judgeDrains
	leaders     judgeLeaders
	leases      judgeLeases
	levels      judgeLevels
	logs        judgeLogs
	placed      judgePlaced
	shares      judgeShares
	warm        judgeWarm
	snapshots   judgeSnapshots
	specs       judgeSpecs
	memory      judgeMemory
	migrations  judgeMigrations
	policy      judgePolicy
	undisturbed judgeUndisturbed
	volumes     judgeVolumes
	witness     judgeWitness
	newest      newest // what several of them look at
	// judged counts what each had before it. A judge that had nothing to judge
	// has proved nothing.
	judged map[string]int
}

// JudgeNames are all judges there are.
var JudgeNames = []string{
	"acknowledged", "addresses", "artifacts", "capacity", "contract", "copies", "devices", "drains", "histories", "leaders", "leases", "levels", "logs", "memory", "migrations", "placed", "policy", "quorum", "rest", "roots", "shares", "snapshots", "specs", "states", "undisturbed", "volumes", "warm", "watch", "witness",
}

func (j *judges) reset() {
	*j = judges{judged: map[string]int{}}
	j.capacity.since = map[incarnation]uint32{}
	j.states.at = map[uint64]stateAt{}
	j.witness.executed = map[string]uint64{}
	j.logs.at = map[logAt]logEntry{}
	j.levels.known = map[uint64]uint32{}
	j.leaders.of = map[uint64]string{}
	j.copies.forks = map[shim.Instance]bool{}
	j.specs = newJudgeSpecs()
	j.snapshots = judgeSnapshots{map[string]bool{}, map[string]content{}}
	j.addresses.of = map[string]string{}
	j.volumes = judgeVolumes{map[string]uint64{}, map[string]uint64{}}
	j.migrations = judgeMigrations{map[shim.Instance]bool{}, map[uint64]string{}, map[uint64]uint64{}, map[uint64]uint64{}}
	j.policy.over, j.policy.runs, j.policy.said = map[string]over{}, map[string]uint32{}, map[string][]said{}
}

func (j *judges) counts() map[string]int { return maps.Clone(j.judged) }
