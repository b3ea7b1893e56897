package rpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/blixard/blixard/core"
)

// anInn takes guests: what it hears it says back in capitals, and it notes how each
// passage has ended.
type anInn struct {
	refuse error
	got    chan Passage
	ended  chan error
}

func newInn() *anInn { return &anInn{got: make(chan Passage, 10), ended: make(chan error, 10)} }

func (i *anInn) Admit(_ context.Context, p Passage) (func(context.Context, Stream) error, error) {
	i.got <- p
	if i.refuse != nil {
		return nil, i.refuse
	}
	return func(ctx context.Context, from Stream) error {
		defer from.Close()
		defer context.AfterFunc(ctx, func() { from.Close() })()
		all, err := io.ReadAll(from)
		if err == nil {
			_, err = from.Write(bytes.ToUpper(all))
		}
		i.ended <- err
		return err
	}, nil
}

func TestAPassage(t *testing.T) {
	ca := newAuthority(t)
	for what, tls := range map[string]func(string) *TLS{"without TLS": noTLS, "with TLS": ca.node} {
		t.Run(what, func(t *testing.T) {
			inn := newInn()
			n := &node{arrivals: inn}
			serve(t, tls, n)
			p := NewPeers(PeersConfig{TLS: tls("n9"), Deliver: func(core.Input) {}})
			defer p.Close()
			p.Identify(core.Identity{ClusterID: "test", ID: 9})
			to := Passage{Node: n.id, Address: n.address, UID: "1-7", Migration: 44, Shape: "smp=2\nmemory=\"1\" %&"}
			disk := to
			disk.Disk = "d1"
			if s, err := p.Passage(t.Context(), disk); err != nil {
				t.Fatal(err)
			} else if got := <-inn.got; got.Disk != "d1" || got.UID != to.UID {
				t.Errorf("%+v", got)
			} else {
				s.Close()
				<-inn.ended
			}
			s, err := p.Passage(t.Context(), to)
			if err != nil {
				t.Fatal(err)
			}
			if got := <-inn.got; got.UID != to.UID || got.Migration != 44 || got.Shape != to.Shape || got.Node != 9 {
				t.Errorf("%+v", got)
			}
			// One way ends, and the other goes on.
			load := bytes.Repeat([]byte("guest "), 1<<20)
			sent := make(chan error, 1)
			go func() {
				_, err := s.Write(load)
				sent <- errors.Join(err, s.CloseWrite())
			}()
			back, err := io.ReadAll(s)
			if err = errors.Join(err, <-sent, <-inn.ended); err != nil || !bytes.Equal(back, bytes.ToUpper(load)) {
				t.Errorf("%d bytes came back: %v", len(back), err)
			}
			s.Close()
			// Who cuts it is seen at the other end; and so is a node that stops.
			for _, cut := range []func(Stream){
				func(s Stream) { s.Close() },
				func(Stream) { n.server.stop() },
			} {
				if s, err = p.Passage(t.Context(), to); err != nil {
					t.Fatal(err)
				}
				if _, err := s.Write([]byte("half of a guest")); err != nil {
					t.Error(err)
				}
				cut(s)
				select {
				case <-inn.ended:
				case <-time.After(30 * time.Second):
					t.Error("the other end has not seen it")
				}
				s.Close()
			}
		})
	}
}

func TestAPassageThatIsRefused(t *testing.T) {
	ca := newAuthority(t)
	inn := newInn()
	inn.refuse = errors.New("the machines differ")
	n, none := &node{arrivals: inn}, &node{}
	serve(t, ca.node, n, none)
	to := Passage{Node: n.id, Address: n.address, UID: "1-7", Migration: 44}
	for what, change := range map[string]struct {
		tls  *TLS
		id   core.Identity
		to   func(*Passage)
		want string
	}{
		"its host refuses":  {ca.node("n9"), core.Identity{ClusterID: "test", ID: 9}, func(*Passage) {}, "the machines differ (409"},
		"a user":            {ca.user("alice"), core.Identity{ClusterID: "test", ID: 9}, func(*Passage) {}, "403"},
		"another cluster":   {ca.node("n9"), core.Identity{ClusterID: "other", ID: 9}, func(*Passage) {}, "421"},
		"another node":      {ca.node("n9"), core.Identity{ClusterID: "test", ID: 9}, func(p *Passage) { p.Node = 77 }, "421"},
		"nobody":            {ca.node("n9"), core.Identity{ClusterID: "test"}, func(*Passage) {}, "400"},
		"no host":           {ca.node("n9"), core.Identity{ClusterID: "test", ID: 9}, func(p *Passage) { p.Node, p.Address = none.id, none.address }, "503"},
		"nobody is there":   {ca.node("n9"), core.Identity{ClusterID: "test", ID: 9}, func(p *Passage) { p.Address = "127.0.0.1:1" }, "cannot be reached"},
		"an absurd machine": {ca.node("n9"), core.Identity{ClusterID: "test", ID: 9}, func(p *Passage) { p.Shape = strings.Repeat("x", maxShape+1) }, "400"},
	} {
		t.Run(what, func(t *testing.T) {
			p := NewPeers(PeersConfig{TLS: change.tls, Deliver: func(core.Input) {}})
			defer p.Close()
			p.Identify(change.id)
			to := to
			change.to(&to)
			s, err := p.Passage(t.Context(), to)
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), change.want) {
				t.Errorf("%v", err)
			}
		})
	}
}
