package main

import (
	"slices"
	"strings"
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func TestShareFlag(t *testing.T) {
	s := &blixardv1.VMSpec{}
	if err := (&SpecFlags{Share: []string{"www=/srv/www", "src=/srv/a=b:ro"}}).shares(s); err != nil || len(s.Shares) != 2 ||
		s.Shares[0].Tag != "www" || s.Shares[0].Source != "/srv/www" || s.Shares[0].ReadOnly ||
		s.Shares[1].Source != "/srv/a=b" || !s.Shares[1].ReadOnly {
		t.Fatal(s, err)
	}
	if err := (&SpecFlags{}).shares(s); err != nil || len(s.Shares) != 2 {
		t.Error("no flag changes something")
	}
	for _, bad := range []string{"/srv", "www=srv", "=/srv", "www"} {
		if err := (&SpecFlags{Share: []string{bad}}).shares(s); err == nil {
			t.Error(bad, "is fine")
		}
	}
	if err := (&SpecFlags{Share: []string{"none"}}).shares(s); err != nil || s.Shares != nil {
		t.Error(s.Shares, err)
	}
	d, err := parseSpecs([]byte("name: web\nimage: {kernel: sha256:"+strings.Repeat("a", 64)+"}\nshares:\n  - {tag: www, source: /srv/www, read_only: true}\n"), "f", "")
	if err != nil || len(d[0].spec.Shares) != 1 || !d[0].spec.Shares[0].ReadOnly {
		t.Error(d, err)
	}
	notes := strings.Join(hostNotes(&blixardv1.HostFacts{SharesWhy: "there is no virtiofsd"}), "\n")
	if !strings.Contains(notes, "folders cannot be shared with VMs of images here: there is no virtiofsd") {
		t.Error(notes)
	}
	if notes := strings.Join(hostNotes(&blixardv1.HostFacts{Shares: true, AllowPaths: []string{"/srv", "/data"}}), "\n"); !strings.Contains(notes, "shares of VMs may be in: /srv, /data") {
		t.Error(notes)
	}
}

// A folder that no host allows is told at once, with the flag that allows it; the VM
// starts where a host begins to allow it.
func TestAFolderThatNoHostAllowsIsToldAtOnce(t *testing.T) {
	t.Parallel()
	c := up(t, 1)
	kernel, initrd := guestFiles(t)
	folder := t.TempDir()
	r := c.Fails(exitConflict, []string{"no host can run it: n1 ", "--allow-path " + folder, "blixard vm delete web"},
		"vm", "create", "web", "--kernel", kernel, "--initrd", initrd, "--share", "data="+folder)
	if strings.Contains(r.err, "not done within") {
		t.Error("it waits for its time to be up:", r.err)
	}
	if out := c.Must("vm", "explain", "web"); !strings.Contains(out, "0 of 1 fit") || !strings.Contains(out, "--allow-path "+folder) {
		t.Error(out)
	}
	for _, command := range []string{"up", "serve"} {
		if out := c.Must(command, "--help"); !strings.Contains(out, "--allow-path") {
			t.Error(out)
		}
	}
}

func TestAllowPathFlag(t *testing.T) {
	c := &ServeCmd{Name: "n1", DataDir: t.TempDir(), AllowPath: []string{"/srv", "/data", "/srv"}}
	if cfg, err := c.config(&Globals{}); err != nil || !slices.Equal(cfg.Nix.AllowPaths, []string{"/srv", "/data"}) {
		t.Error(cfg, err)
	}
	c.AllowPath = []string{"srv"}
	if _, err := c.config(&Globals{}); err == nil || !strings.Contains(err.Error(), "--allow-path") {
		t.Error(err)
	}
}
