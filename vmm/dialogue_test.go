package vmm

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/shim"
)

// The dialogues of testdata tell the manager what is wanted, what is seen and
// how much time passes, and show what it orders and says. Rewrite them with
// go test ./vmm -rewrite.
func TestDialogues(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		talk := &talk{unit: NewUnit("u1"), now: 1000 * second, leases: map[uint32]int64{}, host: shim.Host{ID: "1", Boot: "b", Epoch: 1}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			return talk.line(t, d)
		})
	})
}

type talk struct {
	unit   *Unit
	now    int64
	ids    uint64
	leases map[uint32]int64
	host   shim.Host
	report Report
	last   Action // that must be answered
	build  Action
	probe  Action
	start  Action
	ended  bool // the host is no member any more
}

func (k *talk) line(t *testing.T, d *datadriven.TestData) string {
	switch d.Cmd {
	case "want":
		k.want(d)
	case "unwanted":
		k.unit.Want = nil
	case "no-member":
		k.ended = true
	case "lease":
		var ms, seconds int
		d.ScanArgs(t, "ms", &ms)
		d.ScanArgs(t, "left", &seconds)
		k.leases[uint32(ms)] = k.now + int64(seconds)*second
	case "epoch":
		k.host.Epoch++
		clear(k.leases)
	case "wait":
		var seconds int
		d.ScanArgs(t, "s", &seconds)
		// Second by second, as ticks come; only the last orders are shown.
		var out string
		for range seconds {
			early, said := k.now+second < k.unit.Due(), k.says()
			k.now += second
			s := k.plan()
			if early && (s != "" || k.says() != said) {
				t.Fatalf("%s: before it was due: %s%s", d.Pos, s, k.says())
			}
			if s != "" {
				out += fmt.Sprintf("at +%ds ", (k.now-1000*second)/second) + s
			}
		}
		return out + k.says()
	case "see":
		k.see(t, d)
	case "done":
		err := strings.TrimSpace(d.Input)
		k.unit.Finish(k.now, Done{Action: k.last.ID, UID: "u1", Err: err})
	case "built":
		err := strings.TrimSpace(d.Input)
		k.unit.Finish(k.now, Done{Action: k.build.ID, UID: "u1", Err: err})
	case "probed": // an error is what the probe met
		done := Done{Action: k.probe.ID, UID: "u1", Err: strings.TrimSpace(d.Input)}
		for _, arg := range d.CmdArgs {
			switch arg.Key {
			case "unknown":
				done.Unknown = true
			case "after": // seconds, in which this host stood still
				var seconds int64
				fmt.Sscan(arg.Vals[0], &seconds)
				k.now += seconds * second
			}
		}
		k.unit.Finish(k.now, done)
	default:
		t.Fatalf("%s: unknown command %q", d.Pos, d.Cmd)
	}
	return k.plan() + k.says()
}

