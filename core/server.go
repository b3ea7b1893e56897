package core

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core/cluster"
	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// server is a node's part as a Raft voter or learner: the log, and the state
// that is made of it.
type server struct {
	*Node
	raft    *raft.RawNode
	log     *storage
	state   *cluster.State
	writer  writer
	ready   *raft.Ready // whose batch is under way
	install *cluster.State
	frozen  *frozen
	viewed  *cluster.State    // the newest view
	list    []*blixardv1.Node // where servers are, as of the version listed
	listed  uint64
	// heard is where those are who have asked us for something. A server that was
	// away does not have in its state who joined meanwhile, and may lead.
	heard map[uint64]string

	clients clients
	rounds  rounds
	watches watchers
	leading *leader // nil: some other node leads, or none
	known   uint64  // the newest leader that it has learnt of
	orphan  int     // ticks for which to go on asking for votes after the leader died
}

const (
	maxPerMessage     = 1 << 20
	maxInflight       = 256
	maxInflightBytes  = 64 << 20
	maxUncommitted    = 128 << 20
	maxAppliedPerStep = 1 << 20
)

func newServer(n *Node, d *disk) (*server, error) {
	s := &server{Node: n, state: d.state, heard: map[uint64]string{}}
	s.clients.init()
	s.rounds.init(n.cfg.Seed)
	s.log = &storage{raft.NewMemoryStorage(), s}
	if err := s.behind(d.state); err != nil {
		return nil, err
	}
	meta := d.state.Meta()
	if d.start.GetIndex() > 0 {
		d.start.ConfState = &raftpb.ConfState{Voters: meta.Voters, Learners: meta.Learners}
		if err := s.log.ApplySnapshot(&raftpb.Snapshot{Metadata: d.start}); err != nil {
			return nil, fmt.Errorf("%w: %v", ErrDisk, err)
		}
	}
	if err := s.log.Append(d.entries); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrDisk, err)
	}
	if c := d.hard.GetCommit(); c < meta.Applied && !mutant.On("AppliedBeyondCommit") {
		d.hard.Commit = proto.Uint64(meta.Applied)
	}
	if err := s.log.SetHardState(d.hard); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrDisk, err)
	}
	readOnly := raft.ReadOnlySafe
	if mutant.On("LeaseRead") {
		readOnly = raft.ReadOnlyLeaseBased
	}
	s.writer.hard = d.hard
	s.writer.start, s.writer.sent, s.writer.stable = d.start.GetIndex(), meta.Applied, meta.Applied
	s.writer.keep = n.cfg.KeepEntries
	rn, err := raft.NewRawNode(&raft.Config{
		ID: n.id.ID, ElectionTick: n.cfg.ElectionTicks, HeartbeatTick: n.cfg.HeartbeatTicks,
		Storage: s.log, Applied: meta.Applied,
		MaxSizePerMsg: maxPerMessage, MaxInflightMsgs: maxInflight, MaxInflightBytes: maxInflightBytes,
		MaxUncommittedEntriesSize: maxUncommitted, MaxCommittedSizePerReady: maxAppliedPerStep,
		CheckQuorum: true, PreVote: true, ReadOnlyOption: readOnly,
		DisableProposalForwarding: true, StepDownOnRemoval: true,
		DisableConfChangeValidation: mutant.On("ConfChangeEarly"),
		Logger:                      quiet{},
	})
	if err != nil {
		return nil, fmt.Errorf("core: raft does not start: %w", err)
	}
	s.raft = rn
	if slices.Equal(meta.Voters, []uint64{n.id.ID}) {
		_ = rn.Campaign() // nobody else could win
	}
	return s, nil
}

// tick moves Raft's clock and does what is due.
func (s *server) tick() {
	s.raft.Tick()
	s.campaign()
	s.clients.expire(s.Node)
	s.rounds.retry(s)
	s.watches.expire(s)
	if s.leading != nil {
		s.leading.tick()
	}
}

