package sim

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/core/cluster"
	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
)

// phase is where a run is.
type phase uint8

const (
	founding phase = iota // the cluster grows; no fault is drawn
	safety                // clients work, faults strike
	healed                // all is well again, and the world must come to rest
)

func (p phase) String() string { return [...]string{"founding", "safety", "healed"}[p] }

// World is one simulation.
type World struct {
	cfg      Config
	settings *blixardv1.Settings
	mix      *Mix

	now    int64 // real time, ns since the start
	queue  queue
	trace  trace
	chance chance

	entropy  *rand.Rand
	nemesis  *rand.Rand
	luck     *rand.Rand // mishaps
	stepping *Machine

	machines  []*Machine
	running   map[string][]*guest // all process tables together, by uid: those whose code may run
	memories  uint64              // how many boots there were
	byAddress map[string]*Machine
	known     map[uint64][]*Machine // all that ever had an id, in their order
	clusterID string
	net       *network
	clients   []*client
	hearsay   hearsay
	tidier    *client // deletes what was abandoned
	operator  *client // grows the cluster, and asks what the tests ask
	history   []*Operation
	drops     []*Operation // those of volumes, of generations before
	attempts  uint64
	// evaluations counts what Nix had to build, of all machines.
	evaluations int
	phase       phase
	foundedAt   int64
	healedAt    int64
	chores      int // of keepers, under way
	givenUp     map[string]bool
	missing     uint64 // the node for which a cluster was last found to be incomplete

	generation uint64         // of the cluster
	backup     *cluster.State // what somebody has put away; nil: nothing yet
	watcher    *watcher

	broken   map[*ended]uint64 // faults in effect, by when they began
	rest     []*Machine        // that stay broken while the others are healed
	unpaused map[int]int64
	counts   map[string]int
	mishaps  mishaps
	points   *passes // nil: nobody enumerates
	struck   []Strike
	record   bool  // keep every decision, not only what struck
	film     *Film // nil: nobody films
	steps    uint64

	judges  judges
	failure *Failure
}

// Strike is a fault and when it struck.
type Strike struct {
	At    time.Duration
	Fault Fault
}

func (s Strike) String() string { return fmt.Sprintf("%v %s", s.At, FaultString(s.Fault)) }

// New makes a world of machines without power. It must be closed.
func New(cfg Config) *World {
	cfg.complete()
	w := &World{
		cfg: cfg, settings: cfg.Settings, mix: cfg.Mix, chance: chance{cfg.Seed},
		byAddress: map[string]*Machine{}, broken: map[*ended]uint64{}, unpaused: map[int]int64{},
		known: map[uint64][]*Machine{}, hearsay: newHearsay(), counts: map[string]int{}, running: map[string][]*guest{}, givenUp: map[string]bool{}, record: cfg.Record || cfg.Script != nil, clusterID: "11111111-2222-4333-8444-555555555555",
	}
	w.generation = 1
	w.trace.log = cfg.Log
	w.entropy, w.nemesis, w.luck = w.chance.stream("entropy"), w.chance.stream("nemesis"), w.chance.stream("luck")
	w.net = newNetwork(w.chance.stream("network"))
	w.judges.reset()
	for i := 1; i <= cfg.Servers+cfg.Hosts+cfg.Spares; i++ {
		spare := i - cfg.Servers - cfg.Hosts
		m := w.newMachine(i, i <= cfg.Servers || spare > 0 && (spare+cfg.Hosts)%2 == 0, true)
		m.spare = spare > 0
		w.machines = append(w.machines, m)
		w.byAddress[m.address()] = m
	}
	w.operator = w.newClient(false)
	for _, s := range cfg.Script {
		if f, ok := s.Fault.(Mishap); ok {
			w.mishaps.arm(int64(s.At), f)
		}
	}
	for _, m := range w.machines {
		m.keeper = &keeper{client: w.person(-m.Index, m.Name+"/keeper"), m: m}
	}
	w.tidier = w.person(-cfg.Servers-cfg.Hosts-cfg.Spares-1000, "tidier")
	takeEntropy(w)
	mutant.Plant(cfg.Mutant)
	return w
}

// Close lets another World live.
func (w *World) Close() {
	if giveEntropyBack(w) {
		mutant.Plant("")
	}
}

func (w *World) push(e event) { w.queue.push(e) }

func (w *World) seqNow() uint64 { return w.queue.seq }

func (w *World) fired(name string) { w.counts[name]++ }