func (k *talk) want(d *datadriven.TestData) {
	a := &blixardv1.Assignment{
		Uid: "u1", Name: "web", Incarnation: &blixardv1.Incarnation{Generation: 1, Index: 7}, Revision: 7,
		Run: true, RunGeneration: 1, Lease: blixardv1.LeaseClass_LEASE_CLASS_SHORT, LeaseMs: 15000,
		Spec: &blixardv1.VMSpec{StopGraceMs: 5000, Restart: blixardv1.RestartPolicy_RESTART_POLICY_ALWAYS},
	}
	for _, arg := range d.CmdArgs {
		switch arg.Key {
		case "stopped":
			a.Run = false
		case "paused":
			a.Paused = true
		case "memory":
			fmt.Sscan(arg.Vals[0], &a.Spec.MemoryMib)
		case "remove":
			a.Run, a.Remove = false, true
		case "restart":
			a.RunGeneration = k.unit.Want.GetRunGeneration() + 1
		case "spec":
			fmt.Sscan(arg.Vals[0], &a.SpecGeneration)
		case "renew":
			a.RestartWhenBuilt = true
		case "fallback":
			a.Fallback = &blixardv1.Generation{Spec: a.Spec}
			fmt.Sscan(arg.Vals[0], &a.Fallback.SpecGeneration)
		case "again":
			a.RunGeneration = k.unit.Want.GetRunGeneration()
		case "health":
			a.Spec.Health = &blixardv1.Health{
				Probe: &blixardv1.Health_Agent{Agent: &blixardv1.AgentProbe{}}, StartPeriodMs: 10_000, IntervalMs: 5_000, TimeoutMs: 2_000,
				HealthyThreshold: 1, UnhealthyThreshold: 2,
			}
		case "never":
			a.Spec.Restart = blixardv1.RestartPolicy_RESTART_POLICY_NEVER
		case "on-failure":
			a.Spec.Restart = blixardv1.RestartPolicy_RESTART_POLICY_ON_FAILURE
		case "incarnation":
			fmt.Sscan(arg.Vals[0], &a.Incarnation.Index)
		case "source": // of that migration; attempt 1 moves
			a.Migration = &blixardv1.MigrationOrder{Role: blixardv1.MigrationRole_MIGRATION_ROLE_SOURCE, Attempt: 1}
			fmt.Sscan(arg.Vals[0], &a.Migration.Id)
		case "send":
			a.Migration.Send = true
		case "target":
			a.Run, a.Migration = false, &blixardv1.MigrationOrder{Role: blixardv1.MigrationRole_MIGRATION_ROLE_TARGET}
			fmt.Sscan(arg.Vals[0], &a.Migration.Id)
			a.Incarnation.Index = a.Migration.Id
		case "unbound":
			a.Lease, a.LeaseMs = blixardv1.LeaseClass_LEASE_CLASS_NONE, 0
		case "long":
			a.Lease, a.LeaseMs = blixardv1.LeaseClass_LEASE_CLASS_LONG, 3600000
		}
	}
	k.unit.Want = a
}

func (k *talk) see(t *testing.T, d *datadriven.TestData) {
	r := k.report
	r.Exit = nil
	for _, arg := range d.CmdArgs {
		switch arg.Key {
		case "started":
			r = Report{
				Instance: k.start.Instance, Liveness: Alive, Lease: k.start.Assignment.Lease, LeaseMs: k.start.Assignment.LeaseMs,
				Epoch: k.start.Host.Epoch, RunGeneration: k.start.Assignment.RunGeneration, SpecGeneration: k.start.Assignment.SpecGeneration,
			}
		case "settled": // what Nix builds has files from the first Build on
			r = Report{Instance: k.build.Instance, Liveness: Down}
			r.Instance.Attempt = 0
		case "rebound":
			r.Lease, r.LeaseMs, r.Epoch = k.last.Assignment.Lease, k.last.Assignment.LeaseMs, k.last.Host.Epoch
		case "ready":
			r.Ready = true
		case "booted": // with so much memory, and a balloon
			fmt.Sscan(arg.Vals[0], &r.BootMiB)
			r.MemoryMiB = r.BootMiB
		case "has": // so much of it; 0: nobody knows
			fmt.Sscan(arg.Vals[0], &r.MemoryMiB)
		case "orphan":
			r = Report{Instance: shim.Instance{UID: "u1", Generation: 1, Index: 3, Attempt: 4}, Liveness: Alive, Ready: true, RunGeneration: 1}
		case "paused":
			r.Paused = true
		case "resumed":
			r.Paused = false
		case "down":
			r.Liveness, r.Ready, r.Paused, r.Incoming, r.Outgoing = Down, false, false, 0, Outgoing{}
		case "absent":
			r = Report{Instance: r.Instance}
		case "opening", "listening", "loaded":
			r.Incoming = map[string]Incoming{"opening": Opening, "listening": Listening, "loaded": Loaded}[arg.Key]
		case "taken-over":
			r.Incoming = 0
		case "sending":
			r.Outgoing = Outgoing{SentBytes: 1}
			fmt.Sscan(arg.Vals[0], &r.Outgoing.Migration)
		case "broken":
			r.Outgoing.Failed, r.Outgoing.Message = true, "the stream broke"
		case "unsent":
			r.Outgoing = Outgoing{}
		case "handed-over":
			fmt.Sscan(arg.Vals[0], &r.HandedOver)
			r.Outgoing, r.Ready = Outgoing{}, false
		case "code":
			r.Exit = &Exit{Reason: "Exited", Message: "it ended by itself"}
			fmt.Sscan(arg.Vals[0], &r.Exit.Code)
			if r.Exit.Code != 0 {
				r.Exit.Reason = "Crashed"
			}
		case "lapsed":
			r.Exit = &Exit{Code: 137, Reason: "Lapsed", Message: "its lease ended"}
		case "interrupted":
			r.Exit = &Exit{Code: 1, Reason: "Interrupted", Message: "its daemon ended while it was started"}
		default:
			t.Fatalf("%s: unknown argument %q", d.Pos, arg.Key)
		}
	}
	k.report = r
	k.unit.Observe(k.now, r)
}

