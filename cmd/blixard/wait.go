package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// await asks for a VM until done says so, and shows how it goes. The VM is nil
// once there is none, or another one, of that name. A server that cannot be
// reached or a cluster without a leader is waited out, too.
func (s *session) await(name, uid, what string, done func(*blixardv1.VM) (bool, error)) (*blixardv1.VM, string, error) {
	p := s.progress()
	defer p.done()
	var build *buildLines
	defer func() { build.close() }()
	start := time.Now()
	last, line := "no answer yet", ""
	var said word
	for pause := 20 * time.Millisecond; ; pause = min(pause*3/2, 500*time.Millisecond) {
		r, err := s.VM.Get(s.ctx, connect.NewRequest(&blixardv1.GetRequest{Name: name}))
		vm := r0(r).GetVm()
		switch {
		case err == nil && vm.GetUid() != uid, connect.CodeOf(err) == connect.CodeNotFound:
			vm, err = nil, nil
		case err != nil && !s.late(err) && connect.CodeOf(err) != connect.CodeUnavailable:
			return nil, "", err
		}
		if err == nil {
			ok, err := done(vm)
			if ok || err != nil {
				return vm, r0(r).GetNode(), err
			}
			last, line = lifeText(vm, r0(r).GetNode()), ""
			if builds(vm) {
				s.allow(buildPatience)
				if p.w != nil && build == nil {
					build = s.followBuild(name)
				}
				line = build.last()
			}
		} else if !s.late(err) {
			last = asFailure(err).what
		}
		p.say("%s %s: %s (%ds)%s", what, name, last, int(time.Since(start).Seconds()), line)
		if p.w == nil && said.due(last, time.Now()) {
			fmt.Fprintf(s.err, "%s %s: %s\n", what, name, last)
		}
		select {
		case <-time.After(pause):
		case <-s.ctx.Done():
			f := &failure{code: exitTimeout,
				what: fmt.Sprintf("%s %s: not done within %s; it goes on in the cluster", what, name, s.patience),
				why:  "last seen: " + last,
				next: fmt.Sprintf("blixard vm get %s -o wide, or blixard vm explain %s", name, name)}
			if errors.Is(s.ctx.Err(), context.Canceled) {
				f.code, f.what = exitInterrupted, fmt.Sprintf("%s %s: interrupted; it goes on in the cluster", what, name)
			}
			return nil, "", f
		}
	}
}

// late says that an error is only our own time being up: it tells nothing that
// was not known before. The call can notice it before the context itself does.
func (s *session) late(err error) bool {
	at, ok := s.ctx.Deadline()
	return s.ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) || connect.CodeOf(err) == connect.CodeDeadlineExceeded ||
		ok && time.Until(at) < 20*time.Millisecond
}

// word is what was last said where no line can be drawn over, as in a script's
// log: what does not change for a while is worth a line, once.
type word struct {
	text string
	at   time.Time
	said bool
}

func (w *word) due(text string, now time.Time) bool {
	if text != w.text {
		*w = word{text: text, at: now}
	}
	if w.said || now.Sub(w.at) < 3*time.Second {
		return false
	}
	w.said = true
	return true
}

func r0(r *connect.Response[blixardv1.GetResponse]) *blixardv1.GetResponse {
	if r == nil {
		return nil
	}
	return r.Msg
}

var errGone = errors.New("somebody deleted it meanwhile")

