package sim

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
)

// Daemon is one life of `blixard serve`: the node, and the adapters that carry
// out what it decides. It can be killed at any event, and stopped: then what
// comes for it is held, in one queue, in the order in which it came.
type Daemon struct {
	m      *Machine
	life   uint64
	node   *core.Node
	paused bool
	held   []event
	ticks  bool // a tick is among the held

	work     map[string]*orders // the hypervisor's adapter, by uid
	builds   map[string]vmm.Action
	keeping  vmm.Action               // the newest orders for volumes
	uploads  []*upload                // of its clients
	saving   map[string]*saving       // the Snapshots under way, by the VM's uid
	freezing map[string]*freezing     // the boots that are being saved, by the VM's uid
	keeps    *vmm.KeepList            // the newest list of snapshots to keep
	image    *blixardv1.SnapshotImage // for the answer to a Snapshot
	// preparing is the newest list of runners to hold ready.
	preparing vmm.Action
	waiting   map[uint64]*request  // by Request.ID
	conns     map[uint64]*shimWait // the adapter's questions to shims
	nextConn  uint64
	nextID    uint64
	observed  int64 // when the last observation will be told
	applied   uint64
}

// startDaemon opens the node from what the disk holds.
func (m *Machine) startDaemon() {
	if !m.on || m.daemon != nil || !m.member {
		return
	}
	w := m.w
	if m.Server && m.of < w.generation {
		return // whoever restores a cluster lets no server of the old one run again
	}
	if m.disk.corrupt {
		w.say(m, "the data directory is damaged: no daemon")
		return
	}
	d := &Daemon{
		m: m, life: m.life(), work: map[string]*orders{}, builds: map[string]vmm.Action{}, waiting: map[uint64]*request{},
		conns: map[uint64]*shimWait{}, saving: map[string]*saving{}, freezing: map[string]*freezing{},
	}
	cfg := core.Config{
		Tick: int64(w.cfg.Tick), Seed: mutateSeed(m.entropy.Uint64()), KeepEntries: w.cfg.KeepEntries, BootID: m.bootID,
		Level: m.level,
	}
	w.stepping = m
	node, err := core.Open(cfg, m.disk.Image(), m.time())
	w.stepping = nil
	if errors.Is(err, core.ErrBehind) {
		m.behind()
		return
	}
	if err != nil {
		w.fail("a node opens what its disk holds", "%s: %v", m.Name, err)
		return
	}
	d.node, m.daemon = node, d
	w.judges.contract.begins(m)
	w.judges.levels.runs(m.id, m.level)
	w.say(m, "daemon starts")
	w.push(event{at: w.now + m.rand.Int64N(int64(w.cfg.Tick)), kind: evTick, m: m, life: d.life})
	if m.Host {
		d.inventory()
	}
}

// stopDaemon is a SIGKILL. When hung up, the peers see the connections close.
func (m *Machine) stopDaemon(hangUp bool) {
	d := m.daemon
	if d == nil {
		return
	}
	m.w.say(m, "daemon dies")
	m.w.judges.migrations.died(m.w, m, m.w.Leader() == m)
	m.daemon = nil
	m.disk.crash()
	m.disk.broken = false
	for _, r := range sorted(d.waiting) {
		m.w.clientLost(r)
	}
	for _, u := range d.uploads {
		m.w.answered(u.ask, nil)
	}
	if hangUp {
		m.w.hangUp(m)
	}
}

// restartDaemon is what systemd does.
func (m *Machine) restartDaemon(after int64) {
	m.w.push(event{at: m.w.now + after, kind: evBoot, m: m, life: m.boots})
}

func (d *Daemon) pause() { d.paused = true }

// resume lets what was held happen now, in its order.
func (d *Daemon) resume() {
	if !d.paused {
		return
	}
	d.paused, d.ticks = false, false
	held := d.held
	d.held = nil
	for _, e := range held {
		e.at = d.m.w.now
		d.m.w.push(e)
	}
}

const mostHeld = 20_000 // what sockets and pipes of a stopped process can hold

func (d *Daemon) hold(e event) {
	if e.kind == evTick {
		if d.ticks {
			return
		}
		d.ticks = true
	}
	if len(d.held) < mostHeld || e.kind != evReceive {
		d.held = append(d.held, e)
	}
}

// step is the turn: one input, and everything that comes of it.
func (d *Daemon) step(in core.Input) {
	w, m := d.m.w, d.m
	w.stepping = m
	out, err := d.node.Step(m.time(), in)
	w.stepping = nil
	w.steps++
	if errors.Is(err, core.ErrBehind) {
		m.stopDaemon(true)
		m.behind()
		return
	}
	if err != nil {
		w.fail("a node stops only when its disk does", "%s: %s: %v", m.Name, describe(in), err)
		m.stopDaemon(true)
		return
	}
	w.stepped(d, &out)
	if out.Write != nil && (m.crashes(pointWrite.before) || !d.write(*out.Write) || m.crashes(pointWrite.after)) {
		return
	}
	for i := range out.Messages {
		if m.crashes(pointSend.before) {
			return
		}
		w.send(m, &out.Messages[i])
		if m.crashes(pointSend.after) {
			return
		}
	}
	for _, a := range out.Actions {
		if m.crashes(pointOrder.before) {
			return
		}
		w.judges.contract.ordered(m, a)
		d.do(a)
		if m.crashes(pointOrder.after) {
			return
		}
	}
	for _, r := range out.Replies {
		if m.crashes(pointReply.before) {
			return
		}
		d.reply(r)
		if m.crashes(pointReply.after) {
			return
		}
	}
}

