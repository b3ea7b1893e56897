package schedule

import (
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func genHost(t *rapid.T, id uint64) *Host {
	amount := func(name string, top uint64) uint64 { return rapid.Uint64Range(0, top).Draw(t, name) }
	var has []Hypervisor
	for kind := int32(1); kind <= 3; kind++ {
		if rapid.Bool().Draw(t, "has") {
			has = append(has, Hypervisor{kind, amount("can", 3)})
		}
	}
	return &Host{
		ID:          id,
		Hypervisors: has,
		Capacity:    Resources{amount("cpu", 8000), amount("mem", 4096), amount("disk", 4096)},
		Used:        Resources{amount("ucpu", 8000), amount("umem", 4096), amount("udisk", 4096)},
		Instances:   uint32(amount("n", 3)),
		Nix:         rapid.Bool().Draw(t, "canNix"),
		Labels:      rapid.MapOf(rapid.SampledFrom([]string{"zone", "disk"}), rapid.SampledFrom([]string{"a", "b"})).Draw(t, "labels"),
		NoKVM:       rapid.Bool().Draw(t, "nokvm"),
		Cordoned:    rapid.Bool().Draw(t, "cordoned"),
		Suspect:     rapid.Bool().Draw(t, "suspect"),
		Away:        rapid.Bool().Draw(t, "away"),
	}
}

// The dumb alternative: filter by hand, then take the smallest by (load, n, id).
func naive(hosts []*Host, n Need) (uint64, bool) {
	var best *Host
	for _, h := range hosts {
		fits := !h.Away && !h.Cordoned && !h.Suspect &&
			h.Used.MilliCPU+n.MilliCPU <= max(h.Capacity.MilliCPU, h.Used.MilliCPU) &&
			h.Used.MemoryMiB+n.MemoryMiB <= max(h.Capacity.MemoryMiB, h.Used.MemoryMiB) &&
			h.Used.DiskMiB+n.DiskMiB <= max(h.Capacity.DiskMiB, h.Used.DiskMiB)
		for k, v := range n.Require {
			fits = fits && h.Labels[k] == v
		}
		has := false
		for _, a := range n.Accept {
			runs := n.Nix
			for _, hv := range h.Hypervisors {
				runs = runs || hv.ID == a.ID && (len(n.Wants) == 0 || hv.Can&n.Wants[0].Bit != 0)
			}
			has = has || runs && !(a.KVM && h.NoKVM)
		}
		fits = fits && (h.Nix || !n.Nix)
		if !fits || !has {
			continue
		}
		if best == nil || [2]uint32{h.Load(), h.Instances} != [2]uint32{best.Load(), best.Instances} &&
			(h.Load() < best.Load() || h.Load() == best.Load() && h.Instances < best.Instances) {
			best = h
		}
	}
	if best == nil {
		return 0, false
	}
	return best.ID, true
}

func TestChooseIsTheNaiveChoice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var hosts []*Host
		for id := range rapid.Uint64Range(0, 8).Draw(t, "hosts") {
			hosts = append(hosts, genHost(t, id+1))
		}
		need := Need{
			Resources: Resources{rapid.Uint64Range(0, 4000).Draw(t, "cpu"), rapid.Uint64Range(0, 2048).Draw(t, "mem"), 0},
			Accept:    rapid.SliceOfN(rapid.SampledFrom([]Choice{{ID: 1, KVM: true}, {ID: 2}, {ID: 3, KVM: true}}), 1, 3).Draw(t, "accept"),
			Wants:     rapid.SliceOfN(rapid.SampledFrom([]Want{{1, "one"}, {2, "two"}}), 0, 1).Draw(t, "wants"),
			Nix:       rapid.Bool().Draw(t, "nix"),
			Require:   rapid.MapOfN(rapid.Just("zone"), rapid.SampledFrom([]string{"a", "b"}), 0, 1).Draw(t, "require"),
		}
		want, wantOK := naive(hosts, need)
		sort.Slice(hosts, func(i, j int) bool { return hosts[i].Key() < hosts[j].Key() })
		got, hv, ok := Choose(slices.Values(hosts), need)
		if got != want || ok != wantOK {
			t.Fatalf("chose %d, %v; the naive choice is %d, %v", got, ok, want, wantOK)
		}
		if ok && !slices.ContainsFunc(need.Accept, func(k Choice) bool { return k.ID == hv }) {
			t.Fatalf("hypervisor %d was not accepted", hv)
		}
	})
}