func (k *talk) plan() (out string) {
	next := k.unit.Plan
	if k.ended {
		next = k.unit.End
	}
	for range 4 {
		a := next(k.now, Context{
			Host:     k.host,
			Deadline: func(ms uint32) int64 { return k.leases[ms] },
			NextID:   func() uint64 { k.ids++; return k.ids },
		})
		if a == nil {
			break
		}
		if a.Verb == Probe {
			k.probe = *a
		} else if a.Verb != Stop && a.Verb != Kill { // those are not waited for
			k.last = *a
		}
		switch a.Verb {
		case Build:
			k.build = *a
		case Start, Receive:
			k.start = *a
		}
		out += fmt.Sprintf("orders %v %v\n", a.Verb, a.Instance)
	}
	return out
}

func (k *talk) says() string {
	if k.unit.Idle() {
		return "forgotten\n"
	}
	o := k.unit.Observation()
	s := fmt.Sprintf("says %s", strings.TrimPrefix(o.Phase.String(), "PHASE_"))
	if o.Reason != "" {
		s += " " + o.Reason
	}
	if o.Message != "" {
		s += ": " + o.Message
	}
	if o.Health != 0 {
		s += " [" + strings.TrimPrefix(o.Health.String(), "HEALTH_STATE_")
		if o.HealthMessage != "" {
			s += ": " + o.HealthMessage
		}
		s += "]"
	}
	if o.Failures > 0 {
		s += fmt.Sprintf(" (failures %d)", o.Failures)
	}
	if o.BuiltGeneration != 0 || o.SpecGeneration != 0 {
		s += fmt.Sprintf(" (spec %d, built %d)", o.SpecGeneration, o.BuiltGeneration)
	}
	if o.BuildMessage != "" {
		s += " [build: " + o.BuildMessage + "]"
	}
	if o.BootedMemoryMib != 0 {
		s += fmt.Sprintf(" (memory %d of %d)", o.MemoryMib, o.BootedMemoryMib)
	}
	if o.Warm {
		s += " (warm)"
	}
	if o.MemoryMessage != "" {
		s += " [memory: " + o.MemoryMessage + "]"
	}
	if o.Removed {
		s += " [removed]"
	}
	if m := o.Migration; m != nil {
		s += fmt.Sprintf(" [migration %d: %s]", m.Id, strings.TrimSpace(strings.TrimPrefix(m.Step.String(), "MIGRATION_STEP_")+" "+m.Message))
	}
	return s + " lease " + strings.TrimPrefix(o.Lease.String(), "LEASE_CLASS_") + "\n"
}
