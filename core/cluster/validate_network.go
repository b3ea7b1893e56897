package cluster

import (
	"fmt"
	"net/netip"
	"strings"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

const (
	maxInterfaces = 8
	maxForwards   = 32 // of one interface
	maxNameserver = 3
	// interfaceWords is what an interface takes of the kernel's command line.
	interfaceWords = 160
)

// ValidateNetwork checks all of a network before it is accepted.
func ValidateNetwork(name string, spec *blixardv1.NetworkSpec) *blixardv1.Error {
	if err := ValidateName(name); err != nil {
		return err
	}
	prefix, err := netip.ParsePrefix(spec.GetCidr())
	switch {
	case err != nil || !prefix.Addr().Is4():
		return invalid("spec.cidr", fmt.Sprintf("%+q is no range of IPv4 addresses", spec.GetCidr()), "write it as 10.1.0.0/24")
	case prefix.Bits() < 8 || prefix.Bits() > 30:
		return invalid("spec.cidr", fmt.Sprintf("/%d is out of range", prefix.Bits()), "use /8 to /30")
	case prefix != prefix.Masked():
		return invalid("spec.cidr", fmt.Sprintf("%s is not the first address of its range", prefix.Addr()), "write "+prefix.Masked().String())
	case prefix.String() != spec.Cidr:
		return invalid("spec.cidr", fmt.Sprintf("%+q is written in an unusual way", spec.Cidr), "write "+prefix.String())
	case prefix.Addr().IsLoopback() || prefix.Addr().IsMulticast() || prefix.Addr().IsUnspecified() || prefix.Addr().IsLinkLocalUnicast():
		return invalid("spec.cidr", prefix.String()+" is not for VMs", "use a private range, such as 10.1.0.0/24")
	}
	if g := spec.GetGateway(); g != "" {
		a, err := address("spec.gateway", g)
		if err != nil {
			return err
		}
		p := poolOf(&blixardv1.NetworkSpec{Cidr: spec.Cidr})
		if n := addressNumber(a); n < p.first || n > p.last {
			return invalid("spec.gateway", fmt.Sprintf("%s is no address of %s that anybody can have", g, spec.Cidr), "use another, or leave it out for the first")
		}
	}
	if b := spec.GetBridge(); b != "" {
		r, bad := firstBad(b, func(r rune) bool {
			return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_.-", r)
		})
		if bad || len(b) > 15 || b == "." || b == ".." || b[0] == '-' {
			why := fmt.Sprintf("%+q is no name that a bridge can have", b)
			if bad {
				why = fmt.Sprintf("%+q holds %+q", b, r)
			}
			return invalid("spec.bridge", why, "use 1 to 15 of A-Z a-z 0-9 . _ and -, or leave it out")
		}
	}
	if n := len(spec.GetDns()); n > maxNameserver {
		return invalid("spec.dns", fmt.Sprintf("%d name servers are too many", n), "use at most 3")
	}
	for i, d := range spec.GetDns() {
		if _, err := address(fmt.Sprintf("spec.dns[%d]", i), d); err != nil {
			return err
		}
	}
	return nil
}

// address checks one IPv4 address, which has one way to be written.
func address(field, text string) (netip.Addr, *blixardv1.Error) {
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is4() || a.String() != text {
		return a, invalid(field, fmt.Sprintf("%+q is no IPv4 address", text), "write it as 10.1.0.5")
	}
	return a, nil
}

// checkInterfaces checks the interfaces of an image VM.
func checkInterfaces(s *blixardv1.VMSpec) *blixardv1.Error {
	list := s.GetNetworks()
	if len(list) == 0 {
		return nil
	}
	switch {
	case s.GetNixos() != nil:
		return invalid("spec.networks", "they are those of an image", "give a NixOS VM its networks in spec.nixos.networks")
	case s.GetProcess() != nil:
		return invalid("spec.networks", "a program has its host's own network, and nothing that could be plugged in anywhere", "leave out --network and --port; the program opens its ports on its host by itself")
	case s.GetFlake() != nil:
		return invalid("spec.networks", "a flake says by itself what its VM is plugged into", "give it in the flake (microvm.interfaces)")
	case s.GetImage() == nil:
		return invalid("spec.networks", "they are those of an image, and the spec has none", "leave them out")
	case len(list) > maxInterfaces:
		return invalid("spec.networks", fmt.Sprintf("%d interfaces are too many", len(list)), "use at most 8")
	}
	if most := maxCmdline - interfaceWords*(len(list)-1); len(s.GetImage().GetCmdline()) > most {
		return invalid("spec.image.cmdline", fmt.Sprintf("%d bytes are too long beside %d interfaces, which are configured by it", len(s.GetImage().GetCmdline()), len(list)), fmt.Sprintf("use at most %d", most))
	}
	users := 0
	ports, macs, addresses := map[uint32]bool{}, map[string]bool{}, map[string]bool{}
	for i, w := range list {
		field := fmt.Sprintf("spec.networks[%d]", i)
		if err := checkAttached(field, w); err != nil {
			return err
		}
		if w.GetUser() != nil {
			users++
		}
		if users > 1 {
			return invalid(field+".user", "a second user interface reaches nothing that the first does not", "use one, with all the ports")
		}
		for j, p := range w.Ports {
			n := portNumber(&blixardv1.HostPort{Port: p.HostPort, Protocol: protocolOf(p)})
			if ports[n] {
				return invalid(fmt.Sprintf("%s.ports[%d]", field, j), fmt.Sprintf("port %d of the host leads to two of the guest", p.HostPort), "use another port of the host")
			}
			ports[n] = true
		}
		if m := strings.ToLower(w.Mac); m != "" && macs[m] {
			return invalid(field+".mac", "another interface has it too", "use another, or leave it out")
		} else if m != "" {
			macs[m] = true
		}
		if a := w.GetNetwork() + " " + w.Address; w.Address != "" && addresses[a] {
			return invalid(field+".address", "another interface has it too", "use another, or leave it out")
		} else if w.Address != "" {
			addresses[a] = true
		}
	}
	return nil
}

func checkAttached(field string, w *blixardv1.Interface) *blixardv1.Error {
	switch w.GetKind().(type) {
	case *blixardv1.Interface_User:
		if w.Address != "" {
			return invalid(field+".address", "a user interface is behind the hypervisor's own NAT, and has its address from it", "leave it out")
		}
	case *blixardv1.Interface_Network:
		if err := ValidateName(w.GetNetwork()); err != nil {
			return invalid(field+".network", err.Message, err.Advice)
		}
		if len(w.Ports) > 0 {
			return invalid(field+".ports", "ports of the host lead only to a user interface", "reach the VM by its own address, or add an interface: user: {}")
		}
		if w.Address != "" {
			if _, err := address(field+".address", w.Address); err != nil {
				return err
			}
		}
	default:
		return invalid(field, "it is plugged into nothing", "say user: {}, or network: NAME")
	}
	if err := checkBandwidths(field, w); err != nil {
		return err
	}
	if w.Mac != "" && !unicastMAC(w.Mac) {
		return invalid(field+".mac", fmt.Sprintf("%+q is no address of one interface", w.Mac),
			"write it as 02:00:00:00:00:01, its first byte even, or leave it out")
	}
	if n := len(w.Ports); n > maxForwards {
		return invalid(field+".ports", fmt.Sprintf("%d are too many", n), "use at most 32")
	}
	for i, p := range w.Ports {
		if err := checkPort(fmt.Sprintf("%s.ports[%d]", field, i), p); err != nil {
			return err
		}
	}
	return nil
}

func checkPort(field string, p *blixardv1.PortForward) *blixardv1.Error {
	for _, n := range []struct {
		name string
		port uint32
	}{{"host_port", p.GetHostPort()}, {"guest_port", p.GetGuestPort()}} {
		if n.port < 1 || n.port > 65535 {
			return invalid(field+"."+n.name, fmt.Sprintf("%d is no port", n.port), "use 1 to 65535")
		}
	}
	if _, known := blixardv1.Protocol_name[int32(p.Protocol)]; !known {
		return invalid(field+".protocol", fmt.Sprintf("%d means nothing here", p.Protocol), "use PROTOCOL_TCP or PROTOCOL_UDP")
	}
	if p.Address != "" {
		if _, err := address(field+".address", p.Address); err != nil {
			return err
		}
	}
	return nil
}