func (w *World) keep(m *Machine, what any) {
	who := ""
	if m != nil {
		who = m.Name
	}
	w.trace.keep(line{w.now, who, what})
	if w.film != nil {
		w.film.line(line{w.now, who, what})
	}
}

func (w *World) say(m *Machine, what string) {
	w.trace.foldString(what)
	w.keep(m, what)
}

// RunFor lets time pass.
func (w *World) RunFor(d time.Duration) {
	w.RunUntil(d, func() bool { return false })
}

// RunUntil lets time pass until cond holds, at most d. It looks after every
// event, and says whether it came to hold.
func (w *World) RunUntil(d time.Duration, cond func() bool) bool {
	end := w.now + int64(d)
	if w.cfg.Until > 0 {
		end = min(end, int64(w.cfg.Until))
	}
	for !w.over() {
		if cond() {
			return true
		}
		if len(w.queue.h) == 0 || w.queue.h[0].at > end {
			w.now = end
			return cond()
		}
		w.turn(w.queue.pop())
	}
	return false
}

// over says that nothing more happens: a promise was broken, or nobody wants to
// see more.
func (w *World) over() bool {
	return w.failure != nil || w.cfg.Until > 0 && w.now >= int64(w.cfg.Until) || w.cfg.UntilEvent > 0 && w.trace.events >= w.cfg.UntilEvent
}

// turn lets one event happen.
func (w *World) turn(e event) {
	if e.at < w.now {
		panic("sim: time goes back")
	}
	w.now = e.at
	if e.m != nil && e.m.asleep > w.now && e.kind < evArrive {
		e.at = e.m.asleep
		w.push(e)
		return
	}
	if e.m != nil && e.kind < evArrive && !w.reaches(&e) {
		return
	}
	w.trace.events++
	w.fold(&e)
	if w.cfg.marked != nil && !w.cfg.marked(w.mark(&e)) {
		return
	}
	defer func() {
		if r := recover(); r != nil {
			w.stepping = nil
			w.fail(panicked, "%s of %v: %v\n%s", e.kind, name(e.m), r, debug.Stack())
		}
	}()
	w.happen(e)
	w.film.look(w, e.m)
}

// atOnce lets an event happen that is a consequence of the one that happens now,
// as its last effect, if whom it is for lives; a stopped daemon puts it aside.
func (w *World) atOnce(e event) {
	e.at = w.now
	if w.reaches(&e) {
		w.fold(&e)
		w.happen(e)
	}
}

func (w *World) fold(e *event) {
	who := uint64(0)
	if e.m != nil {
		who = uint64(e.m.Index)
	}
	w.trace.fold(uint64(e.at))
	w.trace.fold(uint64(e.kind)<<32 | who<<40 | e.n)
}

func name(m *Machine) string {
	if m == nil {
		return "the world"
	}
	return m.Name
}

// reaches says that whom the event is for still lives; a stopped daemon's are
// put aside.
func (w *World) reaches(e *event) bool {
	m := e.m
	switch e.kind {
	case evDurable, evBoot:
		return m.on && e.life == m.boots
	case evShim, evLook, evTimer:
		s := e.ref.(*shimProc)
		return m.on && s.dir.shim == s
	case evReap:
		g := e.ref.(*guest)
		return m.on && g.dir.zombie == g
	case evReady, evLoaded, evExit, evDead:
		g := e.ref.(*guest)
		return m.on && g.dir.guest == g
	}
	d := m.daemon
	if d == nil || d.life != e.life {
		return false
	}
	if d.paused {
		d.hold(*e)
		return false
	}
	return true
}

