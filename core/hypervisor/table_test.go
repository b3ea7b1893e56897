package hypervisor

import (
	"slices"
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func TestEveryKindIsInTheTableOnce(t *testing.T) {
	for n := int32(1); n < int32(len(blixardv1.Hypervisor_name)); n++ {
		h := blixardv1.Hypervisor(n)
		count := 0
		for _, k := range Table {
			if k.Hypervisor == h {
				count++
			}
		}
		if count != 1 {
			t.Errorf("%v is there %d times", h, count)
		}
	}
	if Get(0) != nil || NameOf(99) != "99" {
		t.Error("what is not known has a kind")
	}
}

// What is not done is said, and what is done is not excused.
func TestEveryAnswerIsSaid(t *testing.T) {
	for _, k := range Table {
		if k.Name == "" || k.MaxVCPUs == 0 {
			t.Errorf("%v has no name or no limit", k.Hypervisor)
		}
		for c := range Capabilities() {
			if (k.Why(c) == "") != (k.Answer(c) == Yes) || (k.Answer(c) == Yes) != k.Can().Has(Of(c)) {
				t.Errorf("%s, %s: %v, %q", k.Name, Name(c), k.Answer(c), k.Why(c))
			}
			if k.why[c] != "" && k.Answer(c) != No {
				t.Errorf("%s: says why it cannot do %s, and can", k.Name, Name(c))
			}
		}
		if !slices.Equal(k.Can().List(), slices.Collect(able(k))) {
			t.Errorf("%s: %v", k.Name, k.Can().List())
		}
	}
}

func able(k Kind) func(func(blixardv1.Capability) bool) {
	return func(yield func(blixardv1.Capability) bool) {
		for c := range Capabilities() {
			if k.Answer(c) == Yes && !yield(c) {
				return
			}
		}
	}
}

func TestWhoIsAble(t *testing.T) {
	if got := Names(Able(Of(nixos, shares))); got != "QEMU or cloud-hypervisor" {
		t.Error(got)
	}
	if got := Names(Able(Of(program))); got != "process" {
		t.Error(got)
	}
	if got := Names(Able(Of(program, shares))); got != "" {
		t.Error(got)
	}
}
