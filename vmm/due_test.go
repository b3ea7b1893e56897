package vmm

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/shim"
)

// Whatever happens to a VM: when Plan has nothing more to do, a Plan before Due
// does nothing and says nothing new.
func TestNothingIsDueBeforeDue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const short, none = blixardv1.LeaseClass_LEASE_CLASS_SHORT, blixardv1.LeaseClass_LEASE_CLASS_NONE
		u, now, ids, deadline := NewUnit("u1"), 1000*int64(second), uint64(0), int64(0)
		context := Context{
			Host:     shim.Host{ID: "1", Boot: "b", Epoch: 1},
			Deadline: func(uint32) int64 { return deadline },
			NextID:   func() uint64 { ids++; return ids },
		}
		var open []Action
		for range rapid.IntRange(5, 60).Draw(t, "events") {
			switch rapid.SampledFrom([]string{"want", "see", "see", "done", "done", "lease", "wait", "wait", "wait"}).Draw(t, "event") {
			case "want":
				if rapid.IntRange(0, 5).Draw(t, "nothing") == 0 {
					u.Want = nil
					break
				}
				u.Want = &blixardv1.Assignment{
					Uid: "u1", Incarnation: &blixardv1.Incarnation{Generation: 1, Index: rapid.Uint64Range(7, 8).Draw(t, "incarnation")},
					Run: rapid.IntRange(0, 3).Draw(t, "run") > 0, RunGeneration: rapid.Uint32Range(1, 3).Draw(t, "generation"),
					Remove: rapid.IntRange(0, 5).Draw(t, "remove") == 0,
					Lease:  rapid.SampledFrom([]blixardv1.LeaseClass{short, short, none}).Draw(t, "class"), LeaseMs: 15000,
					SpecGeneration: rapid.Uint32Range(1, 2).Draw(t, "spec"), RestartWhenBuilt: rapid.Bool().Draw(t, "renew"),
					Spec: &blixardv1.VMSpec{
						StopGraceMs: 5000, Restart: blixardv1.RestartPolicy(rapid.IntRange(1, 3).Draw(t, "policy")),
					},
				}
			case "see":
				r := Report{Instance: u.Instance(), Liveness: Liveness(rapid.IntRange(0, 2).Draw(t, "liveness"))}
				r.RunGeneration = u.runGeneration
				if r.Liveness == Alive {
					r.Ready, r.Lease, r.LeaseMs, r.Epoch = rapid.Bool().Draw(t, "ready"), short, 15000, 1
				}
				u.Observe(now, r)
			case "done":
				if len(open) > 0 {
					u.Finish(now, Done{Action: open[0].ID, UID: "u1", Err: rapid.SampledFrom([]string{"", "", "no"}).Draw(t, "err")})
					open = open[1:]
				}
			case "lease":
				deadline = now + rapid.Int64Range(0, 20).Draw(t, "left")*second
			case "wait":
				now += rapid.Int64Range(0, 200).Draw(t, "seconds") * second / 4
			}
			settled := false
			for range 10 {
				a := u.Plan(now, context)
				if settled = a == nil; settled {
					break
				}
				open = append(open, *a)
			}
			if !settled {
				t.Fatalf("it never has enough: %v", open)
			}
			until := min(u.Due(), now+300*second)
			if until <= now {
				t.Fatalf("it is due %d ns ago", now-u.Due())
			}
			said := u.Observation()
			now = rapid.Int64Range(now, until-1).Draw(t, "then")
			if a := u.Plan(now, context); a != nil || !proto.Equal(u.Observation(), said) {
				t.Fatalf("%d ns before it was due: %v, says %v, said %v", until-now, a, u.Observation(), said)
			}
		}
	})
}