func (w *World) happen(e event) {
	m := e.m
	switch e.kind {
	case evTick:
		w.push(event{at: w.now + m.tick(), kind: evTick, m: m, life: e.life})
		m.daemon.step(core.Tick{})
	case evReceive:
		w.receive(m, e.ref.(*packet))
	case evPeerLost:
		w.keep(m, core.PeerLost{Peer: e.n})
		m.daemon.step(core.PeerLost{Peer: e.n})
	case evSnapshotSent:
		m.daemon.step(core.SnapshotSent{To: e.n >> 1, OK: e.n&1 == 1})
	case evWrote:
		m.daemon.step(core.Wrote{Seq: e.n})
	case evRequest:
		m.daemon.ask(e.ref.(*ask))
	case evRequestEnd:
		m.daemon.requestEnd(e.n)
	case evObserve:
		m.daemon.look(e.ref.(*vmDir))
	case evObserved:
		in := e.ref.(core.Observed)
		w.keep(m, in)
		w.judges.contract.observed(w, m, in)
		m.daemon.step(in)
	case evAction:
		m.daemon.act(e.ref.(*orders))
	case evBuilt:
		m.daemon.built(e.ref.(built))
	case evProbed:
		m.daemon.probed(e.ref.(probe))
	case evPrepare:
		m.daemon.getReady(e.n)
	case evKeep:
		m.daemon.kept(e.n)
	case evExtend:
		m.daemon.extend(e.ref.(vmm.Action))
	case evSaved:
		m.daemon.saved(e.ref.(*saving), "")
	case evKept:
		m.daemon.snapshotsKept(e.ref.(vmm.Action))
	case evSilent:
		m.daemon.silent(e.ref.(*orders), e.n)
	case evDurable:
		m.durable(e.n)
	case evBoot:
		m.startDaemon()
	case evShim:
		e.ref.(*shimProc).step()
	case evLook:
		e.ref.(*shimProc).looked(e.n)
	case evTimer:
		e.ref.(*shimProc).rang(e.n)
	case evReady:
		e.ref.(*guest).ready = true
		e.ref.(*guest).savesBoot()
		m.notice(e.ref.(*guest).dir)
	case evLoaded:
		e.ref.(*guest).loaded()
	case evExit:
		e.ref.(*guest).exits(int(e.n))
	case evDead:
		e.ref.(*guest).gone(signaled(int(e.n)))
	case evReap:
		e.ref.(*guest).reaped()
	case evArrive:
		w.arrive(m, int(e.n), e.ref.(*packet))
	case evEnd:
		w.end(e.ref.(*ended))
	case evStrike:
		w.strike(e)
	case evClient:
		e.ref.(*client).next()
	case evAsk:
		w.asked(e.ref.(*ask))
	case evAnswer:
		o := e.ref.(*outcome)
		o.ask.client.heard(o)
	case evGiveUp:
		e.ref.(*client).gaveUp(e.n)
	case evChore:
		e.ref.(func())()
	case evWake:
	default:
		panic("sim: nobody knows what to do about " + e.kind.String())
	}
}

// tick is how long a tick of this machine's clock is.
func (m *Machine) tick() int64 {
	return int64(float64(m.w.cfg.Tick)/m.clock.rate) + between(m.rand, 0, m.w.cfg.Tick/50)
}

func (w *World) receive(m *Machine, p *packet) {
	in := p.open()
	w.mutateArrival(in.Envelope)
	if in.Raft == nil {
		w.hears(m, in.Envelope)
		w.keep(m, p.encoded)
	}
	m.daemon.step(in)
}

// stepped looks at a node after its step.
func (w *World) stepped(d *Daemon, out *core.Output) {
	if !d.m.Server {
		return
	}
	if term := d.node.Leads(); term != 0 {
		w.judges.leaders.leads(w, d.m, term)
	}
	v := d.node.State()
	if v == nil || v.Revision() == d.applied {
		return
	}
	d.applied = v.Revision()
	w.judges.states.seen(w, d.m, v)
	w.judges.levels.applied(w, d.m, v)
	w.judges.follow(w, v, out.Applied)
}

func (w *World) forked(g *guest) {
	w.judges.copies.forked(w, g)
	w.judges.placed.forked(w, g)
	w.judges.policy.forked(w, g)
	w.judges.volumes.forked(w, g)
	w.judges.specs.forked(w, g)
	w.judges.addresses.forked(w, g)
	w.judges.devices.forked(w, g)
	w.judges.shares.forked(w, g)
	w.judges.migrations.forked(w, g)
	w.judges.memory.forked(w, g)
}

func (w *World) strike(e event) {
	if w.phase != safety {
		return
	}
	f, scripted := e.ref.(Fault)
	if a, ok := f.(Ask); ok {
		a.strike(w)
		return
	}
	if !scripted {
		f = drawFault(w.nemesis, w.mix, len(w.machines))
		w.nextStrike()
	}
	if f != nil {
		w.Strike(f)
	}
}

// Strike makes a fault happen now.
func (w *World) Strike(f Fault) {
	if !f.strike(w) {
		return
	}
	w.struck = append(w.struck, Strike{time.Duration(w.now), f})
	name := FaultString(f)
	w.say(nil, name)
	w.fired(faultName(f))
}

func (w *World) nextStrike() {
	if w.mix.Every > 0 {
		w.push(event{at: w.now + tail(w.nemesis, w.mix.Every, 10*w.mix.Every), kind: evStrike})
	}
}

// Heal ends every fault, and gives everything power and life.
func (w *World) Heal() {
	w.rest = nil
	w.heal("everything is healed")
}

