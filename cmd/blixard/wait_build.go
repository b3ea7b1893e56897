package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A build takes longer than anything else that is waited for, fails for reasons
// that only its log tells, and goes on beside a VM that runs.

// buildPatience is how long we wait for a VM that Nix builds, unless --timeout
// says otherwise: as long as a host lets one build last, and something for what
// is before and after it.
const buildPatience = time.Hour + 5*time.Minute

func nixBuilt(v *blixardv1.VM) bool {
	return v.GetSpec().GetNixos() != nil || v.GetSpec().GetFlake() != nil
}

// ready says that the host has everything that the newest spec needs.
func ready(v *blixardv1.VM) bool {
	st := v.GetStatus()
	return st.GetBuiltGeneration() >= v.GetSpecGeneration() || st.GetSpecGeneration() >= v.GetSpecGeneration()
}

// builds says that a host has to build, or get, what Nix makes of the newest spec.
func builds(v *blixardv1.VM) bool {
	return nixBuilt(v) && v.GetRun() && v.GetPlacement() != nil && !v.GetDeleting() && !ready(v)
}

// lifeText is how a VM is, in a few words.
func lifeText(v *blixardv1.VM, node string) string {
	s := phaseText(v)
	if node != "" {
		s += " on " + node
	}
	st := v.GetStatus()
	if builds(v) && st.GetPhase() != blixardv1.Phase_PHASE_BUILDING && st.GetPhase() != blixardv1.Phase_PHASE_FAILED {
		s += fmt.Sprintf(", building spec generation %d", v.GetSpecGeneration())
	}
	if m := st.GetMessage(); m != "" {
		s += ": " + oneLine(firstLine(m))
	}
	return s
}

// unbuildable is why the newest spec of a VM cannot be built, if its host said so
// after from: it tries again by itself, but seldom with another outcome.
func unbuildable(from, v *blixardv1.VM) error {
	st := v.GetStatus()
	if !nixBuilt(v) || ready(v) || st.GetSequence() <= from.GetStatus().GetSequence() {
		return nil
	}
	f := &failure{code: exitError, next: fmt.Sprintf("blixard vm logs --build %s shows how it came to that; its host tries again by itself", v.GetName())}
	switch {
	case st.GetBuildMessage() != "":
		f.what = fmt.Sprintf("spec generation %d of VM %s could not be built; it goes on with generation %d", v.GetSpecGeneration(), v.GetName(), st.GetSpecGeneration())
		f.why = st.GetBuildMessage()
		f.next += fmt.Sprintf("; blixard vm rollback %s takes the spec back", v.GetName())
	case st.GetPhase() == blixardv1.Phase_PHASE_FAILED && st.GetReason() == "BuildFailed":
		f.what = fmt.Sprintf("VM %s could not be built", v.GetName())
		f.why = st.GetMessage()
		f.next += fmt.Sprintf("; blixard vm update %s gives it another spec, blixard vm delete %s ends it", v.GetName(), v.GetName())
	default:
		return nil
	}
	f.why = fewLines(f.why, 12)
	return f
}

// fewLines is a text for explain, without its middle when that is long: Nix says
// first what failed, and last why.
func fewLines(s string, most int) string {
	lines := strings.Split(printable(strings.TrimSpace(s)), "\n")
	if len(lines) > most {
		lines = slices.Concat(lines[:1], []string{"..."}, lines[len(lines)-most+2:])
	}
	return strings.Join(lines, "\n           ")
}

// firstLine is what a message of several lines comes to.
func firstLine(s string) string {
	first, rest, _ := strings.Cut(strings.TrimSpace(s), "\n")
	if rest != "" {
		first += " ..."
	}
	return first
}

// built is done once the host of a VM has what its newest spec needs, and with
// prebuild the other hosts too. What a VM needs that is stopped, or has no host,
// is built when it is started.
func built(from *blixardv1.VM, prebuild bool) func(*blixardv1.VM) (bool, error) {
	return func(v *blixardv1.VM) (bool, error) {
		if v == nil || v.GetDeleting() {
			return false, &failure{code: exitConflict, what: "the VM is gone", why: errGone.Error()}
		}
		if !v.GetRun() || v.GetSpecGeneration() > from.GetSpecGeneration() {
			return true, nil
		}
		if err := unbuildable(from, v); err != nil {
			return false, err
		}
		if !ready(v) {
			return false, nil
		}
		return !prebuild || v.GetRunner() != nil && len(unprepared(v)) == 0, nil
	}
}

// both is done once one is, and then the other.
func both(one, other func(*blixardv1.VM) (bool, error)) func(*blixardv1.VM) (bool, error) {
	return func(v *blixardv1.VM) (bool, error) {
		if ok, err := one(v); !ok || err != nil {
			return ok, err
		}
		return other(v)
	}
}

// unprepared are the hosts that are to hold a VM's runner ready, and do not yet.
func unprepared(v *blixardv1.VM) (nodes []uint64) {
	has := map[uint64]bool{}
	for _, id := range v.GetRunner().GetNodes() {
		has[id] = true
	}
	for _, id := range v.GetPreparedNodes() {
		if !has[id] {
			nodes = append(nodes, id)
		}
	}
	return nodes
}

// buildLines reads a build's log while somebody watches the progress.
type buildLines struct {
	cancel context.CancelFunc
	over   chan struct{}

	mu   sync.Mutex
	line string
}

func (s *session) followBuild(name string) *buildLines {
	ctx, cancel := context.WithCancel(s.parent)
	b := &buildLines{cancel: cancel, over: make(chan struct{})}
	go func() {
		defer close(b.over)
		for ctx.Err() == nil {
			b.follow(ctx, s, name)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}()
	return b
}

// follow keeps the last line of one stream. That it cannot be had is no news:
// the log comes when the build begins.
func (b *buildLines) follow(ctx context.Context, s *session, name string) {
	stream, err := s.VM.Logs(ctx, connect.NewRequest(&blixardv1.LogsRequest{Name: name, Build: true, Follow: true, TailBytes: 4096}))
	if err != nil {
		return
	}
	defer stream.Close()
	rest := ""
	for stream.Receive() {
		lines := strings.Split(rest+string(stream.Msg().GetData()), "\n")
		rest = shorten(lines[len(lines)-1], 1000)
		for i := len(lines) - 1; i >= 0; i-- {
			if l := strings.TrimSpace(oneLine(lines[i])); l != "" {
				b.mu.Lock()
				b.line = l
				b.mu.Unlock()
				break
			}
		}
	}
}

// last is the last line, to be put behind what is shown anyhow.
func (b *buildLines) last() string {
	if b == nil {
		return ""
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.line == "" {
		return ""
	}
	return " | " + b.line
}

func (b *buildLines) close() {
	if b != nil {
		b.cancel()
		<-b.over
	}
}
