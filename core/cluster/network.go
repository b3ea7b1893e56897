package cluster

import (
	"fmt"
	"net/netip"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A network is a record that never changes. What VMs hold of it is in their own
// records (attach.go); which addresses are free is derived from both (address.go).

// Network returns a network by its name, or nil.
func (s *State) Network(name string) *blixardv1.ClusterNetwork {
	return get[*blixardv1.ClusterNetwork](s, networkKey(name))
}

// Networks calls f for every network by name until f returns false.
func (s *State) Networks(f func(*blixardv1.ClusterNetwork) bool) { ascend(s, networkPrefix, "", f) }

func networkKey(name string) string { return networkPrefix + name }

func noNetwork(name string) *blixardv1.Response {
	return refuse(blixardv1.ErrorCode_ERROR_CODE_NOT_FOUND, fmt.Sprintf("there is no network named %q", name), "'blixard network list' shows those there are")
}

func networkResponse(n *blixardv1.ClusterNetwork) *blixardv1.Response {
	return &blixardv1.Response{Result: &blixardv1.Response_Network{Network: n}}
}

func (s *State) createNetwork(e *entry, op *blixardv1.CreateNetworkOp) *blixardv1.Response {
	if err := ValidateNetwork(op.Name, op.Spec); err != nil {
		return &blixardv1.Response{Error: err}
	}
	if s.Network(op.Name) != nil {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_ALREADY_EXISTS, "a network named "+op.Name+" exists", "use another name; a network never changes, so to have it otherwise delete it first")
	}
	spec := clone(op.Spec)
	p := poolOf(spec)
	if spec.Gateway == "" {
		spec.Gateway = addressText(p.gateway)
	}
	if spec.Bridge == "" {
		spec.Bridge = bridgeName(s.meta.ClusterId, op.Name)
	}
	if resp := s.mayNotOverlap(spec, p, op.Spec.Bridge != ""); resp != nil {
		return resp
	}
	n := &blixardv1.ClusterNetwork{Name: op.Name, Spec: spec, CreateTime: e.time(), Revision: e.index}
	s.put(networkKey(n.Name), n)
	s.event(e, "NetworkCreated", "", "", "network %s, %s", n.Name, spec.Cidr)
	return networkResponse(n)
}

// mayNotOverlap refuses addresses that mean something else already: of another
// network, on whatever bridge, because a host has one route to an address; or, on a
// bridge that we are to make, of what hosts are plugged into themselves. A bridge
// that its operator names may well be that.
func (s *State) mayNotOverlap(spec *blixardv1.NetworkSpec, p pool, named bool) *blixardv1.Response {
	why := ""
	s.Networks(func(n *blixardv1.ClusterNetwork) bool {
		if poolOf(n.Spec).overlaps(p) {
			why = fmt.Sprintf("%s overlaps the network %s (%s, bridge %s)", spec.Cidr, n.Name, n.Spec.Cidr, n.Spec.Bridge)
		}
		return why == ""
	})
	advice := "use other addresses; 'blixard network list' shows those that are taken"
	if why == "" && !named {
		advice = "use other addresses, or name the bridge that the host's own are on (--bridge)"
		s.Nodes(func(n *blixardv1.Node) bool {
			for _, text := range n.GetHost().GetFacts().GetSubnets() {
				own, err := netip.ParsePrefix(text)
				if mine := netip.MustParsePrefix(spec.Cidr); err == nil && own.Overlaps(mine) {
					why = fmt.Sprintf("%s overlaps %s, of which the host %s has an address itself", spec.Cidr, own.Masked(), n.Name)
				}
			}
			return why == ""
		})
	}
	if why == "" {
		return nil
	}
	return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, why, advice)
}

func (s *State) deleteNetwork(e *entry, op *blixardv1.DeleteNetworkOp) *blixardv1.Response {
	n := s.Network(op.Name)
	if n == nil {
		return noNetwork(op.Name)
	}
	holder, count := "", 0
	s.Addresses(op.Name, func(address, vm string) bool {
		if count++; holder == "" {
			holder = fmt.Sprintf("the VM %s has %s", vm, address)
		}
		return true
	})
	if count > 0 {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION,
			fmt.Sprintf("%d addresses of the network %s are in use: %s", count, op.Name, holder), "delete those VMs first; a VM keeps an address until nothing of the VM is left")
	}
	s.del(networkKey(op.Name))
	s.event(e, "NetworkDeleted", "", "", "network %s", op.Name)
	return networkResponse(n)
}

// Addresses calls f for every address of a network that a VM has, in their order,
// until f returns false.
func (s *State) Addresses(network string, f func(address, vm string) bool) {
	prefix := network + "\x00"
	s.addresses.Ascend(prefix, func(k, uid string) bool {
		if len(k) != len(prefix)+4 || k[:len(prefix)] != prefix {
			return false
		}
		return f(addressText(numberOf(k[len(prefix):])), s.VMByUID(uid).GetName())
	})
}

// bridgeName is the bridge of a network that names none: 13 characters that
// differ from network to network, from cluster to cluster, and from what else we
// make on a host.
func bridgeName(cluster, network string) string {
	const digits = "abcdefghijklmnopqrstuvwxyz234567"
	h := recordHash(cluster+" "+network, []byte("bridge"))
	b := []byte("bb-----------")
	for i := len(b) - 1; i > 1; i-- {
		b[i], h = digits[h&31], h>>5
	}
	return string(b)
}

// pool is the addresses of a network that VMs can have: first to last, but for
// the gateway.
type pool struct{ first, last, gateway uint32 }

// poolOf a spec that is valid.
func poolOf(spec *blixardv1.NetworkSpec) pool {
	prefix := netip.MustParsePrefix(spec.Cidr)
	base := addressNumber(prefix.Addr())
	p := pool{first: base + 1, last: base + 1<<(32-prefix.Bits()) - 2}
	p.gateway = p.first
	if spec.Gateway != "" {
		p.gateway = addressNumber(netip.MustParseAddr(spec.Gateway))
	}
	return p
}

func (p pool) has(n uint32) bool { return n >= p.first && n <= p.last && n != p.gateway }

func (p pool) size() uint32 { return p.last - p.first }

func (p pool) overlaps(o pool) bool { return p.first <= o.last && o.first <= p.last }

func addressNumber(a netip.Addr) uint32 {
	b := a.As4()
	return numberOf(string(b[:]))
}

func numberOf(b string) uint32 {
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func addressText(n uint32) string {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}).String()
}

// NetworkUse says how many addresses VMs can have of a network, and how many they
// have.
func (s *State) NetworkUse(name string) (size, used uint32) {
	n := s.Network(name)
	if n == nil {
		return 0, 0
	}
	p := poolOf(n.Spec)
	free := uint32(0)
	s.runs(name, func(first, last uint32) bool {
		free += last - first + 1
		return true
	})
	return p.size(), p.size() - free
}