// receive takes a Raft message.
func (s *server) receive(e *blixardv1.Envelope, m *raftpb.Message) {
	if m.GetFrom() != e.From || raft.IsLocalMsg(m.GetType()) {
		return
	}
	if e.Address != "" && s.heard[e.From] != e.Address {
		s.heard[e.From] = e.Address
	}
	if m.GetType() == raftpb.MsgSnap && m.Snapshot != nil {
		m.Snapshot.Data = e.Snapshot
	}
	// An error is a message that Raft has no use for now.
	_ = s.raft.Step(m)
}

// lost hears that the process of a peer has died. Followers of a dead leader
// need not wait for their timeout: the first of them asks for votes at once, and
// the others no longer think that they have a leader.
func (s *server) lost(peer uint64) {
	st := s.raft.BasicStatus()
	if st.Lead != peer || s.leading != nil {
		return
	}
	_ = s.raft.ForgetLeader()
	for _, v := range s.state.Meta().GetVoters() {
		if v != peer {
			if v == s.id.ID {
				s.orphan = orphanTicks
				_ = s.raft.Campaign()
			}
			return
		}
	}
}

// orphanTicks is for how long a follower asks again: the others refuse it until
// they have heard of the leader's death too.
const orphanTicks = 5

func (s *server) campaign() {
	if s.orphan == 0 {
		return
	}
	s.orphan--
	if s.leaderID() != 0 || s.leading != nil {
		s.orphan = 0
		return
	}
	_ = s.raft.Campaign()
}

// pump moves Raft on as far as it goes without waiting for the disk.
func (s *server) pump() error {
	for !s.writer.busy {
		s.rounds.start(s)
		if !s.raft.HasReady() {
			break
		}
		rd := s.raft.Ready()
		ops, err := s.persist(&rd)
		if err != nil {
			return err
		}
		if len(ops) == 0 {
			if err := s.finish(&rd); err != nil {
				return err
			}
			continue
		}
		s.ready = &rd
		s.write(ops)
	}
	if !s.writer.busy && s.writer.due(s.now.Boot) {
		s.write(nil)
	}
	return nil
}

// persist returns what must be durable before the Ready takes effect, and sends
// what need not wait.
func (s *server) persist(rd *raft.Ready) (ops []Op, err error) {
	if !raft.IsEmptySnap(rd.Snapshot) {
		if ops, err = s.installing(rd.Snapshot); err != nil {
			return nil, err
		}
	}
	last, _ := s.log.LastIndex()
	ops = s.writer.append(ops, rd.Entries, last)
	if !raft.IsEmptyHardState(rd.HardState) {
		vote := rd.HardState.GetTerm() != s.writer.hard.GetTerm() || rd.HardState.GetVote() != s.writer.hard.GetVote()
		s.writer.hard = rd.HardState
		if vote && len(ops) == 0 {
			ops = []Op{putMessage(Meta, keyHardState, s.writer.hard)}
		}
		if vote {
			return ops, nil
		}
	}
	if len(ops) == 0 && reconfigures(rd.CommittedEntries) {
		// A server that leaves is switched off once somebody has seen it gone. The
		// entry that removed it may have been committed by its vote alone besides
		// ours: after a restart nobody could tell us so again.
		ops = []Op{putMessage(Meta, keyHardState, s.writer.hard)}
	}
	leads := s.leading != nil
	if rd.SoftState != nil {
		leads = rd.RaftState == raft.StateLeader
	}
	if len(ops) > 0 && (leads || mutant.On("AnswersBeforeSync")) {
		rd.Messages = s.sendAppends(rd.Messages)
	}
	return ops, nil
}

// reconfigures says that among entries is a change of the configuration. It takes
// effect where it is durably known to be committed.
func reconfigures(entries []*raftpb.Entry) bool {
	return slices.ContainsFunc(entries, func(e *raftpb.Entry) bool { return e.GetType() == raftpb.EntryConfChangeV2 })
}

// sendAppends sends a leader's appends and heartbeats, which claim nothing about
// its own disk, and returns the rest.
func (s *server) sendAppends(messages []*raftpb.Message) (rest []*raftpb.Message) {
	for _, m := range messages {
		switch t := m.GetType(); {
		case t == raftpb.MsgApp, t == raftpb.MsgHeartbeat, mutant.On("AnswersBeforeSync"):
			s.sendRaft(m)
		default:
			rest = append(rest, m)
		}
	}
	return rest
}