// write gives a batch to the disk; false: the write failed, and the node stops.
func (d *Daemon) write(b core.Batch) bool {
	m, w := d.m, d.m.w
	b = m.mutateBatch(b)
	w.trace.fold(b.Seq)
	for _, op := range b.Ops {
		w.trace.fold(uint64(op.Table))
		w.trace.foldBytes(op.Key)
		w.trace.foldBytes(op.Value)
		w.trace.foldBytes(op.End)
	}
	if m.disk.broken || m.disk.full {
		w.fired("WriteError")
		w.say(m, "a write fails")
		m.stopDaemon(true)
		m.restartDaemon(between(m.rand, time.Second, 5*time.Second))
		return false
	}
	at := m.disk.write(w.now, b)
	w.push(event{at: at, kind: evDurable, m: m, life: m.boots, n: d.life})
	if mutant.On("EarlyAck") {
		w.push(event{at: w.now, kind: evWrote, m: m, life: d.life, n: b.Seq})
	}
	return true
}

// durable: the disk has finished its oldest batch.
func (m *Machine) durable(life uint64) {
	if m.daemon == nil || m.daemon.life != life || len(m.disk.pending) == 0 {
		return // written by a process that is dead: crash has decided
	}
	if m.crashes(pointDurable.before) {
		return
	}
	seq := m.disk.durable()
	if m.crashes(pointDurable.after) {
		return
	}
	if !mutant.On("EarlyAck") {
		m.w.atOnce(event{kind: evWrote, m: m, life: life, n: seq})
	}
}

// request is a client's, as this server's adapter holds it.
type request struct {
	ask      *ask
	in       core.Request
	accepted int64
	ended    bool
}

// mostLate is how long after its timeout a request may be answered: a tick, and
// what a step may take.
const mostLate = 2 * time.Second

func (d *Daemon) ask(a *ask) {
	d.nextID++
	in := a.request
	in.ID = d.nextID
	if in.Command != nil {
		in.Command = proto.CloneOf(in.Command)
	}
	d.mutateRequest(&in)
	d.waiting[in.ID] = &request{ask: a, in: in, accepted: d.m.w.now}
	// The node times by its own clock, which may be slow.
	due := int64(float64(in.Timeout)*1.2) + int64(mostLate)
	d.m.w.push(event{at: d.m.w.now + due, kind: evRequestEnd, m: d.m, life: d.life, n: in.ID})
	d.step(in)
}

func (d *Daemon) reply(r core.Reply) {
	r = d.mutateReply(r)
	q := d.waiting[r.ID]
	if q == nil {
		d.m.w.fail("a request is answered once", "%s answered request %d, which is not open", d.m.Name, r.ID)
		return
	}
	delete(d.waiting, r.ID)
	d.m.w.answer(d.m, q, r)
}

// requestEnd: an answer is overdue, unless the process was stopped meanwhile.
func (d *Daemon) requestEnd(id uint64) {
	q := d.waiting[id]
	if q == nil || d.m.w.pausedSince(d.m, q.accepted) {
		return
	}
	d.m.w.fail("a request is answered in time", "%s did not answer request %d: %s", d.m.Name, id, describe(q.in))
}

var errNoMember = errors.New("not admitted")

// join gives a machine the identity that the cluster admitted it under.
func (m *Machine) join(node *blixardv1.Node, servers []*blixardv1.Node) error {
	if node == nil {
		return errNoMember
	}
	if m.called == "" { // a story has it join
		m.called, m.named = m.Name, 1
	}
	id := core.Identity{
		ClusterID: m.w.clusterID, Generation: m.w.generation, ID: node.GetId(), Name: m.called,
		Address: m.address(), Server: m.Server, Host: m.Host,
	}
	b, err := core.Join(id, servers)
	if err != nil {
		return fmt.Errorf("join %s: %w", m.Name, err)
	}
	m.w.judges.levels.runs(id.ID, node.Level)
	m.admitted(id, b)
	return nil
}

func (m *Machine) admitted(id core.Identity, b core.Batch) {
	m.disk.apply(b)
	m.member, m.of = true, id.Generation
	m.goesBy(id.ID)
	m.w.say(m, fmt.Sprintf("is member %d", id.ID))
	m.startDaemon()
}

func (d *Daemon) observe(o core.Observed) {
	w := d.m.w
	d.observed = max(d.observed+1, w.now+between(d.m.rand, 0, 5*time.Millisecond))
	w.push(event{at: d.observed, kind: evObserved, m: d.m, life: d.life, ref: o})
}

func (d *Daemon) done(a vmm.Action, err string) {
	d.observe(core.Observed{Done: []vmm.Done{{Action: a.ID, UID: a.Instance.UID, Err: err, Image: d.image}}})
}
