package core

import (
	"maps"
	"math"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/shim"
)

// host is a node's part that runs VMs. It holds no lease but what a Grant gave
// it, counted from the moment at which it had asked; it starts nothing before
// the inventory of what already runs here, and ends nothing before it has been
// told everything that is placed here.
type host struct {
	*Node
	inventory bool
	facts     *blixardv1.HostFacts

	epoch    uint64
	complete bool // all assignments of the epoch are known
	revision uint64
	settings *blixardv1.Settings
	leases   map[uint32]int64 // deadline by length
	found    []shim.Page      // the pages that the daemon before left
	lapsed   bool             // one of them has passed: the epoch is over for us
	removed  bool             // the cluster has removed this host: no epoch comes any more

	units   map[string]*vmm.Unit
	due     int64 // no unit needs a plan before, for time alone
	actions uint64
	context vmm.Context

	nonce   uint64
	sent    map[uint64]int64 // when each Sync was sent that was not answered
	oldest  uint64           // nonce that may be in sent
	synced  int64            // when the last was
	renewed int64            // when the last that asks for an answer was
	granted int64            // when the last that was granted had been sent
	hint    uint64           // who is believed to lead
	try     int              // which server to try when nobody is

	// sequence numbers what this host says. It begins at the process's start in
	// BOOTTIME nanoseconds, so that a restarted daemon goes on above all that it
	// said before, without having kept it.
	sequence uint64
	acked    uint64
	told     map[string]*blixardv1.Observation // newest by uid
	prepare  uint64                            // revision of the list of runners to hold ready
	prepared []*blixardv1.Prepared             // what of it is there
	volumes  *blixardv1.VolumeInventory        // all that are here, once they are known
	keep     uint64                            // revision of the orders for them
	keeps    uint64                            // revision of the list of snapshots to keep
	kept     uint64                            // and of the newest that was carried out
	missing  []string                          // those on it that are not here
	news     bool                              // something of it was not sent yet
	urgent   bool                              // there is something to ask
	refused  bool                              // the newest answer granted nothing
	refusal  string                            // and why
	answered int64
}

const (
	defaultRenew = 3 * second
	// urgentGap keeps news from becoming a flood.
	urgentGap = 50 * milli
	// refusedGap is how soon a host asks again that was refused.
	refusedGap = 500 * milli
	// patience is how long an unanswered Sync counts.
	patience = 60 * second
)

func newHost(n *Node) *host {
	h := &host{
		Node: n, leases: map[uint32]int64{}, units: map[string]*vmm.Unit{},
		sent: map[uint64]int64{}, told: map[string]*blixardv1.Observation{},
		nonce: n.cfg.Seed, oldest: n.cfg.Seed, synced: n.now.Boot - defaultRenew, renewed: n.now.Boot - defaultRenew, sequence: uint64(n.now.Boot),
	}
	h.context = vmm.Context{Host: h.identity(), Deadline: h.deadline, NextID: h.nextAction}
	return h
}

// observed takes what the real side saw.
func (h *host) observed(o Observed) {
	if o.Facts != nil {
		h.facts = o.Facts
		h.urgent = true
	}
	if o.Prepared != nil {
		h.prepared = o.Prepared
		h.urgent = true
	}
	if o.Volumes != nil {
		h.sequence++
		h.volumes = proto.CloneOf(o.Volumes)
		h.volumes.Sequence = h.sequence
		h.urgent = true
	}
	if o.Kept > h.kept {
		// Somebody waits for it, but for an epoch's first of which nothing is missing.
		h.urgent = h.urgent || h.kept != 0 || len(o.Missing) > 0
		h.kept, h.missing = o.Kept, o.Missing
	}
	h.inventory = h.inventory || o.Inventory
	h.found = append(h.found, o.Pages...)
	h.lapsed = h.lapsed || o.Lapsed != 0 && o.Lapsed == h.epoch
	for _, r := range o.Reports {
		u := h.unit(r.Instance.UID)
		u.Observe(h.now.Boot, r)
	}
	for _, d := range o.Done {
		if u := h.units[d.UID]; u != nil {
			u.Finish(h.now.Boot, d)
		}
	}
	for _, r := range o.Reports {
		h.plan(r.Instance.UID)
	}
	for _, d := range o.Done {
		h.plan(d.UID)
	}
	if o.Inventory {
		h.planAll()
	}
}

