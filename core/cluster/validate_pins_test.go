package cluster

import (
	"strings"
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func TestValidatePins(t *testing.T) {
	lock := &blixardv1.Artifact{Digest: strings.Repeat("a", 64), Size: 10}
	for _, good := range []*blixardv1.Pins{
		nil, {}, {Nixpkgs: "github:NixOS/nixpkgs/nixos-25.11", Lock: lock},
		{Nixpkgs: "path:/srv/nixpkgs", Microvm: "git+file:///srv/microvm?rev=abc"},
	} {
		if err := ValidatePins(good); err != nil {
			t.Errorf("%v: %v", good, err)
		}
	}
	for _, bad := range []*blixardv1.Pins{
		{Nixpkgs: "nixpkgs"}, {Nixpkgs: "path:./nixpkgs"}, {Modules: "path:/a/../b"}, {Microvm: "/etc/${x}"},
		{FlakeParts: "flake:nixpkgs"}, {Lock: &blixardv1.Artifact{Digest: "x", Size: 1}},
		{Lock: &blixardv1.Artifact{Digest: lock.Digest, Size: 2 << 20}},
	} {
		if err := ValidatePins(bad); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
}