// What does not fit keeps out whatever is of its sort and as large.
func TestAtLeast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ports := func(name string) []Port {
			return rapid.SliceOfNDistinct(rapid.SampledFrom([]Port{{Number: 80}, {Number: 81}, {Number: 82}}), 0, 3, rapid.ID).Draw(t, name)
		}
		need := func(name string) Need {
			amount := func(what string) uint64 { return rapid.Uint64Range(0, 3).Draw(t, name+" "+what) }
			return Need{
				Resources: Resources{amount("cpu"), amount("memory"), amount("disk")},
				Accept:    rapid.SampledFrom([][]Choice{{{ID: 1}}, {{ID: 1}, {ID: 2}}}).Draw(t, name+" accept"),
				Wants:     rapid.SliceOfN(rapid.Just(Want{1, "one"}), 0, 1).Draw(t, name+" wants"),
				Nix:       rapid.Bool().Draw(t, name+" nix"),
				Bridges:   rapid.Bool().Draw(t, name+" bridges"),
				Shares:    rapid.Bool().Draw(t, name+" shares"),
				Folders:   rapid.SliceOfN(rapid.SampledFrom([]string{"/a", "/a/b", "/c"}), 0, 2).Draw(t, name+" folders"),
				Ports:     ports(name + " needs"),
				Require:   rapid.MapOfN(rapid.Just("zone"), rapid.SampledFrom([]string{"a", "b"}), 0, 1).Draw(t, name+" require"),
			}
		}
		m, n, h := need("m"), need("n"), genHost(t, 1)
		h.Capacity, h.Used, h.Folders = Resources{2, 2, 2}, Resources{}, []string{"/a/"}
		taken := ports("taken")
		fits := func(n Need) bool { // as the caller does: a host tells what is taken of the ports that are needed
			h.Taken = nil
			for _, p := range n.Ports {
				if slices.Contains(taken, p) {
					h.Taken = append(h.Taken, Taken{Port: p, By: "other"})
				}
			}
			return len(Obstacles(nil, h, n)) == 0
		}
		if n.AtLeast(&m) && !fits(m) && fits(n) {
			t.Fatalf("%+v fits and is at least %+v, which does not: %+v", n, m, h)
		}
		if !m.AtLeast(&m) {
			t.Fatal("a need is as large as itself")
		}
	})
}

func TestObstaclesExplainThemselves(t *testing.T) {
	h := &Host{ID: 1, Capacity: Resources{4000, 1024, 100}, Used: Resources{3500, 1000, 100}, Labels: map[string]string{"zone": "a"}, Cordoned: true}
	need := Need{Resources: Resources{1000, 512, 1}, Accept: []Choice{{ID: 1, Name: "cloud-hypervisor"}, {ID: 2, Name: "qemu"}}, Require: map[string]string{"zone": "b", "gpu": "yes"}}
	want := []string{
		"is cordoned",
		"has no cloud-hypervisor or qemu",
		"lacks the label gpu=yes",
		"has the label zone=a, not b",
		"has 0.5 vcpus free of the 1 needed",
		"has 24 MiB of memory free of the 512 needed",
		"has 0 MiB of disk free of the 1 needed",
	}
	var got []string
	for _, o := range Obstacles(nil, h, need) {
		got = append(got, o.String())
	}
	if !slices.Equal(got, want) {
		t.Fatalf("got\n%q\nwant\n%q", got, want)
	}
}