func (h *host) unit(uid string) *vmm.Unit {
	u := h.units[uid]
	if u == nil {
		u = vmm.NewUnit(uid)
		h.units[uid] = u
		h.due = 0
	}
	return u
}

func (h *host) planAll() { h.planThose(func(*vmm.Unit) bool { return true }) }

// planThose plans some units, and finds out when the next is due.
func (h *host) planThose(needs func(*vmm.Unit) bool) {
	var list []string
	// any order: sorted below
	for uid, u := range h.units {
		if needs(u) {
			list = append(list, uid)
		}
	}
	slices.Sort(list)
	for _, uid := range list {
		h.plan(uid)
	}
	h.due = math.MaxInt64
	// any order: the least
	for _, u := range h.units {
		h.due = min(h.due, u.Due())
	}
}

// plan orders what one VM needs now, and notes what changed about it.
func (h *host) plan(uid string) {
	u := h.units[uid]
	if u == nil || !h.inventory || !h.complete && !h.removed && !mutant.On("EndsUntold") {
		return
	}
	next := u.Plan
	if h.removed {
		next = u.End
	}
	for range 4 { // an order that needs no answer may be followed by another
		a := next(h.now.Boot, h.context)
		if a == nil {
			break
		}
		h.out.Actions = append(h.out.Actions, *a)
	}
	h.due = min(h.due, u.Due())
	if u.Idle() {
		delete(h.units, uid)
		delete(h.told, uid)
		return
	}
	if u.Want != nil {
		h.tell(u.Observation())
	}
}

func (h *host) nextAction() uint64 {
	h.actions++
	return h.actions
}

// deadline is 0 once the epoch is over for us: nothing more is started under it.
func (h *host) deadline(lengthMs uint32) int64 {
	if h.lapsed {
		return 0
	}
	return h.leases[lengthMs]
}

func (h *host) identity() shim.Host {
	return shim.Host{ID: strconv.FormatUint(h.id.ID, 10), Generation: h.id.Generation, Boot: h.cfg.BootID, Epoch: h.epoch}
}

// tell numbers an observation if it says something new.
func (h *host) tell(o *blixardv1.Observation) {
	if old := h.told[o.Uid]; old != nil {
		o.Sequence = old.Sequence
		if proto.Equal(o, old) {
			return
		}
	}
	h.sequence++
	o.Sequence = h.sequence
	h.told[o.Uid] = o
	h.news = true
}

// tick plans what time alone changes, and renews the lease.
func (h *host) tick() {
	// any order: one that has passed is enough
	for _, d := range h.leases {
		h.lapsed = h.lapsed || d <= h.now.Boot
	}
	if h.due <= h.now.Boot {
		h.planThose(func(u *vmm.Unit) bool { return u.Due() <= h.now.Boot })
	}
	h.talk()
}

// talk sends a Sync when it is due, or when there is news.
func (h *host) talk() {
	renew := int64(defaultRenew)
	if h.settings != nil {
		renew = int64(h.settings.RenewMs) * milli
		// A page of a shorter lease, in use before the cluster's was made longer, is
		// kept up as well, and one lost message ends no VM.
		// any order: the least
		for ms := range h.leases {
			renew = min(renew, int64(ms)*milli/3)
		}
	}
	if h.refused {
		renew = min(renew, refusedGap)
	}
	due := h.now.Boot-h.renewed >= renew
	if h.removed || !h.inventory || !due && !((h.urgent || h.news) && h.now.Boot-h.synced >= urgentGap) {
		return
	}
	to := h.leader(due)
	if to == 0 {
		return
	}
	news := !due && !h.urgent && h.epoch != 0 && !h.lapsed && !h.refused
	h.urgent, h.news = false, false
	h.synced = h.now.Boot
	if !news {
		h.renewed = h.now.Boot
	}
	h.nonce++
	h.sent[h.nonce] = h.now.Boot
	h.forgetSent()
	s := &blixardv1.Sync{
		NodeId: h.id.ID, BootId: h.cfg.BootID, Epoch: h.epoch, Nonce: h.nonce, Revision: h.revision,
		Observations: h.unacknowledged(), Lapsed: h.lapsed, Address: h.id.Address,
		PrepareRevision: h.prepare, Prepared: h.prepared, News: news, VolumeRevision: h.keep, Volumes: h.volumes,
		SnapshotRevision: h.keeps, SnapshotsKept: h.kept, SnapshotsMissing: h.missing,
	}
	// Not once only: no answer says that they have come into the state.
	if due || h.epoch == 0 {
		s.Facts = h.facts
	}
	h.send(Message{To: to, Address: h.address(to), Envelope: &blixardv1.Envelope{Body: &blixardv1.Envelope_Sync{Sync: s}}})
}

