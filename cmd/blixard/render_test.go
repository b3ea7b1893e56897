package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/nixflake"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

var rewrite = flag.Bool("rewrite", false, "write testdata/flakes anew")

const testdata = "../../testdata"

// specNames are the matrix: hypervisors, profiles and devices.
func specNames(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob(testdata + "/specs/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no specs: ", err)
	}
	for _, f := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(f), ".yaml"))
	}
	return names
}

func renderTo(t *testing.T, spec, dir string, flags ...string) {
	t.Helper()
	var out, errs bytes.Buffer
	args := append([]string{"vm", "render", "-f", spec, "-o", dir}, flags...)
	if code := run(args, nil, &out, &errs); code != 0 {
		t.Fatalf("%v: exit %d: %s", args, code, &errs)
	}
}

// readTree reads the files below a folder, except our own modules.
func readTree(t *testing.T, dir string) map[string]string {
	t.Helper()
	tree := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, path)
		if err != nil || d.IsDir() || strings.HasPrefix(rel, "blixard-modules") || rel == "evaluated.json" {
			return err
		}
		b, err := os.ReadFile(path)
		tree[rel] = string(b)
		return err
	})
	if err != nil && !*rewrite {
		t.Fatal(err)
	}
	return tree
}

// Every spec renders to the very bytes in testdata/flakes; -rewrite makes them.
func TestRenderGolden(t *testing.T) {
	for _, name := range specNames(t) {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "flake")
			for range 2 { // the second time into the same folder
				renderTo(t, filepath.Join(testdata, "specs", name+".yaml"), dir, "--uid", "1-17", "--cluster-id", "golden")
			}
			golden := filepath.Join(testdata, "flakes", name)
			got := readTree(t, dir)
			if *rewrite {
				for _, old := range []string{"flake.nix", "modules", "source"} {
					if err := os.RemoveAll(filepath.Join(golden, old)); err != nil {
						t.Fatal(err)
					}
				}
				for path, text := range got {
					if err := writeFile(filepath.Join(golden, path), []byte(text), 0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
			want := readTree(t, golden)
			for path := range want {
				if got[path] != want[path] {
					t.Errorf("%s: -rewrite if this is meant\n%s", path, got[path])
				}
			}
			if len(got) != len(want) {
				t.Errorf("%d files, want %d", len(got), len(want))
			}
		})
	}
}

func TestRenderRefuses(t *testing.T) {
	dir := t.TempDir()
	spec := func(text string) string {
		path := filepath.Join(dir, "spec.yaml")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	busy := filepath.Join(dir, "busy")
	if err := writeFile(filepath.Join(busy, "flake.nix"), []byte("{ }"), 0o644); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"name: a\nprocess: {argv: [/bin/true]}":                                    "which Nix does not build",
		"name: a\nhypervisor: firecracker\nnixos: {networks: [user: {}]}":          "Firecracker has no user network",
		"name: a\nhypervisor: qemu\nmemory_mib: 2048\nnixos: {}":                   "QEMU hangs at exactly 2048 MiB",
		"name: a\nnixos: {modules: [{file: ./nothing.nix}]}":                       "no such file",
		"name: a\nnixos: {modules: [{file: 'sha256:00'}]}":                         "render asks none",
		"name: a\nnixos: {modules: [{inline: a, file: b}]}":                        "nixos.modules[0] has either inline or file",
		"name: a\nflake: {packed: .}":                                              "there is no flake.nix",
		"name: a\nnixos: {volumes: [{data: {path: x.img, size: 1}}]}":              `did you mean "size_mib"?`,
		"name: a\nnixos: {shares: [{tag: a, source: /b, mount_point: ../../etc}]}": "shares[0].mount_point",
	} {
		var out, errs bytes.Buffer
		code := run([]string{"vm", "render", "-f", spec(text), "-o", filepath.Join(dir, "out")}, nil, &out, &errs)
		if code == 0 || !strings.Contains(errs.String(), want) {
			t.Errorf("%s\nexit %d, %s\nwant %s", text, code, &errs, want)
		}
	}
	for _, args := range [][]string{
		{"vm", "render", "-f", spec("name: a\nnixos: {}")},
		{"vm", "render", "-f", spec("name: a\nnixos: {}"), "-o", busy},
		{"modules", "-o", busy},
		{"modules"},
		{"vm", "list", "-o", "tabel"},
	} {
		var out, errs bytes.Buffer
		if code := run(args, nil, &out, &errs); code != exitUsage {
			t.Errorf("%v: exit %d, %s", args, code, &errs)
		}
	}
}

