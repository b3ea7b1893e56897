package runner

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	guestboot "github.com/blixard/blixard/vmm/guest/boot"
	"github.com/blixard/blixard/vmm/runner/links"
)

// nic is one network interface of a guest.
type nic struct {
	mac string
	tap string // "": it is a user interface
	// user: it is behind the hypervisor's own NAT.
	user     bool
	restrict bool
	ports    []*blixardv1.PortForward
	// words have the guest configure it.
	words guestboot.Net
}

// What QEMU's NAT gives its only guest.
var userNet = guestboot.Net{
	Addr: netip.MustParsePrefix("10.0.2.15/24"), Gateway: netip.MustParseAddr("10.0.2.2"), DNS: [2]netip.Addr{netip.MustParseAddr("10.0.2.3")},
}

// nicsOf are the interfaces of an assignment. What was accepted by another version
// of us is still not believed. The first interface is the guest's way out: two
// default routes would be one too many.
func nicsOf(a *blixardv1.Assignment) (list []nic, err error) {
	specs, configs := a.GetSpec().GetNetworks(), a.GetInterfaces()
	if len(specs) != len(configs) || len(specs) > guestboot.MaxNets {
		return nil, fmt.Errorf("the spec has %d interfaces, and %d were given what they need: the cluster runs another version of blixard", len(specs), len(configs))
	}
	for i, s := range specs {
		c := configs[i]
		hw, err := net.ParseMAC(c.Mac)
		if err != nil || len(hw) != 6 {
			return nil, fmt.Errorf("interface %d: %.40q is no hardware address", i, c.Mac)
		}
		n := nic{mac: hw.String(), ports: s.Ports}
		switch k := s.Kind.(type) {
		case *blixardv1.Interface_User:
			n.user, n.restrict, n.words = true, k.User.GetRestrict(), userNet
			if n.restrict {
				n.words.Gateway = netip.Addr{}
			}
		case *blixardv1.Interface_Network:
			if n.words, err = wordsOf(c); err != nil {
				return nil, fmt.Errorf("interface %d: %w", i, err)
			}
		default:
			return nil, fmt.Errorf("interface %d is of a kind that this host does not know: upgrade it", i)
		}
		if n.words.Device, n.words.MAC = fmt.Sprintf("eth%d", i), n.mac; i > 0 {
			n.words.Gateway = netip.Addr{}
		}
		for _, p := range s.Ports {
			if err := checkForward(p); err != nil {
				return nil, fmt.Errorf("interface %d: %w", i, err)
			}
		}
		list = append(list, n)
	}
	return list, nil
}

// wordsOf have a guest configure an interface of a network.
func wordsOf(c *blixardv1.InterfaceConfig) (n guestboot.Net, err error) {
	if n.Addr, err = netip.ParsePrefix(c.Address); err != nil || !n.Addr.Addr().Is4() {
		return n, fmt.Errorf("%.40q is no address of a guest", c.Address)
	}
	if n.Gateway, err = netip.ParseAddr(c.Gateway); err != nil || !n.Gateway.Is4() {
		return n, fmt.Errorf("%.40q is no gateway", c.Gateway)
	}
	for i, text := range c.Dns[:min(len(c.Dns), len(n.DNS))] {
		if n.DNS[i], err = netip.ParseAddr(text); err != nil || !n.DNS[i].Is4() {
			return n, fmt.Errorf("%.40q is no name server", text)
		}
	}
	return n, nil
}

// plugsOf are the taps that an image's interfaces need.
func plugsOf(a *blixardv1.Assignment) (list []links.Plug, err error) {
	if a.GetSpec().GetImage() == nil || len(a.GetInterfaces()) > links.MaxPlugs {
		return nil, nil
	}
	for i, c := range a.GetInterfaces() {
		if c.Network == "" {
			continue
		}
		if len(c.Bridge) < 1 || len(c.Bridge) > 15 || strings.ContainsAny(c.Bridge, "/ \t\n:") {
			return nil, fmt.Errorf("interface %d: %.40q is no name of a bridge", i, c.Bridge)
		}
		p := links.Plug{Index: i, Bridge: c.Bridge, Address: c.BridgeAddress}
		if all := a.GetSpec().GetNetworks(); i < len(all) {
			p.Receive, p.Send = rateOf(all[i].GetReceive()), rateOf(all[i].GetSend())
		}
		list = append(list, p)
	}
	return list, nil
}

func rateOf(b *blixardv1.Bandwidth) links.Rate {
	return links.Rate{BytesPerSecond: b.GetBytesPerSecond(), BurstBytes: b.GetBurstBytes()}
}

func checkForward(p *blixardv1.PortForward) error {
	if _, err := netip.ParseAddr(p.Address); err != nil && p.Address != "" || strings.Contains(p.Address, "%") {
		return fmt.Errorf("%.40q is no address of this host", p.Address)
	}
	for _, n := range []uint32{p.HostPort, p.GuestPort} {
		if n < 1 || n > 65535 {
			return fmt.Errorf("%d is no port", n)
		}
	}
	return nil
}

// netdev is QEMU's end of it.
func (n nic) netdev(id string) string {
	if n.tap != "" {
		return "tap,id=" + id + ",ifname=" + n.tap + ",script=no,downscript=no"
	}
	text := "user,id=" + id + ",ipv6=off"
	if n.restrict {
		text += ",restrict=on"
	}
	for _, p := range n.ports {
		protocol := "tcp"
		if p.Protocol == blixardv1.Protocol_PROTOCOL_UDP {
			protocol = "udp"
		}
		text += fmt.Sprintf(",hostfwd=%s:%s:%d-:%d", protocol, p.Address, p.HostPort, p.GuestPort)
	}
	return text
}
