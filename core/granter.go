package core

import (
	"cmp"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core/cluster"
	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// The leader's side of the lease. A Sync is answered by a Grant only after a
// round that began after it arrived has proven the leadership, and with the
// state applied up to there; and only to the epoch that the state has, bound to
// the boot that asks, neither fenced nor being fenced.

// sync takes what a host says, and asks for a round.
func (s *server) sync(m *blixardv1.Sync) {
	if s.leading == nil {
		s.answer(m, &blixardv1.Grant{Refusal: "this server does not lead", LeaderId: s.leaderID()})
		return
	}
	l := s.leading
	if n := s.state.Node(m.NodeId); n.GetHost() != nil {
		v := l.host(n.Id)
		if n.Host.BootId == m.BootId || n.Host.EpochState != blixardv1.EpochState_EPOCH_STATE_ACTIVE {
			v.heard = l.now.Boot
		} else {
			l.stranger(v, n, m.BootId)
		}
		l.news(v, n, m)
	}
	if m.News {
		return
	}
	if mutant.On("GrantByBelief") {
		l.grant(m)
		return
	}
	s.rounds.waiting.grants = append(s.rounds.waiting.grants, m)
}

// stranger hears from another boot than the one that holds the epoch. After a
// reboot that is as it must be, for a window. But where both are heard, in turn,
// there are two machines.
func (l *leader) stranger(v *hostView, n *blixardv1.Node, boot string) {
	first, known := v.strangers[boot]
	switch {
	case !known:
		if v.strangers == nil || len(v.strangers) >= mostStrangers {
			v.strangers = map[string]int64{}
		}
		v.strangers[boot] = l.now.Boot
	case v.heard > first && l.now.Boot-v.cloned >= proposeHostAgain && !cluster.RefusedBoot(n, "HostCloned", boot):
		v.cloned = l.now.Boot
		l.propose(&blixardv1.Command{Op: &blixardv1.Command_Clone{Clone: &blixardv1.CloneOp{
			NodeId: n.Id, BootId: boot, Epoch: n.Host.Epoch,
		}}})
	}
}

// mostStrangers bounds what a leader remembers of a host's other boots.
const mostStrangers = 8

// news proposes what the state does not know yet.
func (l *leader) news(v *hostView, n *blixardv1.Node, m *blixardv1.Sync) {
	h := n.Host
	if h.EpochState != blixardv1.EpochState_EPOCH_STATE_ACTIVE || mutant.On("RebootAtOnce") && h.BootId != m.BootId {
		// Who is known to be refused must not keep another from being heard.
		known := cluster.RefusedBoot(n, "HostRefused", m.BootId) && l.state.MayNotBoot(n, m.BootId, m.Facts) != ""
		if l.now.Boot-v.booted >= proposeHostAgain && (m.Facts != nil || h.BootId == m.BootId) && !known {
			v.booted = l.now.Boot
			l.propose(&blixardv1.Command{Op: &blixardv1.Command_HostBoot{HostBoot: &blixardv1.HostBootOp{
				NodeId: n.Id, BootId: m.BootId, Epoch: h.Epoch, Facts: m.Facts,
			}}})
		}
		return
	}
	if h.BootId != m.BootId || h.Epoch != m.Epoch {
		return
	}
	if h.Suspect && l.now.Boot-v.proposed >= proposeHostAgain {
		l.suspect(v, n, false)
	}
	l.report(v, h, m)
}

// report proposes a host's observations, each once unless it got lost.
func (l *leader) report(v *hostView, h *blixardv1.HostState, m *blixardv1.Sync) {
	if v.epoch != m.Epoch || l.now.Boot-v.toldAt >= proposeHostAgain {
		v.epoch, v.reported = m.Epoch, h.Sequence
	}
	fresh := slices.Clone(m.Observations)
	fresh = slices.DeleteFunc(fresh, func(o *blixardv1.Observation) bool { return o.Sequence <= max(v.reported, h.Sequence) })
	facts := m.Facts
	if facts != nil && proto.Equal(facts, h.Facts) {
		facts = nil
	}
	ready := l.state.Unrecorded(m.NodeId, m.Prepared)
	volumes := l.state.UnrecordedVolumes(m.NodeId, m.Volumes)
	kept, missing := m.SnapshotsKept, m.SnapshotsMissing
	if !l.state.AwaitsKept(m.NodeId, kept, missing) {
		kept, missing = 0, nil
	}
	if len(fresh) == 0 && facts == nil && len(ready) == 0 && kept == 0 && volumes == nil {
		return
	}
	v.toldAt = l.now.Boot
	if !l.propose(&blixardv1.Command{Op: &blixardv1.Command_HostReport{HostReport: &blixardv1.HostReportOp{
		NodeId: m.NodeId, BootId: m.BootId, Epoch: m.Epoch, Observations: fresh, Facts: facts, Prepared: ready, Volumes: volumes, SnapshotsKept: kept, SnapshotsMissing: missing,
	}}}) {
		return // a later report without these would make them count as old
	}
	for _, o := range fresh {
		v.reported = max(v.reported, o.Sequence)
	}
}

// grant answers a Sync whose round has been proven. So the state has every node
// that was admitted before the Sync was sent: what it does not have was removed.
func (l *leader) grant(m *blixardv1.Sync) {
	n := l.state.Node(m.NodeId)
	h := n.GetHost()
	if h == nil {
		l.answer(m, &blixardv1.Grant{Removed: true, Refusal: "this host was removed from the cluster"})
		return
	}
	v := l.host(m.NodeId)
	held := l.state.Held(n)
	switch {
	case held != "":
		l.answer(m, &blixardv1.Grant{Refusal: held})
	case h.EpochState != blixardv1.EpochState_EPOCH_STATE_ACTIVE:
		why := "the host has no epoch yet"
		if m.Facts != nil {
			why = cmp.Or(l.state.MayNotBoot(n, m.BootId, m.Facts), why)
		}
		l.answer(m, &blixardv1.Grant{Refusal: why})
	case h.BootId != m.BootId && !mutant.On("CloneGranted"):
		l.answer(m, &blixardv1.Grant{Refusal: "another boot of this host holds the epoch: it is given to this one when the lease of that one has surely ended; should both be alive, one is a clone"})
	case m.Lapsed && m.Epoch == h.Epoch:
		l.answer(m, &blixardv1.Grant{Refusal: "the epoch's lease has passed; the next epoch comes when its window has"})
	case v.fencing == h.Epoch && !mutant.On("GrantWhileFencing"):
		l.answer(m, &blixardv1.Grant{Refusal: "the epoch is being fenced"})
	default:
		v.granted = l.now.Boot
		from := m.Revision
		if m.Epoch != h.Epoch {
			from = 0
		}
		g := &blixardv1.Grant{Granted: true, Epoch: h.Epoch, Sequence: h.Sequence, From: from}
		g.To, g.Assignments = l.state.Assignments(m.NodeId, from)
		if g.PrepareRevision = h.PrepareRevision; g.PrepareRevision != m.PrepareRevision {
			g.Preparations = l.state.Preparations(m.NodeId)
		}
		l.order(v, g, m.VolumeRevision)
		if g.SnapshotRevision = max(h.SnapshotRevision, 1); g.SnapshotRevision != m.SnapshotRevision || m.Epoch != h.Epoch && !mutant.On("EpochWithoutList") {
			g.Snapshots = l.state.KeptSnapshots(m.NodeId)
		}
		v.revision = g.To
		l.answer(m, g)
	}
}

// order adds the orders for a host's volumes to a Grant, when they are later than
// those that it has.
func (l *leader) order(v *hostView, g *blixardv1.Grant, has uint64) {
	if l.state.VolumeRevision(v.id) > has {
		g.VolumeRevision, g.Volumes = l.state.VolumeOrders(v.id)
	}
	v.volumes = max(has, g.VolumeRevision)
}

// answer sends a Grant back to the host that asked.
func (s *server) answer(m *blixardv1.Sync, g *blixardv1.Grant) {
	g.NodeId, g.BootId, g.Nonce = m.NodeId, m.BootId, m.Nonce
	g.Settings = s.state.Settings()
	if g.LeaderId == 0 {
		g.LeaderId = s.leaderID()
	}
	g.Servers = s.serverList()
	s.sendGrant(m.NodeId, cmp.Or(s.address(m.NodeId), m.Address), g)
}

func (s *server) sendGrant(to uint64, address string, g *blixardv1.Grant) {
	s.send(Message{To: to, Address: address, Envelope: &blixardv1.Envelope{Body: &blixardv1.Envelope_Grant{Grant: g}}})
}

// serverList is where the servers are. It is shared, and must not be changed.
func (s *server) serverList() []*blixardv1.Node {
	if s.list != nil && s.listed == s.state.ServersVersion() {
		return s.list
	}
	list := []*blixardv1.Node{}
	s.state.Servers(func(n *blixardv1.Node) bool {
		if n.Server == blixardv1.ServerState_SERVER_STATE_VOTER || n.Server == blixardv1.ServerState_SERVER_STATE_LEARNER {
			list = append(list, &blixardv1.Node{Id: n.Id, Name: n.Name, Address: n.Address, Server: n.Server})
		}
		return true
	})
	s.list, s.listed = list, s.state.ServersVersion()
	return list
}

// push tells hosts at once what this step changed for them. It extends nothing.
func (l *leader) push() {
	if len(l.touched) == 0 {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(l.touched)) {
		n := l.state.Node(id)
		h, v := n.GetHost(), l.hosts[id]
		if h == nil || v == nil || h.EpochState != blixardv1.EpochState_EPOCH_STATE_ACTIVE || v.revision == 0 ||
			h.Revision <= v.revision && l.state.VolumeRevision(id) <= v.volumes {
			continue
		}
		g := &blixardv1.Grant{NodeId: id, BootId: h.BootId, Epoch: h.Epoch, Sequence: h.Sequence, From: v.revision, LeaderId: l.id.ID, SnapshotRevision: h.SnapshotRevision}
		g.To, g.Assignments = l.state.Assignments(id, v.revision)
		g.VolumeRevision = l.state.VolumeRevision(id)
		v.volumes = max(v.volumes, g.VolumeRevision)
		v.revision = g.To
		l.sendGrant(id, l.address(id), g)
	}
	clear(l.touched)
}