func TestModulesCommand(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "modules")
	for range 2 {
		var out, errs bytes.Buffer
		if code := run([]string{"modules", "-o", dir}, nil, &out, &errs); code != 0 {
			t.Fatalf("exit %d: %s", code, &errs)
		}
	}
	for _, f := range []string{"flake.nix", "flake-module.nix", "core/microvm.nix", "core/networking.nix", "core/storage.nix",
		"profiles/webserver.nix", "profiles/database.nix", "profiles/container.nix", "profiles/monitoring.nix"} {
		if _, err := os.Stat(filepath.Join(dir, f)); err != nil {
			t.Error(err)
		}
	}
}

// evaluated is what testdata/evaluate.nix finds in a rendered flake, as far as
// the spec says what it must be. The rest is compared with evaluated.json.
type evaluated struct {
	Vcpu       uint32
	Mem        uint64
	Hypervisor string
	HostName   string
	Vsock      *uint32
	Interfaces []struct{ Type, ID, Mac string }
	Bridges    []string
	Volumes    []struct {
		Image, MountPoint    string
		AutoCreate, ReadOnly bool
		Size                 uint64
	}
	Shares []struct {
		Tag, Source, MountPoint, Proto string
		ReadOnly                       bool
	}
	Firewall []int
	Services []string
	Kernel   struct {
		Latest bool
		Params []string
	}
	Init           *string
	Warnings       []string
	Runs, Packaged bool
}