// forgetSent drops what was sent too long ago to be answered.
func (h *host) forgetSent() {
	for ; h.oldest != h.nonce; h.oldest++ {
		if at, waits := h.sent[h.oldest]; waits && h.now.Boot-at <= patience {
			return
		}
		delete(h.sent, h.oldest)
	}
}

func (h *host) unacknowledged() []*blixardv1.Observation {
	var list []*blixardv1.Observation
	// any order: sorted below
	for _, o := range h.told {
		if o.Sequence > h.acked {
			list = append(list, o)
		}
	}
	if mutant.On("ToldOnce") {
		h.acked = h.sequence
	}
	slices.SortFunc(list, func(a, b *blixardv1.Observation) int { return int(int64(a.Sequence) - int64(b.Sequence)) })
	return list
}

// leader says whom to ask. Without a hint, or when the last one did not answer,
// the servers are tried in turn.
func (h *host) leader(renewal bool) uint64 {
	if h.server != nil {
		if lead := h.server.leaderID(); lead != 0 {
			return lead
		}
	}
	silent := renewal && h.hint != 0 && h.now.Boot-h.granted > 2*defaultRenew
	if h.hint != 0 && !silent {
		return h.hint
	}
	list := h.servers
	if h.server != nil {
		list = h.server.serverList()
	}
	if len(list) == 0 {
		return 0
	}
	h.try++
	h.hint = list[h.try%len(list)].Id
	return h.hint
}

// grant takes an answer to a Sync, or a push of assignments.
func (h *host) grant(from uint64, g *blixardv1.Grant) {
	if g.NodeId != h.id.ID || g.BootId != h.cfg.BootID && !mutant.On("GrantAcrossReboot") || h.removed {
		return // what was granted before a removal may come after it
	}
	if g.Nonce == 0 {
		if g.Epoch == h.epoch && h.epoch != 0 {
			h.take(g)
			// To hear which: what was pushed to the daemon before this one may come after
			// all of it was done, undone and forgotten.
			h.urgent = h.urgent || g.SnapshotRevision > h.keeps || g.VolumeRevision > h.keep
		}
		return
	}
	sent, mine := h.sent[g.Nonce]
	if !mine {
		return
	}
	delete(h.sent, g.Nonce)
	if g.Removed {
		h.removed = true
		h.planAll()
		return
	}
	h.learn(from, g)
	h.refused, h.refusal, h.answered = !g.Granted, g.Refusal, h.now.Boot
	if !g.Granted || g.Epoch < h.epoch || g.Epoch == 0 {
		return
	}
	went := h.complete && g.Epoch == h.epoch
	if went {
		h.renewal()
	}
	if g.Epoch > h.epoch {
		h.enter(g.Epoch)
	}
	if mutant.On("LeaseFromAnswer") {
		sent = h.now.Boot
	}
	h.granted = max(h.granted, sent)
	h.settings = g.Settings
	h.order(g)
	h.take(g)
	h.ready(g)
	h.keepSnapshots(g)
	h.extend(sent)
	if went {
		h.planThose((*vmm.Unit).Starved)
	} else {
		h.planAll()
	}
}

// learn takes over who leads and where the servers are.
func (h *host) learn(from uint64, g *blixardv1.Grant) {
	if g.LeaderId != 0 && g.LeaderId != h.hint {
		h.hint = g.LeaderId
		h.urgent = h.urgent || !g.Granted && from != g.LeaderId
	} else if g.LeaderId == 0 {
		h.hint = 0
	}
	if len(g.Servers) > 0 {
		h.keepServers(g.Servers)
	}
}

// enter begins an epoch: nothing of the one before counts any more. After a
// restart of the daemon it is the one that was before: each of its pages that has
// not passed is kept up again, whether a VM needs it now or not. One that has
// passed is noticed by whoever needs it.
func (h *host) enter(epoch uint64) {
	h.epoch, h.revision, h.complete = epoch, 0, false
	h.acked, h.keeps, h.kept, h.missing = 0, 0, 0, nil
	clear(h.leases)
	clear(h.told)
	h.lapsed = false
	for _, p := range h.found {
		if d := int64(p.Deadline); p.Host == h.identity() && d > h.now.Boot {
			h.leases[uint32(p.Lease/milli)] = d
		}
	}
	h.found = nil
	h.context.Host = h.identity()
}