func (w *World) heal(what string) {
	if w.phase != healed {
		w.later(int64(5*time.Second), w.tidies)
	}
	w.phase, w.healedAt = healed, w.now
	w.say(nil, what)
	for _, e := range slices.SortedFunc(maps.Keys(w.broken), func(a, b *ended) int {
		return cmp.Compare(w.broken[a], w.broken[b])
	}) {
		w.end(e)
	}
	clear(w.net.clog)
	for _, m := range w.machines {
		if level := w.judges.levels.level; m.level < level {
			m.runs(level)
		}
		m.disk.stalled, m.disk.broken, m.disk.full, m.disk.slow = 0, false, false, 0
		if m.asleep > w.now { // it wakes now, to what it put off meanwhile
			w.queue.bring(m, m.asleep, w.now)
			m.asleep = w.now
		}
		m.boot()
		if m.daemon == nil {
			m.restartDaemon(int64(time.Second))
		}
	}
}

// stoppedUntil notes that a machine owed nothing until then: what it owes may be
// as late. Stops of several kinds may overlap.
func (w *World) stoppedUntil(m *Machine, at int64) {
	w.unpaused[m.Index] = max(w.unpaused[m.Index], at)
}

// pausedSince says that a machine's daemon was stopped at some time since.
func (w *World) pausedSince(m *Machine, since int64) bool {
	at, ok := w.unpaused[m.Index]
	return ok && at >= since || m.daemon != nil && m.daemon.paused
}

// servers is where the servers are, as somebody would write it into a file.
func (w *World) servers() []*blixardv1.Node {
	var out []*blixardv1.Node
	for _, m := range w.voters() {
		out = append(out, &blixardv1.Node{Id: m.id, Name: m.Name, Address: m.address(), Server: blixardv1.ServerState_SERVER_STATE_VOTER})
	}
	return out
}

func (w *World) voters() []*Machine {
	var out []*Machine
	for _, m := range w.machines {
		if m.Server && m.member {
			out = append(out, m)
		}
	}
	return out
}

func (w *World) byName(name string) *Machine {
	i := slices.IndexFunc(w.machines, func(m *Machine) bool { return m.Name == name })
	return w.machines[i]
}

// machineOf is the machine that has or had an id.
func (w *World) machineOf(id uint64) *Machine {
	if m := w.byID(id); m != nil {
		return m
	}
	for _, m := range w.known[id] {
		return m
	}
	return nil
}

// goesBy gives a machine the id that it is a member under from now on.
func (m *Machine) goesBy(id uint64) {
	m.id = id
	if list := m.w.known[id]; !slices.Contains(list, m) {
		list = append(list, m)
		slices.SortFunc(list, func(a, b *Machine) int { return cmp.Compare(a.Index, b.Index) })
		m.w.known[id] = list
	}
}

// Do lets the operator do one thing, and waits for its end.
func (w *World) Do(op *Operation) *Operation {
	var ended bool
	w.operator.begin(op, func(*Operation) { ended = true })
	w.RunUntil(5*time.Minute, func() bool { return ended })
	if !ended && !w.over() {
		w.fail("an operator is answered", "%v", op)
	}
	return op
}

// Found makes the cluster: the first node founds it, the others join it one by
// one, as in production, until all servers vote and all hosts have an epoch.
func (w *World) Found() {
	founders := w.founders()
	for _, m := range founders {
		m.boot()
		m.called, m.named = m.Name, 1
	}
	first := w.machines[0]
	id := core.Identity{
		ClusterID: w.clusterID, Generation: 1, ID: 1, Name: first.Name, Address: first.address(), Server: true, Host: first.Host,
	}
	b, err := core.Found(id, proto.CloneOf(w.settings), first.time())
	if err != nil {
		w.fail("a cluster can be founded", "%v", err)
		return
	}
	first.admitted(id, b)
	for _, m := range founders[1:] {
		op := w.Do(&Operation{Verb: AddMember, Name: m.Name, machine: m})
		if w.over() {
			return
		}
		if op.Unknown || op.Error != nil {
			w.fail("a node can be added", "%v: %v", op, op.Error)
			return
		}
		if err := m.join(op.Node, w.servers()); err != nil {
			w.fail("an admitted node can join", "%v", err)
			return
		}
	}
	// Where much is lost or late, leases lapse: it takes longer until all have one at
	// the same time.
	limit := 2 * time.Minute
	if w.mix.Drop > 0 || w.mix.Late > 0 {
		limit = 10 * time.Minute
	}
	if !w.RunUntil(limit, w.complete) {
		w.fail("a cluster forms", "not all servers vote or not all hosts have an epoch after %v:\n%s", limit, w.describeNodes())
	}
	for i := range w.mix.Files {
		if w.over() {
			return
		}
		if op := w.Do(&Operation{Verb: Announce, Name: fileName(i)}); !w.over() && (op.Unknown || op.Error != nil) {
			w.fail("a file can be uploaded", "%v: %v", op, op.Error)
		}
	}
	if w.mix.Files > 0 {
		if op := w.Do(&Operation{Verb: AddNetwork, Name: theNetwork}); !w.over() && (op.Unknown || op.Error != nil) {
			w.fail("a network can be made", "%v: %v", op, op.Error)
		}
		for _, name := range theVolumes {
			if op := w.Do(&Operation{Verb: AddVolume, Name: name + ":1024"}); !w.over() && (op.Unknown || op.Error != nil) {
				w.fail("a volume can be made", "%v: %v", op, op.Error)
			}
		}
	}
}