// running is done once the VM runs, and later than from says so, and fails when
// it will not run any more by itself. What from's host had seen before does not
// count as a failure.
func running(from *blixardv1.VM, later func(from, v *blixardv1.VM) bool) func(*blixardv1.VM) (bool, error) {
	return func(v *blixardv1.VM) (bool, error) {
		if v == nil || v.GetDeleting() {
			return false, &failure{code: exitConflict, what: "the VM is gone", why: errGone.Error()}
		}
		if err := unbuildable(from, v); err != nil {
			return false, err
		}
		st := v.GetStatus()
		switch later := later(from, v); st.GetPhase() {
		case blixardv1.Phase_PHASE_RUNNING:
			return later, nil
		case blixardv1.Phase_PHASE_PAUSED: // as its user wants it
			return later && v.GetPaused(), nil
		case blixardv1.Phase_PHASE_PENDING:
			if st.GetReason() == cluster.NoHostCan {
				return false, &failure{code: exitConflict, what: "VM " + v.GetName() + " is accepted, and starts nowhere as the hosts are", why: st.GetMessage(),
					next: fmt.Sprintf("it starts once a host can run it; 'blixard vm explain %s' says what each lacks, 'blixard vm delete %s' gives it up", v.GetName(), v.GetName())}
			}
		case blixardv1.Phase_PHASE_STOPPED:
			if st.GetReason() == "HostDrained" {
				return false, &failure{code: exitConflict, what: fmt.Sprintf("VM %s does not start", v.GetName()), why: st.GetMessage(),
					next: "blixard node restore " + v.GetPlacement().GetNode()}
			}
			if later && !v.GetRun() {
				return false, &failure{code: exitConflict, what: fmt.Sprintf("VM %s was stopped meanwhile", v.GetName())}
			}
			if later && st.GetAttempt() > 0 && v.GetSpec().GetRestart() != blixardv1.RestartPolicy_RESTART_POLICY_ALWAYS &&
				v.GetSpec().GetRestart() != blixardv1.RestartPolicy_RESTART_POLICY_UNSPECIFIED {
				return true, nil // it ran, ended, and shall not run again
			}
		case blixardv1.Phase_PHASE_FAILED:
			if later && v.GetSpec().GetRestart() == blixardv1.RestartPolicy_RESTART_POLICY_NEVER {
				return false, &failure{code: exitError, what: fmt.Sprintf("VM %s failed and will not be restarted", v.GetName()),
					why: st.GetMessage(), next: "blixard vm logs " + v.GetName()}
			}
		}
		return false, nil
	}
}

// paused is done once the VM is kept where it is.
func paused(v *blixardv1.VM) (bool, error) {
	switch {
	case v == nil || v.GetDeleting():
		return false, &failure{code: exitConflict, what: "the VM is gone", why: errGone.Error()}
	case !v.GetPaused():
		return false, &failure{code: exitConflict, what: fmt.Sprintf("VM %s was resumed, stopped or restarted meanwhile", v.GetName())}
	}
	return v.GetStatus().GetPhase() == blixardv1.Phase_PHASE_PAUSED && v.GetStatus().GetReason() == "Paused", nil
}

// resumed is done once a VM that was paused is so no more, whatever it does then.
func resumed(v *blixardv1.VM) (bool, error) {
	switch {
	case v == nil || v.GetDeleting():
		return false, &failure{code: exitConflict, what: "the VM is gone", why: errGone.Error()}
	case v.GetPaused():
		return false, &failure{code: exitConflict, what: fmt.Sprintf("VM %s was paused again meanwhile", v.GetName())}
	}
	return v.GetStatus().GetPhase() != blixardv1.Phase_PHASE_PAUSED, nil
}

// When running counts: once it was placed, in another attempt than before, or
// with the newest spec.

func placed(_, v *blixardv1.VM) bool {
	return v.GetStatus().GetAttempt() > 0 || v.GetPlacement() != nil
}

func again(from, v *blixardv1.VM) bool {
	return v.GetStatus().GetAttempt() > from.GetStatus().GetAttempt() ||
		v.GetPlacement().GetIncarnation().GetIndex() != from.GetPlacement().GetIncarnation().GetIndex()
}

func renewed(from, v *blixardv1.VM) bool {
	return v.GetStatus().GetSpecGeneration() >= from.GetSpecGeneration()
}

func stopped(v *blixardv1.VM) (bool, error) {
	if v == nil {
		return false, &failure{code: exitConflict, what: "the VM is gone", why: errGone.Error()}
	}
	if v.GetRun() {
		return false, &failure{code: exitConflict, what: fmt.Sprintf("VM %s was started meanwhile", v.GetName())}
	}
	return v.GetStatus().GetPhase() == blixardv1.Phase_PHASE_STOPPED, nil
}

func gone(v *blixardv1.VM) (bool, error) { return v == nil, nil }