// take takes assignments if they follow on what the host has.
func (h *host) take(g *blixardv1.Grant) {
	h.acked = max(h.acked, g.Sequence)
	switch {
	case g.From == 0 && g.To >= h.revision && (g.Granted || h.complete):
		h.replace(g.Assignments)
	case g.From != 0 && (g.From == h.revision || mutant.On("OldDelta")) && h.complete:
		for _, a := range g.Assignments {
			h.unit(a.Uid).Want = a
		}
	case g.From > h.revision:
		h.urgent = true // something was missed: ask
		return
	default:
		return
	}
	h.revision = g.To
	h.complete = true
	for _, a := range g.Assignments {
		h.plan(a.Uid)
	}
	h.forget()
}

// ready takes the list of runners to hold ready, when it is another one.
func (h *host) ready(g *blixardv1.Grant) {
	if g.PrepareRevision == h.prepare {
		return
	}
	h.prepare = g.PrepareRevision
	h.out.Actions = append(h.out.Actions, vmm.Action{
		ID: h.nextAction(), Verb: vmm.Prepare, Host: h.identity(), Preparations: g.Preparations,
	})
}

// order takes the orders for this host's volumes, when they are newer. They are those
// of an answer: see grant.
func (h *host) order(g *blixardv1.Grant) {
	if g.VolumeRevision <= h.keep {
		return
	}
	h.keep = g.VolumeRevision
	h.out.Actions = append(h.out.Actions, vmm.Action{
		ID: h.nextAction(), Verb: vmm.Keep, Host: h.identity(), Volumes: g.Volumes, Revision: g.VolumeRevision,
	})
}

// keepSnapshots takes the list of snapshots to keep, when it is a newer one and we have all
// the assignments of the same state: those before may still order one that the list
// has not any more.
func (h *host) keepSnapshots(g *blixardv1.Grant) {
	if g.SnapshotRevision <= h.keeps || !h.complete || h.revision < g.To {
		return
	}
	h.keeps = g.SnapshotRevision
	h.out.Actions = append(h.out.Actions, vmm.Action{
		ID: h.nextAction(), Verb: vmm.KeepSnapshots, Host: h.identity(),
		Keep: &vmm.KeepList{Generation: h.id.Generation, Revision: g.SnapshotRevision, UIDs: g.Snapshots},
	})
}

// replace makes the assignments all there is.
func (h *host) replace(list []*blixardv1.Assignment) {
	// any order: each alike
	for _, u := range h.units {
		u.Want = nil
	}
	for _, a := range list {
		h.unit(a.Uid).Want = a
	}
	if h.inventory {
		h.planAll()
	}
}

// forget drops what the cluster has acknowledged as removed.
func (h *host) forget() {
	// any order: each alike
	for uid, u := range h.units {
		if o := h.told[uid]; u.Removed() && o != nil && o.Removed && o.Sequence <= h.acked {
			delete(h.units, uid)
			delete(h.told, uid)
		}
	}
}

// extend counts every lease from the moment at which it was asked for. A
// deadline that has passed is never extended: the page keeps to that too. So a
// length once in use is kept up for the rest of the epoch, needed or not: the
// next VM with it needs that page, and one that passes ends the epoch.
func (h *host) extend(sent int64) {
	lengths := map[uint32]struct{}{h.settings.LeaseMs: {}, h.settings.LongLeaseMs: {}}
	// any order: collected in a set
	for _, u := range h.units {
		if ms := u.Want.GetLeaseMs(); ms != 0 {
			lengths[ms] = struct{}{}
		}
	}
	// any order: collected in a set
	for ms := range h.leases {
		lengths[ms] = struct{}{}
	}
	a := vmm.Action{ID: h.nextAction(), Verb: vmm.Extend, Host: h.identity()}
	for _, ms := range slices.Sorted(maps.Keys(lengths)) {
		d := sent + int64(ms)*milli
		if mutant.On("LocalLease") {
			d = sent + 15*second
		}
		old := h.leases[ms]
		if old != 0 && old <= h.now.Boot {
			h.lapsed = true
		}
		if d <= old || d <= h.now.Boot || h.lapsed {
			continue
		}
		h.leases[ms] = d
		a.Leases = append(a.Leases, vmm.Lease{Length: ms, Deadline: d})
	}
	if len(a.Leases) > 0 {
		h.out.Actions = append(h.out.Actions, a)
	}
}
