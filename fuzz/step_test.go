package fuzz

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// founder is a cluster of one that leads and holds a lease.
func founder(t *testing.T) *core.Node {
	at := core.Time{Boot: 1e12}
	b, err := core.Found(core.Identity{ClusterID: "c", Generation: 1, Name: "n1", Address: "a", Server: true, Host: true}, nil, at)
	if err != nil {
		t.Fatal(err)
	}
	var image core.Image
	for _, op := range b.Ops {
		if op.Range { // there is nothing yet that it could take away
			continue
		}
		image[op.Table] = append(image[op.Table], core.KV{Key: op.Key, Value: op.Value})
	}
	n, err := core.Open(core.Config{Seed: 1, BootID: "b"}, image, at)
	if err != nil {
		t.Fatal(err)
	}
	give(t, n, &at, core.Observed{Inventory: true, Facts: &blixardv1.HostFacts{Capacity: &blixardv1.Resources{Vcpus: 4, MemoryMib: 4096, DiskMib: 4096}}})
	for range 50 {
		give(t, n, &at, core.Tick{})
	}
	if st := n.Status(); !st.Leading || !st.Granted {
		t.Fatalf("not ready: %+v", st)
	}
	return n
}

// give steps a node whose disk is at once durable.
func give(t *testing.T, n *core.Node, at *core.Time, in core.Input) {
	for in != nil {
		at.Boot += 1e8
		out, err := n.Step(*at, in)
		if err != nil {
			t.Fatal(err)
		}
		in = nil
		if out.Write != nil {
			in = core.Wrote{Seq: out.Write.Seq}
		}
	}
}

// FuzzReceive: no message of a host or of another server makes a node panic,
// and none but a Grant to its own Sync extends a lease. (Raft's own messages are
// left out: Raft trusts its peers.)
func FuzzReceive(f *testing.F) {
	for _, e := range []*blixardv1.Envelope{
		{Body: &blixardv1.Envelope_Sync{Sync: &blixardv1.Sync{NodeId: 1, BootId: "b", Epoch: 1, Nonce: 7}}},
		{Body: &blixardv1.Envelope_Grant{Grant: &blixardv1.Grant{NodeId: 1, BootId: "b", Epoch: 1, Granted: true, Nonce: 7, To: 9, Assignments: []*blixardv1.Assignment{{Uid: "x"}}}}},
		{Body: &blixardv1.Envelope_Grant{Grant: &blixardv1.Grant{NodeId: 1, BootId: "b", Epoch: 1, From: 3, To: 9}}},
		{Body: &blixardv1.Envelope_Forward{Forward: &blixardv1.Forward{Commands: []*blixardv1.Command{{RequestId: "1", Op: &blixardv1.Command_Cordon{}}}}}},
	} {
		b, err := proto.Marshal(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e := &blixardv1.Envelope{}
		if proto.Unmarshal(b, e) != nil || e.GetRaft() != nil {
			return
		}
		e.ClusterId, e.Generation, e.From, e.To = "c", 1, 1, 1
		n := founder(t)
		at := core.Time{Boot: 2e12} // every lease has passed by now
		give(t, n, &at, core.Receive{Envelope: e})
		if n.Status().Granted {
			t.Fatalf("extended by %v", e)
		}
	})
}

// FuzzRecord: no line makes Decode panic, and what decodes encodes again.
func FuzzRecord(f *testing.F) {
	for _, in := range []core.Input{core.Tick{}, core.Wrote{Seq: 3}, core.Request{ID: 1, Stale: true}, core.Receive{Envelope: &blixardv1.Envelope{ClusterId: "c"}}} {
		b, err := core.Encode(core.Time{Boot: 1}, in)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		at, in, err := core.Decode(b)
		if err != nil {
			return
		}
		if _, err := core.Encode(at, in); err != nil {
			t.Fatal(err)
		}
	})
}