// founders are the machines that are in the cluster from the start.
func (w *World) founders() []*Machine {
	return slices.DeleteFunc(slices.Clone(w.machines), func(m *Machine) bool { return m.spare })
}

// complete says that every server votes and every host is granted. It is asked
// after every event: whoever was missing last is looked at first.
func (w *World) complete() bool {
	v := w.Leader()
	if v == nil {
		return false
	}
	state := v.daemon.node.View()
	if n := state.Node(w.missing); n != nil && !w.settledIn(n) {
		return false
	}
	n := 0
	state.Nodes(func(node *blixardv1.Node) bool {
		if w.settledIn(node) {
			n++
			return true
		}
		w.missing = node.Id
		return false
	})
	return n == len(w.founders())
}

func (w *World) settledIn(node *blixardv1.Node) bool {
	m := w.byID(node.Id)
	return m != nil && m.daemon != nil &&
		(!m.Server || node.Server == blixardv1.ServerState_SERVER_STATE_VOTER) &&
		(!m.Host || m.daemon.node.Status().Granted &&
			node.Host.GetEpochState() == blixardv1.EpochState_EPOCH_STATE_ACTIVE && !node.Host.GetSuspect())
}

func (w *World) byID(id uint64) *Machine {
	var found *Machine
	for _, m := range w.known[id] {
		if !m.member || m.id != id {
			continue
		}
		// Of two that go by one id, the one that the cluster follows.
		if found == nil || w.judges.newest.nodes[id].GetHost().GetBootId() == m.bootID {
			found = m
		}
	}
	return found
}

// Leader is a machine whose node leads with a quorum; nil when there is none.
func (w *World) Leader() *Machine {
	var best *Machine
	var term uint64
	for _, m := range w.voters() {
		if m.daemon == nil {
			continue
		}
		if st := m.daemon.node.Status(); st.Leading && st.Quorum && st.Term > term {
			best, term = m, st.Term
		}
	}
	return best
}

// Live counts the live instances of a VM, by uid, in every process table.
func (w *World) Live(uid string) (n int, where []string) {
	running := slices.Clone(w.running[uid])
	slices.SortFunc(running, func(a, b *guest) int { return cmp.Compare(a.m.Index, b.m.Index) })
	for _, g := range running {
		where = append(where, g.m.Name)
	}
	return len(where), where
}

// Guests calls f for every live guest.
func (w *World) guests(f func(*guest)) {
	for _, m := range w.machines {
		for _, g := range m.guests {
			f(g)
		}
	}
}

// stops takes a guest out of the index of those that run.
func (w *World) stops(g *guest) {
	uid := g.instance.UID
	if w.running[uid] = slices.DeleteFunc(w.running[uid], func(o *guest) bool { return o == g }); len(w.running[uid]) == 0 {
		delete(w.running, uid)
	}
}

func (w *World) describeNodes() string {
	var s string
	for _, m := range w.machines {
		if m.daemon == nil {
			s += fmt.Sprintf("  %s: no daemon, power %t, member %t\n", m.Name, m.on, m.member)
			continue
		}
		st := m.daemon.node.Status()
		s += fmt.Sprintf("  %s: id %d leader %d term %d applied %d/%d quorum %t epoch %d granted %t paused %t\n",
			m.Name, m.id, st.Leader, st.Term, st.Applied, st.Committed, st.Quorum, st.Epoch, st.Granted, m.daemon.paused)
	}
	return s
}

// sorted returns a map's values in the order of its keys.
func sorted[K cmp.Ordered, V any](m map[K]V) []V {
	out := make([]V, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[k])
	}
	return out
}
