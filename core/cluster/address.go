package cluster

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Which addresses are free is derived, like every index: from the networks, and
// from what the VMs' records say that they hold. It is kept as runs of free
// addresses, so that the lowest is found, taken and given back in O(log n):
//
//	free = pool - { a : some VM holds a }, as the longest runs
//
// Nothing else says whether an address is free, so none can be lost, and none be
// forgotten.

// freeKey is where a run of free addresses begins; it is mapped to its end.
func freeKey(network string, n uint32) string { return network + "\x00" + be(uint64(n))[4:] }

// runs calls f for the runs of free addresses of a network, in order.
func (s *State) runs(network string, f func(first, last uint32) bool) {
	prefix := network + "\x00"
	s.free.Ascend(prefix, func(k string, last uint32) bool {
		return strings.HasPrefix(k, prefix) && f(numberOf(k[len(prefix):]), last)
	})
}

// lowestFree address of a network, of those that are not in a short list.
func (s *State) lowestFree(network string, but []uint32) (address uint32, ok bool) {
	if mutant.On("AddressTwice") {
		if n := s.Network(network); n != nil {
			return poolOf(n.Spec).last, true
		}
	}
	s.runs(network, func(first, last uint32) bool {
		for address = first; ; address++ {
			if ok = !slices.Contains(but, address); ok || address == last {
				return !ok
			}
		}
	})
	return address, ok
}

// runWith is the run of free addresses that holds one.
func (s *State) runWith(network string, n uint32) (first, last uint32, ok bool) {
	prefix := network + "\x00"
	s.free.Descend(freeKey(network, n), func(k string, end uint32) bool {
		if ok = strings.HasPrefix(k, prefix) && end >= n; ok {
			first, last = numberOf(k[len(prefix):]), end
		}
		return false
	})
	return first, last, ok
}

// take takes an address out of the free ones.
func (s *State) take(network string, n uint32) {
	first, last, ok := s.runWith(network, n)
	if !ok {
		return // of a network that is not there yet: a state is loaded in any order
	}
	s.free.Delete(freeKey(network, first))
	if first < n {
		s.free.Set(freeKey(network, first), n-1)
	}
	if n < last {
		s.free.Set(freeKey(network, n+1), last)
	}
}

// give makes an address free again.
func (s *State) give(network string, n uint32) {
	net := s.Network(network)
	if net == nil || !poolOf(net.Spec).has(n) {
		return
	}
	first, last := n, n
	if f, l, ok := s.runWith(network, n-1); ok && l == n-1 {
		first = f
		s.free.Delete(freeKey(network, f))
	}
	if l, ok := s.free.Get(freeKey(network, n+1)); ok {
		last = l
		s.free.Delete(freeKey(network, n+1))
	}
	s.free.Set(freeKey(network, first), last)
}

// reindexNetwork makes the free runs of a network that comes or goes. One that
// goes has none of its addresses in use; one that comes may, when a state is
// loaded.
func (s *State) reindexNetwork(o, n *blixardv1.ClusterNetwork) {
	if o != nil && n != nil {
		return // it never changes
	}
	if o != nil {
		var keys []string
		s.runs(o.Name, func(first, _ uint32) bool {
			keys = append(keys, freeKey(o.Name, first))
			return true
		})
		for _, k := range keys {
			s.free.Delete(k)
		}
		return
	}
	p := poolOf(n.Spec)
	from, prefix := p.first, n.Name+"\x00"
	until := func(n32 uint32, name string) { // the addresses before one that is not free
		if from < n32 {
			s.free.Set(freeKey(name, from), n32-1)
		}
		from = n32 + 1
	}
	gateway := false
	s.addresses.Ascend(prefix, func(k, _ string) bool {
		if !strings.HasPrefix(k, prefix) {
			return false
		}
		a := numberOf(k[len(prefix):])
		if !gateway && p.gateway < a {
			until(p.gateway, n.Name)
			gateway = true
		}
		until(a, n.Name)
		return true
	})
	if !gateway {
		until(p.gateway, n.Name)
	}
	until(p.last+1, n.Name)
}

// reindexAttachments follows what a VM holds.
func (s *State) reindexAttachments(o, n *blixardv1.VM) {
	if sameAttachments(o, n) {
		return
	}
	for _, a := range o.GetAttachments() {
		s.macs.Delete(a.Mac)
		if a.Network == "" || mutant.On("AddressLeaked") && n == nil {
			continue
		}
		ip := addressNumber(netip.MustParseAddr(a.Address))
		s.addresses.Delete(freeKey(a.Network, ip))
		s.give(a.Network, ip)
	}
	for _, a := range n.GetAttachments() {
		s.macs.Set(a.Mac, n.Uid)
		if a.Network == "" {
			continue
		}
		ip := addressNumber(netip.MustParseAddr(a.Address))
		s.addresses.Set(freeKey(a.Network, ip), n.Uid)
		s.take(a.Network, ip)
	}
}

// sameAttachments is asked for with nearly every entry: what the lists hold is mostly the
// very same.
func sameAttachments(o, n *blixardv1.VM) bool {
	a, b := o.GetAttachments(), n.GetAttachments()
	if len(a) != len(b) || len(a) > 0 && o.GetUid() != n.GetUid() {
		return false
	}
	for i := range a {
		x, y := a[i], b[i]
		if x != y && (x.Network != y.Network || x.Address != y.Address || x.Mac != y.Mac) {
			return false
		}
	}
	return true
}