// write puts a batch under way, with a piece of the applied state in it.
func (s *server) write(ops []Op) {
	if s.install == nil {
		ops = s.writer.flush(s.now.Boot, ops)
		ops = s.writer.trim(ops, s.log.MemoryStorage)
	}
	s.out.Write = s.writer.batch(ops)
}

// wrote hears that the batch under way is durable.
func (s *server) wrote(seq uint64) error {
	w := &s.writer
	if !w.busy || seq < w.seq {
		return nil
	}
	w.busy = false
	w.stable = w.sent
	if w.cut > 0 {
		w.start, w.cut = w.cut, 0
		if err := s.log.Compact(w.start); err != nil && err != raft.ErrCompacted {
			return fmt.Errorf("core: compact to %d: %w", w.start, err)
		}
	}
	if rd := s.ready; rd != nil {
		s.ready = nil
		return s.finish(rd)
	}
	return nil
}

// installing decodes a snapshot and returns the batch that makes it ours.
func (s *server) installing(snap *raftpb.Snapshot) ([]Op, error) {
	var records blixardv1.Snapshot
	if err := proto.Unmarshal(snap.GetData(), &records); err != nil {
		return nil, fmt.Errorf("core: a snapshot does not decode: %w", err)
	}
	state, err := cluster.Load(func(yield func(k, v []byte) bool) {
		for _, r := range records.Records {
			if !yield(r.Key, r.Value) {
				return
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("core: a snapshot does not load: %w", err)
	}
	if state.Revision() != snap.GetMetadata().GetIndex() {
		return nil, fmt.Errorf("core: a snapshot of entry %d carries the state of %d", snap.GetMetadata().GetIndex(), state.Revision())
	}
	if err := s.behind(state); err != nil {
		return nil, err
	}
	s.install = state
	s.writer.dirty = nil
	s.writer.sent = state.Revision()
	ops := []Op{
		{Table: Log, Key: indexKey(0), Range: true},
		{Table: State, Key: []byte{0}, Range: true},
		putMessage(Meta, keyStart, startMeta(state)),
	}
	return append(ops, stateOps(state)...), nil
}

// finish carries a Ready out once what it wanted durable is.
func (s *server) finish(rd *raft.Ready) error {
	if s.install != nil {
		if err := s.log.ApplySnapshot(rd.Snapshot); err != nil {
			return fmt.Errorf("core: install a snapshot: %w", err)
		}
		s.state, s.install = s.install, nil
		s.viewed, s.list = nil, nil
		s.writer.start = s.state.Revision()
		s.clients.installed(s.Node)
	}
	if err := s.log.Append(rd.Entries); err != nil {
		return fmt.Errorf("core: append: %w", err)
	}
	if mutant.On("ConfChangeEarly") {
		s.reconfigureEarly(rd.Entries)
	}
	if !raft.IsEmptyHardState(rd.HardState) {
		if err := s.log.SetHardState(rd.HardState); err != nil {
			return fmt.Errorf("core: hard state: %w", err)
		}
	}
	s.lead(rd.SoftState)
	for _, m := range rd.Messages {
		s.sendRaft(m)
	}
	for _, r := range rd.ReadStates {
		s.rounds.confirmed(r)
	}
	for _, e := range rd.CommittedEntries {
		s.apply(e)
		if err := s.behind(s.state); err != nil {
			return err
		}
	}
	s.raft.Advance(*rd)
	s.rounds.settle(s)
	s.watches.applied(s)
	return nil
}

// lead starts and ends a leadership.
func (s *server) lead(st *raft.SoftState) {
	if st == nil {
		return
	}
	term := s.raft.BasicStatus().GetTerm()
	switch {
	case st.RaftState != raft.StateLeader:
		s.leading = nil
		s.rounds.deposed()
	case s.leading == nil || s.leading.term != term:
		s.leading = newLeader(s, term)
	}
	if s.learnt(st.Lead); st.Lead != 0 {
		s.clients.again(s)
	}
}

func (s *server) leaderID() uint64 { return s.raft.BasicStatus().Lead }

func (s *server) apply(e *raftpb.Entry) {
	switch e.GetType() {
	case raftpb.EntryConfChangeV2:
		s.reconfigure(e)
	default:
		s.applyCommand(e)
	}
	list := s.changes()
	s.writer.applied(s.now.Boot, list)
	s.out.Applied = append(s.out.Applied, list...)
}

// view is the state as of the last entry, frozen once.
func (s *server) view() *cluster.State {
	if s.viewed == nil || s.viewed.Revision() != s.state.Revision() {
		s.viewed = s.state.Freeze()
	}
	return s.viewed
}

func (s *server) applyCommand(e *raftpb.Entry) {
	if len(e.GetData()) == 0 {
		s.state.Apply(e.GetIndex(), e.GetTerm(), nil)
		return
	}
	cmd := &blixardv1.Command{}
	if err := proto.Unmarshal(e.GetData(), cmd); err != nil {
		panic(fmt.Sprintf("core: entry %d does not decode: %v", e.GetIndex(), err))
	}
	if mutant.On("ChangeWithoutLevel") && s.cfg.Level > s.state.Settings().GetLevel() {
		cmd.WallTime = 0
	}
	resp := s.state.Apply(e.GetIndex(), e.GetTerm(), cmd)
	s.clients.applied(s.Node, cmd, resp)
	if s.leading != nil {
		s.leading.applied(cmd)
	}
}

func (s *server) reconfigure(e *raftpb.Entry) {
	var cc raftpb.ConfChangeV2
	if err := proto.Unmarshal(e.GetData(), &cc); err != nil {
		panic(fmt.Sprintf("core: entry %d does not decode: %v", e.GetIndex(), err))
	}
	conf := s.raft.ApplyConfChange(&cc)
	s.state.Reconfigure(e.GetIndex(), e.GetTerm(), conf.GetVoters(), conf.GetLearners())
}

// changes takes what the last entry changed, and notes the hosts among it.
func (s *server) changes() []cluster.Change {
	list := s.state.Changes()
	if s.leading != nil {
		for i := range list {
			if id, ok := list[i].Node(); ok {
				s.leading.touched[id] = struct{}{}
			}
			if v, ok := list[i].Record.(*blixardv1.ClusterVolume); ok {
				s.leading.touched[v.NodeId] = struct{}{}
				for _, c := range v.Copies {
					s.leading.touched[c.NodeId] = struct{}{}
				}
			}
		}
	}
	return list
}

func (s *server) sendRaft(m *raftpb.Message) {
	msg := Message{To: m.GetTo(), Address: s.address(m.GetTo()), Envelope: &blixardv1.Envelope{}, Raft: m}
	if !raft.IsResponseMsg(m.GetType()) {
		msg.Envelope.Address = s.id.Address
	}
	if m.GetType() == raftpb.MsgSnap {
		f := s.frozen
		if f == nil || f.index != m.GetSnapshot().GetMetadata().GetIndex() {
			// A newer one was cut since: this one cannot be sent any more.
			s.raft.ReportSnapshot(m.GetTo(), raft.SnapshotFailure)
			return
		}
		msg.State = f.state
	}
	s.send(msg)
}

// quiet is Raft's logger: what matters of Raft is in Status and in the trace of
// inputs. A broken invariant panics.
type quiet struct{}

func (quiet) Debug(...any)            {}
func (quiet) Debugf(string, ...any)   {}
func (quiet) Error(...any)            {}
func (quiet) Errorf(string, ...any)   {}
func (quiet) Info(...any)             {}
func (quiet) Infof(string, ...any)    {}
func (quiet) Warning(...any)          {}
func (quiet) Warningf(string, ...any) {}
func (quiet) Fatal(v ...any)          { panic(fmt.Sprint(v...)) }
func (quiet) Fatalf(f string, v ...any) {
	panic(fmt.Sprintf(f, v...))
}
func (quiet) Panic(v ...any)            { panic(fmt.Sprint(v...)) }
func (quiet) Panicf(f string, v ...any) { panic(fmt.Sprintf(f, v...)) }
