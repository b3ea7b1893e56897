package main

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// What changes the spec of a VM that is there. Each spec that it had is a
// generation; what Nix builds for one is built while the VM runs on with another.

func (c *VMUpdateCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	drafts, err := c.drafts(t)
	if err != nil {
		return err
	}
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if drafts != nil {
		return s.eachDraft(drafts, func(d *draft) error { return s.update(d, c) })
	}
	r, err := s.VM.Get(s.ctx, connect.NewRequest(&blixardv1.GetRequest{Name: c.Name}))
	if err != nil {
		return err
	}
	d, err := c.draft(r.Msg.GetVm())
	if err != nil {
		return err
	}
	return s.update(d, c)
}

// drafts are the specs in files; nil when flags say what is to change.
func (c *VMUpdateCmd) drafts(t *terminal) ([]*draft, error) {
	how := VMUpdateCmd{Name: c.Name, File: c.File, ValidateOnly: c.ValidateOnly, Restart: c.Restart}
	same := reflect.DeepEqual(how, *c)
	switch {
	case len(c.File) == 0 && c.Name == "":
		return nil, usagef("which VM? give its name and what to change, or -f FILE")
	case len(c.File) == 0 && same:
		return nil, &failure{code: exitUsage, what: "nothing was said to change",
			next: fmt.Sprintf("give -f FILE with the whole new spec, or flags such as --memory or --flake; blixard vm get %s -o yaml shows the spec", c.Name)}
	case len(c.File) == 0:
		return nil, nil
	case !same:
		return nil, usagef("-f says everything of a VM: no other flag of the spec goes with it")
	}
	drafts, err := readAllSpecs(c.File, t)
	if err == nil && c.Name != "" && (len(drafts) != 1 || drafts[0].name != c.Name) {
		return nil, usagef("%s describes %s, not %s alone: leave out the name, or correct it", strings.Join(c.File, " and "), names(drafts), c.Name)
	}
	return drafts, err
}

func names(drafts []*draft) string {
	var s []string
	for _, d := range drafts {
		s = append(s, d.name)
	}
	return strings.Join(s, ", ")
}

// draft is the present spec with what the flags change.
func (c *VMUpdateCmd) draft(vm *blixardv1.VM) (*draft, error) {
	d := &draft{name: c.Name, spec: proto.CloneOf(vm.GetSpec()), read: vm}
	if err := c.SpecFlags.change(d, "--restart-policy", c.RestartPolicy); err != nil {
		return nil, err
	}
	if err := c.detach(d.spec); err != nil {
		return nil, err
	}
	if len(c.Disk)+len(c.Volume)+len(c.Share) > 0 && c.OnHostLoss == "" {
		// What was right without the disk, or the share, may lose it.
		d.spec.OnHostLoss = blixardv1.OnHostLoss_ON_HOST_LOSS_UNSPECIFIED
	}
	err := c.SpecFlags.source(d, c.Argv)
	if err != nil && len(c.Argv) > 0 && c.Restart && !c.Process {
		return nil, usagef("unexpected argument %s; --restart restarts now, and --restart-policy sets the policy", c.Argv[0])
	}
	return d, err
}

func (s *session) update(d *draft, c *VMUpdateCmd) error {
	if err := d.resolve(s.ctx, s.Client, s.terminal); err != nil {
		return err
	}
	return s.change(func(id string) error {
		r, err := s.VM.Update(s.ctx, connect.NewRequest(&blixardv1.UpdateRequest{
			RequestId: id, Name: d.name, Spec: d.spec, ValidateOnly: c.ValidateOnly, Restart: c.Restart,
			Uid: d.read.GetUid(), SpecGeneration: d.read.GetSpecGeneration()}))
		if err != nil {
			return err
		}
		if vm := r.Msg.GetVm(); c.ValidateOnly {
			return s.showValid(vm, "changed")
		}
		return s.settle("update", r.Msg.GetVm(), false)
	})
}

