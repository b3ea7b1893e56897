package core

import (
	"bytes"
	"cmp"
	"slices"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// clients are the mutations that this server's clients wait for. A mutation is
// proposed, here or at the leader, again and again until its entry is applied
// here: Apply executes a request id once, so only the first of them counts.
type clients struct {
	waiting map[string]*mutation // by principal and request id
	order   []string             // the same, oldest first
}

type mutation struct {
	cmd      *blixardv1.Command
	replies  []reply
	proposed int64
}

type reply struct {
	id       uint64
	deadline int64
}

type read struct {
	id       uint64
	vm       string // only this one
	deadline int64
}

const (
	defaultTimeout = 30 * second
	proposeAgain   = second
)

func (c *clients) init() { c.waiting = map[string]*mutation{} }

func requestKey(cmd *blixardv1.Command) string { return cmd.Principal + "\x00" + cmd.RequestId }

// request takes what a client wants.
func (s *server) request(r Request) {
	deadline := s.now.Boot + cmp.Or(r.Timeout, defaultTimeout)
	switch {
	case r.Command == nil && r.After != 0:
		s.watches.add(s, watcher{r.ID, r.After, deadline})
	case r.Command == nil && r.Stale:
		s.show(r.ID, r.VM)
	case r.Command == nil:
		s.rounds.read(read{r.ID, r.VM, deadline})
	case r.Command.RequestId == "":
		s.refuse(r.ID, blixardv1.ErrorCode_ERROR_CODE_INVALID, "the request has no request id", "send one: a UUIDv7")
	default:
		s.clients.add(s, r, deadline)
	}
}

// show answers a read with what there is now: one VM, or all of it.
func (s *server) show(id uint64, vm string) {
	r := Reply{ID: id}
	if vm != "" {
		r.One = s.state.One(vm)
	} else {
		r.View = s.view()
	}
	s.out.Replies = append(s.out.Replies, r)
}

func (c *clients) add(s *server, r Request, deadline int64) {
	key := requestKey(r.Command)
	m := c.waiting[key]
	if m == nil {
		m = &mutation{cmd: r.Command}
		c.waiting[key] = m
		c.order = append(c.order, key)
		s.propose(m)
	}
	if !bytes.Equal(m.cmd.PayloadHash, r.Command.PayloadHash) {
		s.refuse(r.ID, blixardv1.ErrorCode_ERROR_CODE_REQUEST_ID_REUSED,
			"the request id is in use, for another request", "use a new request id")
		return
	}
	m.replies = append(m.replies, reply{r.ID, deadline})
}

// propose sends a mutation on its way: into the log of the leader.
func (s *server) propose(m *mutation) {
	m.proposed = s.now.Boot
	if s.leading != nil {
		s.leading.propose(m.cmd)
		return
	}
	if to := s.leaderID(); to != 0 {
		s.send(Message{To: to, Address: s.address(to), Envelope: &blixardv1.Envelope{
			Body: &blixardv1.Envelope_Forward{Forward: &blixardv1.Forward{Commands: []*blixardv1.Command{m.cmd}}},
		}})
	}
}

// forwarded takes mutations of another server's clients.
func (s *server) forwarded(f *blixardv1.Forward) {
	for _, cmd := range f.GetCommands() {
		if s.leading != nil && cmd.GetRequestId() != "" && clientOp(cmd) {
			s.leading.propose(cmd)
		}
	}
}

// clientOp says whether a client may ask for it.
func clientOp(cmd *blixardv1.Command) bool {
	switch cmd.GetOp().(type) {
	case nil, *blixardv1.Command_Init, *blixardv1.Command_HostBoot, *blixardv1.Command_HostReport, *blixardv1.Command_Suspect,
		*blixardv1.Command_Fence, *blixardv1.Command_Collect, *blixardv1.Command_Place, *blixardv1.Command_Clone,
		*blixardv1.Command_Level, *blixardv1.Command_Restore, *blixardv1.Command_Settle, *blixardv1.Command_Switch:
		return false // what only a leader proposes, by itself
	}
	return true
}

// applied answers whoever waits for an entry.
func (c *clients) applied(n *Node, cmd *blixardv1.Command, resp *blixardv1.Response) {
	if cmd.RequestId == "" {
		return
	}
	key := requestKey(cmd)
	m := c.waiting[key]
	if m == nil {
		return
	}
	delete(c.waiting, key)
	for _, r := range m.replies {
		n.out.Replies = append(n.out.Replies, Reply{ID: r.id, Response: resp})
	}
}

// again proposes everything that waits to a new leader.
func (c *clients) again(s *server) {
	for _, key := range c.order {
		if m := c.waiting[key]; m != nil {
			s.propose(m)
		}
	}
}

// installed: a snapshot has skipped entries that somebody may wait for. They are
// proposed again, and answered from what the state remembers.
func (c *clients) installed(n *Node) { c.again(n.server) }

// expire answers those whose time is up, and proposes again what is lost.
func (c *clients) expire(n *Node) {
	s := n.server
	c.order = slices.DeleteFunc(c.order, func(key string) bool { return c.waiting[key] == nil })
	for _, key := range c.order {
		m := c.waiting[key]
		if m == nil {
			continue // answered and asked again since: it is here twice
		}
		m.replies = slices.DeleteFunc(m.replies, func(r reply) bool {
			if n.now.Boot < r.deadline {
				return false
			}
			n.refuse(r.id, blixardv1.ErrorCode_ERROR_CODE_NO_QUORUM,
				"no leader confirmed the request in time: it may or may not have been executed",
				"look at 'blixard cluster status'; retry with the same request id, which executes it at most once")
			return true
		})
		if len(m.replies) == 0 {
			delete(c.waiting, key)
		} else if n.now.Boot-m.proposed >= proposeAgain {
			s.propose(m)
		}
	}
}

func (n *Node) refuse(id uint64, code blixardv1.ErrorCode, message, advice string) {
	e := &blixardv1.Error{Code: code, Message: message, Advice: advice}
	n.out.Replies = append(n.out.Replies, Reply{ID: id, Error: e, Response: &blixardv1.Response{Error: e}})
}
