package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// parsed is a command line as kong reads it.
func parsed(t *testing.T, args ...string) *CLI {
	t.Helper()
	var cli CLI
	k, err := kong.New(&cli)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Parse(args); err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	return &cli
}

func TestFlakeFlag(t *testing.T) {
	for text, want := range map[string]struct{ ref, path, attribute string }{
		".#web":                       {path: ".", attribute: "web"},
		"./infra#web":                 {path: "./infra", attribute: "web"},
		"../infra":                    {path: "../infra"},
		"/srv/infra#a.b.c":            {path: "/srv/infra", attribute: "a.b.c"},
		"path:./infra#web":            {path: "./infra", attribute: "web"},
		"#web":                        {path: ".", attribute: "web"},
		"github:me/infra#web":         {ref: "github:me/infra", attribute: "web"},
		"git+https://x/y?dir=z&rev=a": {ref: "git+https://x/y?dir=z&rev=a"},
	} {
		d, err := parsed(t, "vm", "create", "web", "--flake", text, "--memory", "1024").VM.Create.draft()
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		f := d.spec.GetFlake()
		path := ""
		if len(d.refs) == 1 && d.refs[0].folder && d.refs[0].target == f.GetPacked() {
			path = d.refs[0].text
		}
		if f.GetRef() != want.ref || path != want.path || f.GetAttribute() != want.attribute || d.spec.MemoryMib != 1024 {
			t.Errorf("%s: %v, packed %q", text, f, path)
		}
	}
	for text, want := range map[string]string{"infra#web": "./infra", "me/infra": "github:me/infra"} {
		_, err := parsed(t, "vm", "create", "web", "--flake", text).VM.Create.draft()
		var f *failure
		if !errors.As(err, &f) || f.code != exitUsage || !strings.Contains(f.next, want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := parsed(t, "vm", "create", "web", "--flake", ".", "--kernel", "x").VM.Create.draft(); err == nil {
		t.Error("a flake with a kernel")
	}
}

func TestFlakePathInAFile(t *testing.T) {
	drafts, err := parseSpecs([]byte("name: a\nflake: {path: ./infra, attribute: web}"), "f", "/base")
	if err != nil || len(drafts[0].refs) != 1 || !drafts[0].refs[0].folder || drafts[0].refs[0].path() != "/base/infra" ||
		drafts[0].spec.GetFlake().GetPacked() != drafts[0].refs[0].target {
		t.Errorf("%+v, %v", drafts, err)
	}
	for in, want := range map[string]string{
		"name: a\nflake:\n  ref: ./infra":                         "f:3: flake.ref: ./infra is on this machine only; write path: ./infra",
		"name: a\nflake:\n  ref: path:/srv/infra":                 "write path: /srv/infra",
		"name: a\nflake: {path: a, packed: b}":                    "packed is there twice",
		"name: a\nflake: {path: a, ref: 'github:a/b'}":            "flake has either packed or ref, not both",
		"name: a\nnixos: {modules: [{file: [a]}]}":                "nixos.modules[0].file",
		"name: a\nnixos: {volumes: [{data: {path: x, size: 1}}]}": `did you mean "size_mib"?`,
	} {
		if _, err := parseSpecs([]byte(in), "f", "/base"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

// Flags change what they say of the spec that there is, and nothing else.
func TestUpdateByFlags(t *testing.T) {
	vm := &blixardv1.VM{Name: "web", Spec: &blixardv1.VMSpec{
		Vcpus: 2, MemoryMib: 512, Priority: 5, Prebuild: 2, Labels: map[string]string{"a": "1"}, StopGraceMs: 1000,
		Restart: blixardv1.RestartPolicy_RESTART_POLICY_ALWAYS, OnHostLoss: blixardv1.OnHostLoss_ON_HOST_LOSS_REPLACE,
		Source: &blixardv1.VMSpec_Image{Image: &blixardv1.Image{Kernel: &blixardv1.Artifact{Digest: "k"}, Cmdline: "quiet"}},
	}}
	for _, c := range []struct {
		args string
		want func(*blixardv1.VMSpec)
	}{
		{"--memory 1024", func(s *blixardv1.VMSpec) { s.MemoryMib = 1024 }},
		{"--priority 0 --prebuild 0", func(s *blixardv1.VMSpec) { s.Priority, s.Prebuild = 0, 0 }},
		{"--label b=2 --label a=3", func(s *blixardv1.VMSpec) { s.Labels = map[string]string{"a": "3", "b": "2"} }},
		{"--restart --restart-policy never", func(s *blixardv1.VMSpec) { s.Restart = blixardv1.RestartPolicy_RESTART_POLICY_NEVER }},
		{"--on-update restart", func(s *blixardv1.VMSpec) { s.OnUpdate = blixardv1.OnUpdate_ON_UPDATE_RESTART }},
		{"--cmdline=", func(s *blixardv1.VMSpec) { s.GetImage().Cmdline = "" }},
		{"--kernel new", func(s *blixardv1.VMSpec) { s.GetImage().Kernel = &blixardv1.Artifact{} }},
		{"--disk name=x,size=1", func(s *blixardv1.VMSpec) {
			s.GetImage().Disks = []*blixardv1.Disk{{Name: "x", SizeMib: 1}}
			s.OnHostLoss = blixardv1.OnHostLoss_ON_HOST_LOSS_UNSPECIFIED // else the disk would be lost with its host
		}},
		{"--disk name=x,size=1 --on-host-loss replace", func(s *blixardv1.VMSpec) {
			s.GetImage().Disks = []*blixardv1.Disk{{Name: "x", SizeMib: 1}}
		}},
		{"--process -- /bin/true", func(s *blixardv1.VMSpec) { s.Source = processSource("/bin/true") }},
	} {
		u := parsed(t, append([]string{"vm", "update", "web"}, strings.Fields(c.args)...)...).VM.Update
		before := proto.CloneOf(vm)
		d, err := u.draft(vm)
		want := proto.CloneOf(vm.Spec)
		c.want(want)
		if err != nil || !proto.Equal(d.spec, want) || !proto.Equal(vm, before) {
			t.Errorf("%s: %v\n got %v\nwant %v", c.args, err, d, want)
		}
	}
	for args, want := range map[string]string{
		"web":                            "nothing was said to change",
		"web --restart":                  "nothing was said to change",
		"":                               "which VM",
		"-f x --memory 1":                "-f says everything",
		"web --restart never --memory 1": "--restart-policy sets the policy",
		"web --env A=1":                  "--env is for --process only",
	} {
		u := parsed(t, append([]string{"vm", "update"}, strings.Fields(args)...)...).VM.Update
		drafts, err := u.drafts(&terminal{})
		if err == nil && drafts == nil {
			_, err = u.draft(vm)
		}
		if err == nil || asFailure(err).code != exitUsage || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func processSource(argv ...string) *blixardv1.VMSpec_Process {
	return &blixardv1.VMSpec_Process{Process: &blixardv1.Process{Argv: argv}}
}

// nixVM is a VM that Nix builds, with spec generation 3, as its host sees it.
func nixVM(phase blixardv1.Phase, runs, has uint32, change ...func(*blixardv1.VM)) *blixardv1.VM {
	v := &blixardv1.VM{Name: "web", Uid: "1-1", Run: true, SpecGeneration: 3, Placement: &blixardv1.Placement{NodeId: 1},
		Spec:   &blixardv1.VMSpec{Source: &blixardv1.VMSpec_Nixos{Nixos: &blixardv1.Nixos{}}},
		Status: &blixardv1.VMStatus{Phase: phase, Attempt: 1, SpecGeneration: runs, BuiltGeneration: has, Sequence: 10}}
	for _, f := range change {
		f(v)
	}
	return v
}

// first is what comes of waiting for two things, one after the other.
func first(one, other string) string {
	if one != "done" {
		return one
	}
	return other
}

func TestWaitingForBuilds(t *testing.T) {
	const up, failed = blixardv1.Phase_PHASE_RUNNING, blixardv1.Phase_PHASE_FAILED
	from := nixVM(up, 2, 2, func(v *blixardv1.VM) { v.Status.Sequence = 9 })
	says := func(s string) func(*blixardv1.VM) { return func(v *blixardv1.VM) { v.Status.BuildMessage = s } }
	runner := func(nodes, prepared []uint64) func(*blixardv1.VM) {
		return func(v *blixardv1.VM) {
			v.Runner, v.PreparedNodes = &blixardv1.Runner{StorePath: "/nix/store/x", Nodes: nodes}, prepared
		}
	}
	old := func(v *blixardv1.VM) { v.Status.Sequence = 9 }
	for name, c := range map[string]struct {
		v                   *blixardv1.VM
		built, ready, renew string // "": not yet; "done"; or words of the failure
	}{
		"is being built":        {v: nixVM(up, 2, 2)},
		"is built":              {nixVM(up, 2, 3, runner([]uint64{1}, nil)), "done", "done", ""},
		"runs with it":          {nixVM(up, 3, 0, runner([]uint64{1}, nil)), "done", "done", "done"},
		"not on all hosts":      {nixVM(up, 3, 3, runner([]uint64{1, 4}, []uint64{4, 5})), "done", "", "done"},
		"on all hosts":          {nixVM(up, 3, 3, runner([]uint64{1, 4, 5}, []uint64{4, 5})), "done", "done", "done"},
		"fails beside":          {nixVM(up, 2, 2, says("error: no\nreally")), "it goes on with generation 2", "it goes on", "vm rollback web"},
		"failed before":         {v: nixVM(up, 2, 2, says("error: no"), old)},
		"fails before a start":  {nixVM(failed, 0, 0, func(v *blixardv1.VM) { v.Status.Reason = "BuildFailed" }), "could not be built", "could not", "vm logs --build web"},
		"crashes":               {v: nixVM(failed, 2, 2)},
		"is stopped":            {nixVM(blixardv1.Phase_PHASE_STOPPED, 2, 2, func(v *blixardv1.VM) { v.Run = false }), "done", "done", ""},
		"is deleted":            {nil, "gone", "gone", "gone"},
		"updated once more":     {nixVM(up, 2, 2, func(v *blixardv1.VM) { v.SpecGeneration = 4 }), "done", "done", ""},
		"an image that crashes": {v: nixVM(failed, 2, 2, func(v *blixardv1.VM) { v.Spec.Source, v.Status.Reason = processSource("x"), "BuildFailed" })},
	} {
		for what, w := range map[string]struct {
			want string
			is   func(*blixardv1.VM) (bool, error)
		}{"built": {c.built, built(from, false)}, "prepared": {c.ready, built(from, true)}, "renewed": {c.renew, running(from, renewed)},
			"renewed and prepared": {first(c.renew, c.ready), both(running(from, renewed), built(from, true))}} {
			ok, err := w.is(c.v)
			got := map[bool]string{true: "done"}[ok]
			if err != nil {
				f := asFailure(err)
				got = f.what + " " + f.why + " " + f.next
			}
			if w.want == "" && got != "" || !strings.Contains(got, w.want) {
				t.Errorf("%s, %s: want %q, got %q", name, what, w.want, got)
			}
		}
	}
}

func TestBuildNotes(t *testing.T) {
	const up = blixardv1.Phase_PHASE_RUNNING
	node := func(id uint64) string { return map[uint64]string{1: "n1", 2: "n2"}[id] }
	with := func(v *blixardv1.VM) {
		v.Runner = &blixardv1.Runner{StorePath: "/nix/store/abc-web", ClosureBytes: 3 << 30, Nodes: []uint64{1}}
		v.PreparedNodes, v.Spec.Prebuild = []uint64{2}, 3
	}
	for want, v := range map[string]*blixardv1.VM{
		"": {Name: "a", Spec: &blixardv1.VMSpec{}, SpecGeneration: 1},
		"Runner: /nix/store/abc-web (3.0 GiB with all that it refers to), on n1|Held ready on n2; not yet there on n2|It shall be held ready on 3 hosts, and 1 besides its own": nixVM(up, 3, 3, with),
		"Spec generation 3 is being built; it runs with 2 meanwhile":                                          nixVM(up, 2, 2),
		"Spec generation 3 is built, and counts from its next start (blixard vm restart web); it runs with 2": nixVM(up, 2, 3),
		"Spec generation 3 could not be built, and it runs with 2: the build of x failed: error: attribute x missing ...|vm rollback web": nixVM(up, 2, 2, func(v *blixardv1.VM) {
			v.Status.BuildMessage = "the build of x failed: error: attribute x missing\nerror: attribute x missing\n       at a.nix:1"
		}),
	} {
		notes := strings.Join(buildNotes(v, node), "\n")
		for w := range strings.SplitSeq(want, "|") {
			if !strings.Contains(notes, w) || want == "" && notes != "" {
				t.Errorf("want %s\n got %s", w, notes)
			}
		}
	}
}

func TestHistoryTable(t *testing.T) {
	now := time.Now()
	v := nixVM(blixardv1.Phase_PHASE_RUNNING, 2, 2)
	v.Spec.MemoryMib = 1024
	v.Spec.GetNixos().Modules = []*blixardv1.NixosModule{{Source: &blixardv1.NixosModule_FlakePart{FlakePart: "webserver"}}, {Source: &blixardv1.NixosModule_Inline{Inline: "{}"}}}
	r := &blixardv1.GetResponse{Vm: v, History: []*blixardv1.Generation{
		{SpecGeneration: 2, Spec: &blixardv1.VMSpec{MemoryMib: 512, Source: &blixardv1.VMSpec_Flake{Flake: &blixardv1.Flake{
			Attribute: "web", From: &blixardv1.Flake_Packed{Packed: &blixardv1.Artifact{Digest: strings.Repeat("a", 64)}}}}},
			Runner: &blixardv1.Runner{StorePath: "/nix/store/abc-web", ClosureBytes: 1 << 30}, CreateTime: timestamppb.New(now.Add(-time.Hour))},
	}}
	var b bytes.Buffer
	if err := historyTable(r, now).print(&b, true); err != nil {
		t.Fatal(err)
	}
	want := `
GENERATION   STATE              WHAT                              MEMORY   SIZE      REPLACED   RUNNER
3            newest, building   nixos webserver, 1 of its own     1024Mi   -         -          -
2            running            flake packed sha256:aaaaaaaaaaaa#web   512Mi    1.0 GiB   60m        /nix/store/abc-web
blixard vm rollback web [--to GENERATION] takes one back.
`
	if strings.Join(strings.Fields(b.String()), " ") != strings.Join(strings.Fields(want), " ") {
		t.Errorf("%s", &b)
	}
}
