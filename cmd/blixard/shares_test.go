package main

import (
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
}
