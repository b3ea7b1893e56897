package cluster

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// An attachment is what an interface of a VM was given: a mac, and an address of
// its network. It belongs to the VM, not to an instance: a restart, a stop and a
// move keep it, and so does an update that leaves the interface out, because what
// runs may have it still, and a rollback wants it back. It is given back when the
// VM's record goes, and that is when nothing of the VM can be alive.

// mostAttachments bounds what a VM can gather by updates.
const mostAttachments = 32

// attach gives the interfaces of the VM's spec what they need; the VM is the
// caller's own. Those that are pinned to something choose first.
func (s *State) attach(vm *blixardv1.VM) *blixardv1.Response {
	want := vm.Spec.GetNetworks()
	held := vm.Attachments
	used := make([]bool, len(held))
	list := make([]*blixardv1.Attachment, len(want))
	for _, fixed := range []bool{true, false} {
		for i, w := range want {
			if list[i] != nil || fixed != (w.Address != "" || w.Mac != "") {
				continue
			}
			j := slices.IndexFunc(held, func(a *blixardv1.Attachment) bool {
				return !used[slices.Index(held, a)] && serves(a, w)
			})
			if j >= 0 {
				used[j] = true
				list[i] = held[j]
				if a := (&blixardv1.Attachment{
					Network: held[j].Network, Address: held[j].Address, Mac: held[j].Mac, FixedAddress: w.Address != "", FixedMac: w.Mac != "",
				}); a.FixedAddress != held[j].FixedAddress || a.FixedMac != held[j].FixedMac {
					list[i] = a
				}
				continue
			}
			a, resp := s.newAttachment(vm, i, w, list)
			if resp != nil {
				return resp
			}
			list[i] = a
		}
	}
	for j, a := range held {
		if !used[j] {
			list = append(list, a)
		}
	}
	if len(list) > mostAttachments {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION,
			fmt.Sprintf("the VM %s would hold %d addresses: it keeps what interfaces of its earlier specs were given, and at most %d", vm.Name, len(list), mostAttachments),
			"make a new VM")
	}
	vm.Attachments = list
	return nil
}

// serves says whether what is held does for an interface.
func serves(a *blixardv1.Attachment, w *blixardv1.Interface) bool {
	return a.Network == w.GetNetwork() &&
		(w.Address == "" && !a.FixedAddress || w.Address != "" && w.Address == a.Address) &&
		(w.Mac == "" && !a.FixedMac || w.Mac != "" && strings.EqualFold(w.Mac, a.Mac))
}

// newAttachment is for the i-th interface; others of the VM are in list already.
func (s *State) newAttachment(vm *blixardv1.VM, i int, w *blixardv1.Interface, list []*blixardv1.Attachment) (*blixardv1.Attachment, *blixardv1.Response) {
	field := fmt.Sprintf("spec.networks[%d]", i)
	a := &blixardv1.Attachment{Network: w.GetNetwork(), FixedAddress: w.Address != "", FixedMac: w.Mac != ""}
	var mine []uint32
	macs := map[string]bool{}
	for _, o := range append(slices.Clone(list), vm.Attachments...) {
		if o != nil {
			macs[o.Mac] = true
		}
		if o != nil && o.Network == a.Network && o.Network != "" {
			mine = append(mine, addressNumber(netip.MustParseAddr(o.Address)))
		}
	}
	if a.Mac = strings.ToLower(w.Mac); a.Mac == "" {
		a.Mac = s.newMac(vm.Uid, i, macs)
	} else if uid, taken := s.macs.Get(a.Mac); taken || macs[a.Mac] {
		return nil, inUse(field+".mac", a.Mac, s.holder(uid, vm))
	}
	if a.Network == "" {
		return a, nil
	}
	n := s.Network(a.Network)
	if n == nil {
		return nil, &blixardv1.Response{Error: &blixardv1.Error{
			Code: blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, Field: field + ".network",
			Message: fmt.Sprintf("there is no network named %q", a.Network), Advice: "make it with 'blixard network create', or use one that 'blixard network list' shows",
		}}
	}
	p := poolOf(n.Spec)
	if w.Address == "" {
		ip, ok := s.lowestFree(a.Network, mine)
		if !ok {
			return nil, refuse(blixardv1.ErrorCode_ERROR_CODE_EXHAUSTED,
				fmt.Sprintf("the network %s has no free address: all %d are in use", n.Name, p.size()),
				"delete VMs that nobody needs, or make a larger network; 'blixard network get "+n.Name+"' shows who has which")
		}
		a.Address = addressText(ip)
		return a, nil
	}
	ip := addressNumber(netip.MustParseAddr(w.Address))
	if !p.has(ip) {
		why := fmt.Sprintf("%s is no address that a VM of the network %s (%s) can have", w.Address, n.Name, n.Spec.Cidr)
		if ip == p.gateway {
			why = fmt.Sprintf("%s is the gateway of the network %s", w.Address, n.Name)
		}
		return nil, &blixardv1.Response{Error: invalid(field+".address", why, "use another, or leave it out")}
	}
	if uid, taken := s.addresses.Get(freeKey(a.Network, ip)); taken || slices.Contains(mine, ip) {
		return nil, inUse(field+".address", w.Address, s.holder(uid, vm))
	}
	a.Address = addressText(ip)
	return a, nil
}