// settle waits until what an answer promised is so, and shows the VM: its host
// has built what the newest spec needs, and it runs with that if it shall.
func (s *session) settle(what string, vm *blixardv1.VM, prebuild bool) error {
	node := ""
	if s.g.Wait {
		done := built(vm, prebuild)
		if vm.GetRun() && (vm.GetRestartWhenBuilt() || idle(vm)) {
			done = both(running(vm, renewed), done)
		}
		var err error
		if vm, node, err = s.await(vm.GetName(), vm.GetUid(), what, done); err != nil {
			return err
		}
	}
	if node == "" {
		node = s.nodeOf(vm)
	}
	return s.showVM(vm, node)
}

// idle says that nothing of a VM runs that an update would leave alone.
func idle(vm *blixardv1.VM) bool {
	switch vm.GetStatus().GetPhase() {
	case blixardv1.Phase_PHASE_PENDING, blixardv1.Phase_PHASE_BUILDING, blixardv1.Phase_PHASE_FAILED:
		return true
	}
	return false
}

func (c *VMRollbackCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	return s.change(func(id string) error {
		r, err := s.VM.Rollback(s.ctx, connect.NewRequest(&blixardv1.RollbackRequest{
			RequestId: id, Name: c.Name, SpecGeneration: c.To, Restart: c.Restart}))
		if err != nil {
			return err
		}
		return s.settle("rollback", r.Msg.GetVm(), false)
	})
}

func (c *VMBuildCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	if c.Restart && !c.Refresh {
		return usagef("--restart goes with --refresh; blixard vm restart restarts a VM with what is built")
	}
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	return s.each(c.Names, func(name string) error {
		return s.change(func(id string) error {
			r, err := s.VM.Build(s.ctx, connect.NewRequest(&blixardv1.BuildRequest{
				RequestId: id, Name: name, Refresh: c.Refresh, Prebuild: c.Prebuild, Restart: c.Restart}))
			if err != nil {
				return err
			}
			return s.settle("build", r.Msg.GetVm(), c.Prebuild != nil)
		})
	})
}

func (c *VMHistoryCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	r, err := s.VM.Get(s.ctx, connect.NewRequest(&blixardv1.GetRequest{Name: c.Name}))
	if err != nil {
		return err
	}
	return s.show(g, r.Msg, func() table { return historyTable(r.Msg, time.Now()) })
}

// historyTable has the newest spec first.
func historyTable(r *blixardv1.GetResponse, now time.Time) table {
	t := table{
		head: []string{"GENERATION", "STATE", "WHAT", "MEMORY", "SIZE", "REPLACED"},
		wide: []string{"RUNNER"},
	}
	vm := r.GetVm()
	row := func(n uint32, spec *blixardv1.VMSpec, runner *blixardv1.Runner, replaced string) {
		size := ""
		if runner.GetClosureBytes() > 0 {
			size = bytesText(runner.GetClosureBytes())
		}
		t.names = append(t.names, fmt.Sprint(n))
		t.rows = append(t.rows, []string{fmt.Sprint(n), generationState(vm, n), sourceText(spec), mib(spec.GetMemoryMib()), size, replaced, runner.GetStorePath()})
	}
	row(vm.GetSpecGeneration(), vm.GetSpec(), vm.GetRunner(), "")
	for _, h := range slices.Backward(r.GetHistory()) {
		row(h.GetSpecGeneration(), h.GetSpec(), h.GetRunner(), age(h.GetCreateTime(), now))
	}
	if len(r.GetHistory()) > 0 {
		t.notes = []string{fmt.Sprintf("blixard vm rollback %s [--to GENERATION] takes one back.", vm.GetName())}
	}
	return t
}

// generationState is what a spec is to its VM now.
func generationState(vm *blixardv1.VM, n uint32) string {
	var s []string
	newest := n == vm.GetSpecGeneration()
	if newest {
		s = append(s, "newest")
	}
	if vm.GetStatus().GetSpecGeneration() == n && vm.GetStatus().GetPhase() == blixardv1.Phase_PHASE_RUNNING {
		s = append(s, "running")
	}
	switch {
	case !newest || !nixBuilt(vm) || !vm.GetRun():
	case vm.GetStatus().GetBuildMessage() != "":
		s = append(s, "build failed")
	case builds(vm):
		s = append(s, "building")
	}
	return strings.Join(s, ", ")
}

