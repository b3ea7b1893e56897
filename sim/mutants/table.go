package mutants

// The promises that judges and assertions of the simulator make, by their names.
const (
	twoCopies = "never two copies"
	histories = "histories are linearizable"
	panics    = "nothing panics"
	stops     = "a node stops only when its disk does"
	opens     = "a node opens what its disk holds"
	lost      = "acknowledged is never lost"
	states    = "equal state at equal index"
	leaders   = "one leader a term"
	capacity  = "capacity is never exceeded"
	atRest    = "desired equals observed"
	revived   = "a lapsed lease is never revived"
)

// All are the bugs that are planted, by where they break what.
var All = []Mutant{
	{
		Name: "EarlyAck", What: "the disk says durable before it is",
		Caught: []string{panics, stops, opens, lost, histories, states, leaders},
	},
	{
		Name: "StaleRead", What: "linearizable reads are answered from the server's own copy",
		Caught: []string{histories},
	},
	{
		Name: "NoDedupe", What: "every attempt of a client has a request id of its own",
		Caught: []string{histories}, Few: true,
	},
	{
		Name: "Misheard", What: "one server gets other log entries than the rest",
		Caught: []string{states}, Few: true,
	},
	{
		Name: "BigFacts", What: "hosts claim twice the memory that they have",
		Caught: []string{capacity}, Few: true,
	},
	{
		Name: "NoTimer", What: "the kernel's timer does not ring, so a stopped shim outlives its deadline",
		Caught: []string{twoCopies}, Story: frozenHost, Few: true,
	},
	{
		Name: "LateGrant", What: "a Grant counts for the newest Sync, whatever Sync it answers",
		Caught: []string{twoCopies}, Story: lateGrant, Config: quickRenewal,
	},
	{
		Name: "ReviveLease", What: "a lease page that has passed is extended",
		Caught: []string{revived},
	},
	{
		Name: "KillLies", What: "a kill is reported as done while the VM lives",
		Caught: []string{atRest, twoCopies},
	},
	{
		Name: "DeadIsAlive", What: "a dead VM is reported as alive",
		Caught: []string{atRest},
	},
}
