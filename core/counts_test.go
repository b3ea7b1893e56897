package core

import "testing"

// What a node counts: leaders, proposals, and how its lease is renewed.
func TestCounts(t *testing.T) {
	v := three(t)
	lead := v.nodes[1].node.Status().Leader
	var host uint64 // of those that do not lead
	for _, id := range v.ids() {
		c := v.nodes[id].node.Status().Counts
		if c.LeaderChanges == 0 || (c.Proposed > 0) != (id == lead) || c.Dropped > c.Proposed {
			t.Errorf("node %d, of which %d leads: %+v", id, lead, c)
		}
		if id != lead {
			host = id
		}
	}
	count := func() Counts { return v.nodes[host].node.Status().Counts }

	before := count()
	v.run(30 * second)
	calm := count()
	if n := calm.Renewals - before.Renewals; n < 8 || n > 14 || calm.Late != before.Late {
		t.Errorf("%d renewals in 30 s, one every 3 s is due: %+v", n, calm)
	}
	v.cut[host] = true
	v.run(9 * second) // of 15
	v.cut[host] = false
	v.run(5 * second)
	if late := count(); late.Late != calm.Late+1 {
		t.Errorf("a renewal after 9 of 15 s: %+v, before %+v", late, calm)
	}

	before = count()
	v.cut[lead] = true
	v.run(10 * second)
	if now := v.nodes[host].node.Status(); now.Leader == lead || now.Counts.LeaderChanges != before.LeaderChanges+1 {
		t.Errorf("the leader is gone: %+v, before %+v", now, before)
	}
}
