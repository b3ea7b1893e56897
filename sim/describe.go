package sim

import (
	"fmt"
	"reflect"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/shim"
)

// describe puts something that happened into words. Never through a message's
// String: protobuf's text differs from process to process on purpose.
func describe(what any) string {
	switch x := what.(type) {
	case string:
		return x
	case begun:
		return x.String()
	case *Operation:
		return x.String()
	case []byte:
		env := &blixardv1.Envelope{}
		if proto.Unmarshal(x, env) != nil {
			return "an envelope that does not decode"
		}
		return describeEnvelope(env)
	case core.PeerLost:
		return fmt.Sprintf("hears that %d hung up", x.Peer)
	case core.Receive:
		return describeEnvelope(x.Envelope)
	case core.Request:
		return describeRequest(x)
	case core.Observed:
		return describeObserved(x)
	case vmm.Action:
		return fmt.Sprintf("orders %s %s (%d)", x.Verb, x.Instance, x.ID)
	}
	return strings.TrimPrefix(reflect.TypeOf(what).String(), "core.")
}

func describeEnvelope(env *blixardv1.Envelope) string {
	switch b := env.GetBody().(type) {
	case *blixardv1.Envelope_Sync:
		return fmt.Sprintf("Sync of %d: epoch %d, nonce %x, revision %d, %d observations",
			b.Sync.NodeId, b.Sync.Epoch, b.Sync.Nonce, b.Sync.Revision, len(b.Sync.Observations))
	case *blixardv1.Envelope_Grant:
		g := b.Grant
		word := "Grant"
		if !g.Granted {
			word = "refusal (" + g.Refusal + ")"
		}
		return fmt.Sprintf("%s to %d: epoch %d, nonce %x, assignments (%d, %d] x %d", word, g.NodeId, g.Epoch, g.Nonce, g.From, g.To, len(g.Assignments))
	case *blixardv1.Envelope_Forward:
		return fmt.Sprintf("%d commands passed on by %d", len(b.Forward.Commands), env.From)
	}
	return fmt.Sprintf("raft message of %d", env.From)
}

func describeRequest(r core.Request) string {
	switch {
	case r.Command != nil:
		return fmt.Sprintf("request %s: %T", r.Command.RequestId, r.Command.Op)
	case r.Stale:
		return "stale read"
	}
	return "read"
}

func describeObserved(o core.Observed) string {
	var words []string
	if o.Inventory {
		words = append(words, "inventory")
	}
	for _, r := range o.Reports {
		s := fmt.Sprintf("%s %s", r.Instance, r.Liveness)
		if r.Ready {
			s += " ready"
		}
		if r.Liveness == vmm.Alive {
			s += fmt.Sprintf(" lease %d/%dms of %d", r.Lease, r.LeaseMs, r.Epoch)
		}
		if r.Exit != nil {
			s += fmt.Sprintf(" %s %d", r.Exit.Reason, r.Exit.Code)
		}
		words = append(words, s)
	}
	if o.Lapsed != 0 {
		words = append(words, fmt.Sprintf("a page of epoch %d has lapsed", o.Lapsed))
	}
	for _, d := range o.Done {
		words = append(words, fmt.Sprintf("done %d %s %s", d.Action, d.UID, d.Err))
	}
	return "observes " + strings.Join(words, "; ")
}

func faultName(f Fault) string { return reflect.TypeOf(f).Name() }

func exited(code int) shim.Status  { return shim.Status{Code: code} }
func signaled(sig int) shim.Status { return shim.Status{Signal: sig} }