// holder is who has something, in words.
func (s *State) holder(uid string, me *blixardv1.VM) string {
	if uid == "" || uid == me.Uid {
		return "another interface of this VM, or one that it had,"
	}
	return "the VM " + s.VMByUID(uid).GetName()
}

// inUse refuses an address or a mac that somebody has.
func inUse(field, what, by string) *blixardv1.Response {
	return &blixardv1.Response{Error: &blixardv1.Error{
		Code: blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, Field: field,
		Message: by + " has " + what, Advice: "use another, or leave it out",
	}}
}

// newMac derives a hardware address that nobody in the cluster has: unicast, and
// locally administered, so that no manufacturer gives it.
func (s *State) newMac(uid string, i int, mine map[string]bool) string {
	for try := 0; ; try++ {
		h := recordHash(uid, []byte{byte(i), byte(try), byte(try >> 8)})
		mac := fmt.Sprintf("02:%02x:%02x:%02x:%02x:%02x", byte(h), byte(h>>8), byte(h>>16), byte(h>>24), byte(h>>32))
		if _, taken := s.macs.Get(mac); !taken && !mine[mac] {
			return mac
		}
	}
}

// interfaces are what a host must know of a VM's interfaces.
func (s *State) interfaces(vm *blixardv1.VM) (list []*blixardv1.InterfaceConfig) {
	for i := range vm.Spec.GetNetworks() {
		a := vm.Attachments[i]
		c := &blixardv1.InterfaceConfig{Mac: a.Mac, Network: a.Network}
		if n := s.Network(a.Network); n != nil {
			bits := netip.MustParsePrefix(n.Spec.Cidr).Bits()
			c.Bridge, c.BridgeAddress = n.Spec.Bridge, fmt.Sprintf("%s/%d", n.Spec.Gateway, bits)
			c.Address, c.Gateway, c.Dns = fmt.Sprintf("%s/%d", a.Address, bits), n.Spec.Gateway, n.Spec.Dns
		}
		list = append(list, c)
	}
	return list
}

// hostPorts are the ports of its host that a spec wants, in order.
func hostPorts(spec *blixardv1.VMSpec) (list []*blixardv1.HostPort) {
	for _, w := range spec.GetNetworks() {
		for _, p := range w.Ports {
			list = append(list, &blixardv1.HostPort{Port: p.HostPort, Protocol: protocolOf(p)})
		}
	}
	slices.SortFunc(list, func(a, b *blixardv1.HostPort) int { return int(portNumber(a)) - int(portNumber(b)) })
	return list
}

func protocolOf(p *blixardv1.PortForward) blixardv1.Protocol {
	return max(p.Protocol, blixardv1.Protocol_PROTOCOL_TCP)
}

// portNumber tells ports of all protocols apart.
func portNumber(p *blixardv1.HostPort) uint32 { return uint32(p.Protocol)<<16 | p.Port }

func portKey(node uint64, p *blixardv1.HostPort) string {
	return be(node) + be(uint64(portNumber(p)))[4:]
}

// portsInCommon are a node and those whose ports are the same: who has one of it there
// has it here.
func (s *State) portsInCommon(id uint64) []uint64 {
	nodes := []uint64{id}
	if space := s.Node(id).GetHost().GetFacts().GetPortSpace(); space != "" && !mutant.On("PortSpaceIgnored") {
		s.spaces.Ascend(space+"/", func(k string, other uint64) bool {
			if !strings.HasPrefix(k, space+"/") {
				return false
			}
			if other != id {
				nodes = append(nodes, other)
			}
			return true
		})
	}
	return nodes
}

// reindexSpaces follows which nodes have their ports in common.
func (s *State) reindexSpaces(o, n *blixardv1.Node) {
	was, is := o.GetHost().GetFacts().GetPortSpace(), n.GetHost().GetFacts().GetPortSpace()
	if was == is {
		return
	}
	if was != "" {
		s.spaces.Delete(was + "/" + be(o.Id))
	}
	if is != "" {
		s.spaces.Set(is+"/"+be(n.Id), n.Id)
	}
}

// bothPorts are those of two lists, each once.
func bothPorts(a, b []*blixardv1.HostPort) []*blixardv1.HostPort {
	all := slices.Clone(a)
	for _, p := range b {
		if !slices.ContainsFunc(a, func(o *blixardv1.HostPort) bool { return portNumber(o) == portNumber(p) }) {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b *blixardv1.HostPort) int { return int(portNumber(a)) - int(portNumber(b)) })
	return all
}

// reindexPorts follows which VM has which port of a host.
func (s *State) reindexPorts(o, n *blixardv1.VM) {
	for _, at := range sidesOf(o) {
		for _, p := range at.p.GetPorts() {
			s.ports.Delete(portKey(at.p.NodeId, p))
		}
	}
	for _, at := range sidesOf(n) {
		for _, p := range at.p.GetPorts() {
			s.ports.Set(portKey(at.p.NodeId, p), n.Uid)
		}
	}
}
