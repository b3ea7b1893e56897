package sim

import (
	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A guest goes on only from a boot of its own VM, of what its newest start asked for:
// the same machine, kernel and addresses; and a host keeps so many saved boots, that of
// the newest start among them.
type judgeWarm struct{}

const (
	ownBoot  = "a guest goes on from its own boot"
	fewBoots = "a host keeps few saved boots"
)

// saved looks at a machine on which a boot was just saved.
func (judgeWarm) saved(w *World, m *Machine, uid string) {
	if n := len(m.booted); n > w.mostBoots() || m.booted[uid] == nil {
		w.fail(fewBoots, "%s keeps %d saved boots, that of %s among them: %t", m.Name, n, uid, m.booted[uid] != nil)
	}
}

func (judgeWarm) wentOn(w *World, g *guest, b *savedBoot) {
	w.judges.judged["warm"]++
	same := func(a, b *blixardv1.VMSpec) bool {
		machine := func(s *blixardv1.VMSpec) *blixardv1.VMSpec {
			return &blixardv1.VMSpec{Vcpus: s.Vcpus, MemoryMib: s.MemoryMib, Machine: s.Machine, Source: s.Source, Networks: s.Networks, Volumes: s.Volumes, Shares: s.Shares, Devices: s.Devices, Warm: s.Warm}
		}
		return proto.Equal(machine(a), machine(b))
	}
	ok := same(b.spec, g.dir.warm.asked) && len(b.nets) == len(g.nets)
	for i := range b.nets {
		ok = ok && proto.Equal(b.nets[i], g.nets[i])
	}
	if !ok {
		w.fail(ownBoot, "%s: %s goes on from a boot with %d vcpus, %d MiB and %d interfaces, and was to start with %d, %d and %d", g.m.Name, g.instance,
			b.spec.Vcpus, b.spec.MemoryMib, len(b.nets), g.dir.warm.asked.Vcpus, g.dir.warm.asked.MemoryMib, len(g.nets))
	}
}
