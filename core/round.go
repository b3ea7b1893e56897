package core

import (
	"encoding/binary"
	"slices"

	"go.etcd.io/raft/v3"

	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// rounds batch what needs a proof that a quorum still followed the leader after
// it was asked for: linearizable reads, and grants. One round is under way at a
// time; who comes meanwhile waits for the next, so that a round never began
// before a request that it serves (ReadIndex: Ongaro's thesis, 6.4).
type rounds struct {
	seed    uint64
	count   uint64
	waiting ask // for the next round
	asked   ask // in the round under way
	started int64
	done    []confirmed // proven, and waiting until so much is applied
}

// ask is what one round serves.
type ask struct {
	reads  []read
	grants []*blixardv1.Sync
}

func (a ask) empty() bool { return len(a.reads) == 0 && len(a.grants) == 0 }

type confirmed struct {
	ask
	index uint64
}

// roundAgain is how long a round may take before it is asked for again.
const roundAgain = 500 * milli

func (r *rounds) init(seed uint64) { r.seed = seed }

func (r *rounds) read(q read) { r.waiting.reads = append(r.waiting.reads, q) }

// context names one round. It is never used twice, not even by another life of
// this process: a late answer to an old one would prove nothing (etcd#20418).
func (r *rounds) context() []byte {
	b := binary.BigEndian.AppendUint64(nil, r.seed)
	return binary.BigEndian.AppendUint64(b, r.count)
}

func (r *rounds) start(s *server) {
	if r.waiting.empty() || !r.asked.empty() || s.leaderID() == 0 || !s.knowsCommitted() && !mutant.On("AloneReadsAtOnce") {
		return
	}
	r.asked, r.waiting = r.waiting, ask{}
	r.ask(s)
}

// knowsCommitted says that a leader has committed an entry of its own term. Before, its
// commit index may be older than what was answered in an earlier term. Raft waits
// for that by itself, but not where it votes alone (Ongaro's thesis, 6.4, step 1).
func (s *server) knowsCommitted() bool {
	st := s.raft.BasicStatus()
	if st.RaftState != raft.StateLeader {
		return true
	}
	term, err := s.log.Term(st.GetCommit())
	return err == nil && term == st.GetTerm()
}

func (r *rounds) ask(s *server) {
	r.count++
	r.started = s.now.Boot
	s.raft.ReadIndex(r.context())
}

// retry asks again for a round that was lost, and gives up reads whose time is up:
// also those that were proven, at an index that does not come to be applied here,
// because this server was cut off or removed since.
func (r *rounds) retry(s *server) {
	lists := []*[]read{&r.waiting.reads, &r.asked.reads}
	for i := range r.done {
		lists = append(lists, &r.done[i].reads)
	}
	for _, list := range lists {
		*list = slices.DeleteFunc(*list, func(q read) bool {
			if s.now.Boot < q.deadline {
				return false
			}
			s.refuse(q.id, blixardv1.ErrorCode_ERROR_CODE_NO_QUORUM, "no quorum confirmed the read in time",
				"look at 'blixard cluster status'; a stale read (--stale) needs no quorum")
			return true
		})
	}
	if !r.asked.empty() && s.now.Boot-r.started >= roundAgain && s.leaderID() != 0 {
		r.ask(s)
	}
}

// confirmed takes Raft's proof of a round.
func (r *rounds) confirmed(st raft.ReadState) {
	if string(st.RequestCtx) != string(r.context()) || r.asked.empty() {
		return
	}
	r.done = append(r.done, confirmed{r.asked, st.Index})
	r.asked = ask{}
}

// deposed drops the grants: they are the old leadership's. Hosts ask again.
func (r *rounds) deposed() {
	r.waiting.grants, r.asked.grants = nil, nil
	for i := range r.done {
		r.done[i].grants = nil
	}
}

// settle serves what is proven and applied.
func (r *rounds) settle(s *server) {
	for len(r.done) > 0 && (s.state.Revision() >= r.done[0].index || mutant.On("ReadBeforeApplied")) {
		c := r.done[0]
		r.done = r.done[1:]
		for _, q := range c.reads {
			s.show(q.id, q.vm)
		}
		if s.leading != nil {
			for _, sync := range c.grants {
				s.leading.grant(sync)
			}
		}
	}
}
