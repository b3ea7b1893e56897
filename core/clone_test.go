package core

import (
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// asks brings the leader a Sync of another boot of a host.
func (v *village) asks(id uint64, boot string) {
	leader := v.nodes[1].node.Status().Leader
	v.step(leader, Receive{Envelope: &blixardv1.Envelope{
		ClusterId: "c", Generation: 1, From: id, To: leader,
		Body: &blixardv1.Envelope_Sync{Sync: &blixardv1.Sync{NodeId: id, BootId: boot, Nonce: 1, Facts: &blixardv1.HostFacts{Version: "test"}}},
	}})
}

func (v *village) events(kind string) (list []*blixardv1.Event) {
	v.nodes[1].node.View().Events(0, func(e *blixardv1.Event) bool {
		if e.Type == kind {
			list = append(list, e)
		}
		return true
	})
	return list
}

// Two boots of one host that are heard in turn are two machines: the second is
// refused, and an event says so, once. A reboot is not taken for one.
func TestACloneIsRefusedWithAnEvent(t *testing.T) {
	v := three(t)
	host := v.ids()[2]
	for range 20 {
		v.asks(host, "a copy")
		v.run(second)
	}
	if list := v.events("HostCloned"); len(list) != 1 || list[0].Node != "n3" {
		t.Fatalf("events of clones: %v", list)
	}
	if h := v.nodes[1].node.View().Node(host).Host; h.BootId != "boot" || h.Epoch != 1 || h.Suspect {
		t.Fatalf("the clone disturbed its original: %v", h)
	}
	v.asks(host, "another copy")
	v.run(5 * second)
	v.asks(host, "another copy")
	v.run(second)
	if list := v.events("HostCloned"); len(list) != 2 {
		t.Fatalf("events of two clones: %v", list)
	}

	other := v.ids()[1]
	v.cut[other] = true // its machine reboots: the first boot is heard no more
	for range 10 {
		v.asks(other, "the next boot")
		v.run(second)
	}
	if list := v.events("HostCloned"); len(list) != 2 {
		t.Fatalf("a reboot was taken for a clone: %v", list)
	}
}