// sourceText says in a word or two what a spec boots.
func sourceText(s *blixardv1.VMSpec) string {
	switch {
	case s.GetFlake() != nil:
		from := s.GetFlake().GetRef()
		if p := s.GetFlake().GetPacked(); p != nil {
			from = "packed " + shortDigest(p)
		}
		if a := s.GetFlake().GetAttribute(); a != "" {
			from += "#" + a
		}
		return "flake " + from
	case s.GetNixos() != nil:
		var parts []string
		for _, m := range s.GetNixos().GetModules() {
			if p := m.GetFlakePart(); p != "" {
				parts = append(parts, p)
			}
		}
		if n := len(s.GetNixos().GetModules()) - len(parts); n > 0 {
			parts = append(parts, fmt.Sprintf("%d of its own", n))
		}
		return strings.TrimSpace("nixos " + strings.Join(parts, ", "))
	case s.GetImage() != nil:
		return "image " + shortDigest(s.GetImage().GetKernel())
	case s.GetProcess() != nil:
		return "process " + s.GetProcess().GetArgv()[0]
	}
	return ""
}

func shortDigest(a *blixardv1.Artifact) string {
	return "sha256:" + a.GetDigest()[:min(12, len(a.GetDigest()))]
}

// buildNotes say what is built for a VM, where it is, and what its next start
// will be with.
func buildNotes(v *blixardv1.VM, node func(id uint64) string) (notes []string) {
	note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	st, gen := v.GetStatus(), v.GetSpecGeneration()
	nodes := func(ids []uint64) string {
		var s []string
		for _, id := range ids {
			s = append(s, node(id))
		}
		return strings.Join(s, ", ")
	}
	if r := v.GetRunner(); r != nil {
		note("Runner: %s (%s with all that it refers to), on %s", r.GetStorePath(), bytesText(r.GetClosureBytes()), or(nodes(r.GetNodes()), "no host"))
	}
	if want := v.GetPreparedNodes(); len(want) > 0 {
		text := "Held ready on " + nodes(want)
		if missing := unprepared(v); len(missing) > 0 {
			text += "; not yet there on " + nodes(missing)
		}
		note("%s", text)
	}
	if n := v.GetSpec().GetPrebuild(); n > uint32(len(v.GetPreparedNodes())) && v.GetRunner() != nil {
		note("It shall be held ready on %d hosts, and %d besides its own can run it; blixard vm explain %s says why not others", n, len(v.GetPreparedNodes()), v.GetName())
	}
	runs := st.GetSpecGeneration()
	switch {
	case gen <= 1 || runs == 0 || runs >= gen || !v.GetRun():
	case st.GetBuildMessage() != "":
		note("Spec generation %d could not be built, and it runs with %d: %s", gen, runs, firstLine(st.GetBuildMessage()))
		note("blixard vm logs --build %s shows more; blixard vm rollback %s takes the spec back", v.GetName(), v.GetName())
	case !ready(v):
		note("Spec generation %d is being built; it runs with %d meanwhile", gen, runs)
	case v.GetRestartWhenBuilt():
		note("Spec generation %d is built, and it is being restarted with that", gen)
	default:
		note("Spec generation %d is built, and counts from its next start (blixard vm restart %s); it runs with %d", gen, v.GetName(), runs)
	}
	return notes
}

// nodeNames names the nodes that a VM's runner is on, if they are soon known.
func (s *session) nodeNames(vm *blixardv1.VM) func(uint64) string {
	known := map[uint64]string{}
	if len(vm.GetRunner().GetNodes()) > 0 || len(vm.GetPreparedNodes()) > 0 {
		ctx, cancel := context.WithTimeout(s.ctx, time.Second)
		defer cancel()
		if r, err := s.Node.List(ctx, connect.NewRequest(&blixardv1.NodeServiceListRequest{Stale: true})); err == nil {
			for _, n := range r.Msg.GetNodes() {
				known[n.GetId()] = n.GetName()
			}
		}
	}
	return func(id uint64) string { return or(known[id], fmt.Sprintf("node %d", id)) }
}