// The matrix, against the real nixpkgs, microvm.nix and flake-parts. One
// evaluation takes 5 s of CPU and 0.7 GB, so they go one after another.
func TestMatrix(t *testing.T) {
	nix, work := os.Getenv("BLIXARD_NIX"), os.Getenv("BLIXARD_NIX_WORK")
	if nix == "" || work == "" {
		t.Skip("scripts/nix-matrix runs this, where BLIXARD_NIX_MIRROR names copies of nixpkgs, microvm.nix and flake-parts")
	}
	input := func(name string) string {
		b, err := os.ReadFile(filepath.Join(work, name+".store-path"))
		if err != nil {
			t.Fatalf("scripts/nix-matrix left no %s: %v", name, err)
		}
		return "path:" + strings.TrimSpace(string(b))
	}
	pins := []string{"--nixpkgs", input("nixpkgs"), "--flake-parts", input("flake-parts"), "--microvm", input("microvm"),
		"--uid", "1-17", "--cluster-id", "golden"}
	// The operator's part: the inputs are locked once, for all.
	first := filepath.Join(t.TempDir(), "first")
	renderTo(t, filepath.Join(testdata, "specs", "minimal.yaml"), first, pins...)
	if out, err := exec.Command(nix, "flake", "lock", "--offline", "path:"+first).CombinedOutput(); err != nil {
		t.Fatalf("nix flake lock: %v\n%s", err, out)
	}
	lock, err := os.ReadFile(filepath.Join(first, "flake.lock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := nixflake.CheckLock(lock, nixflake.Pins{Nixpkgs: input("nixpkgs"), FlakeParts: input("flake-parts"), Microvm: input("microvm")}); err != nil {
		t.Error(err)
	}
	pins = append(pins, "--lock", filepath.Join(first, "flake.lock"))
	for _, name := range specNames(t) {
		if strings.HasPrefix(name, "flake-") {
			continue // of their own inputs
		}
		t.Run(name, func(t *testing.T) {
			spec := filepath.Join(testdata, "specs", name+".yaml")
			dir := filepath.Join(t.TempDir(), "flake")
			renderTo(t, spec, dir, pins...)
			out := mustEvaluate(t, nix, dir, name)
			compareEvaluated(t, name, out)
			d, err := readSpecs(spec, nil)
			if err != nil {
				t.Fatal(err)
			}
			var e evaluated
			if err := json.Unmarshal(out, &e); err != nil {
				t.Fatal(err)
			}
			e.check(t, d[0])
		})
	}
	for name, c := range map[string]struct{ spec, want string }{
		"memory-behind-placement": {
			"name: x\nnixos: {modules: [{inline: '{ lib, ... }: { microvm.mem = lib.mkForce 4096; }'}]}",
			"a module changes microvm.mem, vcpu, hypervisor or hotplugMem"},
		"volume-behind-placement": {
			"name: x\nnixos: {modules: [{inline: '{ microvm.volumes = [ { image = \"x.img\"; mountPoint = \"/x\"; size = 1; } ]; }'}]}",
			"a module adds to microvm.volumes"},
		"state-without-a-volume": {
			"name: x\nnixos: {modules: [{flake_part: database}]}",
			"- data: {path: database.img, size_mib: 4096, mount_point: /var/lib/postgresql}"},
		"no-such-module": {
			"name: x\nnixos: {modules: [{flake_part: webserfer}]}",
			"attribute 'webserfer' missing"},
		"no-such-kernel": {
			"name: x\nnixos: {kernel: {package: linuxPackages_best}}",
			"nixpkgs has no kernel packages linuxPackages_best"},
	} {
		t.Run(name, func(t *testing.T) {
			spec, dir := filepath.Join(t.TempDir(), "spec.yaml"), filepath.Join(t.TempDir(), "flake")
			if err := os.WriteFile(spec, []byte(c.spec), 0o644); err != nil {
				t.Fatal(err)
			}
			renderTo(t, spec, dir, pins...)
			out, errs, err := evaluate(t, nix, dir, "x")
			if err == nil || !strings.Contains(errs, c.want) {
				t.Errorf("%v %s\n%s\nwant %s", err, out, last(errs, 3000), c.want)
			}
		})
	}
	t.Run("template-vm", func(t *testing.T) { matrixTemplate(t, nix, input) })
}

// evaluate asks testdata/evaluate.nix what a VM of a flake comes to.
func evaluate(t *testing.T, nix, dir, name string) (out []byte, said string, err error) {
	t.Helper()
	expr, err := filepath.Abs(testdata + "/evaluate.nix")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(nix, "eval", "--offline", "--impure", "--json", "--expr",
		`import (builtins.toPath (builtins.getEnv "EVALUATE")) (builtins.getEnv "FLAKE") (builtins.getEnv "NAME")`)
	cmd.Env = append(os.Environ(), "EVALUATE="+expr, "FLAKE="+dir, "NAME="+name)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err = cmd.Output()
	return out, errs.String(), err
}

func mustEvaluate(t *testing.T, nix, dir, name string) []byte {
	t.Helper()
	out, said, err := evaluate(t, nix, dir, name)
	if err != nil {
		t.Fatalf("%v\n%s", err, last(said, 3000))
	}
	if strings.Contains(said, "warning:") {
		t.Errorf("it warns: %s", said)
	}
	return out
}

// What nix flake init gives works as it stands, without our daemon: the
// template, with its inputs from the copies.
func matrixTemplate(t *testing.T, nix string, input func(string) string) {
	dir, ours := filepath.Join(t.TempDir(), "flake"), filepath.Join(t.TempDir(), "modules")
	var out, errs bytes.Buffer
	if code := run([]string{"modules", "-o", ours}, nil, &out, &errs); code != 0 {
		t.Fatal(&errs)
	}
	b, err := os.ReadFile("../../nixflake/templates/vm/flake.nix")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("github:NixOS/nixpkgs/nixos-unstable", input("nixpkgs"), "github:hercules-ci/flake-parts", input("flake-parts"),
		"github:microvm-nix/microvm.nix", input("microvm"), `"github:blixard/blixard"`, `"path:`+ours+`"`,
		`    blixard.inputs.nixpkgs.follows = "nixpkgs";`, `    microvm.inputs.spectrum.follows = "nixpkgs";`).Replace(string(b))
	if err := writeFile(filepath.Join(dir, "flake.nix"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(nix, "flake", "lock", "--offline", "path:"+dir).CombinedOutput(); err != nil {
		t.Fatalf("nix flake lock: %v\n%s", err, out)
	}
	compareEvaluated(t, "template-vm", mustEvaluate(t, nix, dir, "web"))
}

func compareEvaluated(t *testing.T, name string, out []byte) {
	t.Helper()
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, out, "", "  "); err != nil {
		t.Fatal(err)
	}
	pretty.WriteByte('\n')
	golden := filepath.Join(testdata, "flakes", name, "evaluated.json")
	if *rewrite {
		if err := writeFile(golden, pretty.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || !bytes.Equal(want, pretty.Bytes()) {
		t.Errorf("%s (%v): -rewrite if this is meant\n%s", golden, err, &pretty)
	}
}

// check holds what Nix made of a spec against the spec itself.
func (e *evaluated) check(t *testing.T, d *draft) {
	s, n := proto.Clone(d.spec).(*blixardv1.VMSpec), d.spec.GetNixos()
	if s.Vcpus == 0 {
		s.Vcpus = 1
	}
	if s.MemoryMib == 0 {
		s.MemoryMib = 512
	}
	hypervisor := kebab(s.GetHypervisor().String(), "HYPERVISOR_")
	if s.GetHypervisor() == 0 {
		hypervisor = "cloud-hypervisor"
	}
	if e.Vcpu != s.Vcpus || e.Mem != s.MemoryMib || e.Hypervisor != hypervisor || e.HostName != d.name || !e.Runs || !e.Packaged || len(e.Warnings) > 0 {
		t.Errorf("%+v", e)
	}
	if (e.Vsock == nil) != (hypervisor == "qemu" && n.GetVsockCid() == 0) || n.GetVsockCid() != 0 && *e.Vsock != n.GetVsockCid() {
		t.Errorf("vsock %v", e.Vsock)
	}
	if len(e.Interfaces) != len(n.Networks) || len(e.Volumes) != len(n.Volumes) || len(e.Shares) != len(n.Shares) {
		t.Fatalf("%+v", e)
	}
	bridges := 0
	for i, w := range n.Networks {
		g := e.Interfaces[i]
		if (g.Type == "tap") != (w.GetTap() != nil) || len(g.ID) > 15 || len(g.Mac) != 17 ||
			w.GetTap().GetId() != "" && w.GetTap().GetId() != g.ID || w.GetTap().GetMac() != "" && w.GetTap().GetMac() != g.Mac {
			t.Errorf("network %d: %+v", i, g)
		}
		if b := w.GetTap().GetBridge(); b != "" {
			if want := "ip link set '" + g.ID + "' master '" + b + "'"; bridges >= len(e.Bridges) || e.Bridges[bridges] != want {
				t.Errorf("bridges %q, want %s", e.Bridges, want)
			}
			bridges++
		}
	}
	for i, w := range n.Volumes {
		g := e.Volumes[i]
		image, mount, size := w.GetData().GetPath(), w.GetData().GetMountPoint(), w.GetData().GetSizeMib()
		if r := w.GetRoot(); r != nil {
			image, mount, size = "root.img", "/", r.GetSizeMib()
		}
		if g.Image != image || g.MountPoint != mount || g.Size != size || g.AutoCreate != (size > 0) || g.ReadOnly != w.GetData().GetReadOnly() {
			t.Errorf("volume %d: %+v", i, g)
		}
	}
	for i, w := range n.Shares {
		if g := e.Shares[i]; g.Tag != w.Tag || g.Source != w.Source || g.MountPoint != w.MountPoint || g.ReadOnly != w.ReadOnly || g.Proto != "virtiofs" {
			t.Errorf("share %d: %+v", i, g)
		}
	}
	for _, p := range n.GetKernel().GetParams() {
		if !slices.Contains(e.Kernel.Params, p) {
			t.Errorf("kernel argument %q is not among %q", p, e.Kernel.Params)
		}
	}
	if n.GetInit() != "" && (e.Init == nil || *e.Init != n.GetInit()) {
		t.Errorf("init is %v, want %q", e.Init, n.GetInit())
	}
	for profile, wants := range map[string][]string{
		"webserver": {"nginx"}, "database": {"postgresql"}, "container": {"podman-web"},
		"monitoring": {"prometheus", "grafana", "prometheus-node-exporter", "grafana-secret"},
	} {
		for _, m := range n.Modules {
			for _, service := range wants {
				if m.GetFlakePart() == profile && !slices.Contains(e.Services, service) {
					t.Errorf("%s: no %s among %q", profile, service, e.Services)
				}
			}
		}
	}
	ports := map[string][]int{"-webserver": {8080}, "-database": {5432}, "-container": {8080, 8443}, "-monitoring": {3000, 9090}, "-two-profiles": {443}}
	for suffix, want := range ports {
		if strings.HasSuffix(d.name, suffix) && !slices.Equal(e.Firewall, want) {
			t.Errorf("ports %v, want %v", e.Firewall, want)
		}
	}
}

func last(s string, n int) string { return s[max(0, len(s)-n):] }