// Of the hypervisors that a host has, each says why it will not do.
func TestAHypervisorThatIsThereSaysWhyNot(t *testing.T) {
	need := Need{
		Accept: []Choice{{ID: 1, Name: "cloud-hypervisor", KVM: true}, {ID: 2, Name: "qemu"}, {ID: 3, Name: "other"}},
		Wants:  []Want{{1, "pause"}, {2, "shares"}},
	}
	for want, h := range map[string]*Host{
		"": {Hypervisors: []Hypervisor{{1, 3}}},
		"has no usable KVM, which cloud-hypervisor needs":                            {NoKVM: true, Hypervisors: []Hypervisor{{1, 3}}},
		"has no usable KVM, which cloud-hypervisor needs; has no shares in its qemu": {NoKVM: true, Hypervisors: []Hypervisor{{1, 3}, {2, 1}}},
		"has no pause in its qemu":                                                   {Hypervisors: []Hypervisor{{2, 2}}},
		"has no cloud-hypervisor, qemu or other":                                     {Hypervisors: []Hypervisor{{7, 3}}},
	} {
		var got []string
		for _, o := range Obstacles(nil, h, need) {
			got = append(got, o.String())
		}
		if strings.Join(got, "; ") != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	// What Nix builds brings its own, but no KVM.
	need = Need{Nix: true, Accept: []Choice{{ID: 1, Name: "firecracker", KVM: true}}}
	if got := Obstacles(nil, &Host{Nix: true}, need); len(got) != 0 {
		t.Error(got)
	}
	if got := Obstacles(nil, &Host{Nix: true, NoKVM: true}, need); len(got) != 1 || got[0].Kind != KVM {
		t.Error(got)
	}
}

// Equal VMs over equal hosts: every host gets its share.
func TestSpread(t *testing.T) {
	hosts := map[uint64]*Host{}
	for id := uint64(1); id <= 3; id++ {
		hosts[id] = &Host{ID: id, Capacity: Resources{8000, 8192, 8192}, Hypervisors: []Hypervisor{{ID: 1}}}
	}
	need := Need{Resources: Resources{1000, 512, 0}, Accept: []Choice{{ID: 1}}}
	for range 5 {
		sorted := slices.SortedFunc(maps.Values(hosts), func(a, b *Host) int {
			if a.Key() < b.Key() {
				return -1
			}
			return 1
		})
		id, _, ok := Choose(slices.Values(sorted), need)
		if !ok {
			t.Fatal("nothing fits")
		}
		hosts[id].Used = hosts[id].Used.Add(need.Resources)
		hosts[id].Instances++
	}
	for id, h := range hosts {
		if h.Instances == 0 {
			t.Errorf("host %d got nothing", id)
		}
	}
}

func BenchmarkChoose(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			hosts := make([]*Host, n)
			for i := range hosts {
				hosts[i] = &Host{ID: uint64(i + 1), Capacity: Resources{64000, 262144, 1 << 20}, Hypervisors: []Hypervisor{{ID: 1}}}
			}
			need := Need{Resources: Resources{1000, 512, 0}, Accept: []Choice{{ID: 1}}}
			seq := slices.Values(hosts)
			for b.Loop() {
				if _, _, ok := Choose(seq, need); !ok {
					b.Fatal("nothing fits")
				}
			}
		})
	}
}

func TestWithin(t *testing.T) {
	for name, want := range map[string]bool{"/srv": true, "/srv/": true, "/srv/a": true, "/srv/../srv/a": true, "/srv/../etc": false, "/srva": false, "/": false} {
		if got := Within(name, []string{"/data", "/srv/"}); got != want {
			t.Errorf("%s is within: %v", name, got)
		}
	}
	if !Within("/x", []string{"/"}) || Within("/x", nil) {
		t.Error("everything is within /, and nothing is within nothing")
	}
}
