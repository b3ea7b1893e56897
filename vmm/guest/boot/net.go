package boot

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// The words for interfaces are not ours: initramfs-tools and dracut read them, too,
// and the kernel itself where it is built for that.
//
//	ip=CLIENT::GATEWAY:NETMASK:HOSTNAME:DEVICE:off:DNS:DNS  ifname=DEVICE:MAC
//
// With other modes than off, or without a device, they are somebody else's.

// MaxNets is how many interfaces a guest can be told of.
const MaxNets = 8

// Net is how one interface is configured.
type Net struct {
	Device  string       // as ip= calls it; where there is a MAC, only a name between the two words
	MAC     string       // empty: the interface that the kernel calls so
	Addr    netip.Prefix // IPv4; invalid: no ip= was given for it
	Gateway netip.Addr   // optional
	DNS     [2]netip.Addr
}

// Nets are those that were told, in their order.
type Nets [MaxNets]Net

// List is those that have an address.
func (n *Nets) List() (list []Net) {
	for _, one := range n {
		if one.Addr.IsValid() {
			list = append(list, one)
		}
	}
	return list
}

func (n *Nets) device(name string) (*Net, error) {
	for i := range n {
		if n[i].Device == name || n[i].Device == "" {
			n[i].Device = name
			return &n[i], nil
		}
	}
	return nil, fmt.Errorf("there are more than %d interfaces", MaxNets)
}

func (n *Nets) ip(value string) error {
	f := strings.Split(value, ":")
	if len(f) < 7 || f[5] == "" || f[6] != "off" && f[6] != "none" {
		return nil
	}
	one := Net{Device: f[5]}
	addr, err1 := netip.ParseAddr(f[0])
	mask, err2 := netip.ParseAddr(f[3])
	if err1 != nil || err2 != nil || !addr.Is4() || !mask.Is4() {
		return errors.New("want CLIENT::GATEWAY:NETMASK:HOSTNAME:DEVICE:off in IPv4")
	}
	bits, size := net.IPMask(mask.AsSlice()).Size()
	if size == 0 {
		return errors.New("the netmask is none")
	}
	one.Addr = netip.PrefixFrom(addr, bits)
	var err error
	if f[2] != "" {
		if one.Gateway, err = netip.ParseAddr(f[2]); err != nil || !one.Gateway.Is4() {
			return errors.New("want an IPv4 gateway")
		}
	}
	for i, text := range f[7:min(len(f), 9)] {
		if text == "" {
			continue
		}
		if one.DNS[i], err = netip.ParseAddr(text); err != nil || !one.DNS[i].Is4() {
			return errors.New("want the IPv4 address of a name server")
		}
	}
	at, err := n.device(one.Device)
	if err == nil {
		one.MAC = at.MAC
		*at = one
	}
	return err
}

func (n *Nets) ifname(value string) error {
	device, mac, _ := strings.Cut(value, ":")
	hw, err := net.ParseMAC(mac)
	if err != nil || device == "" || len(hw) != 6 {
		return errors.New("want DEVICE:MAC")
	}
	at, err := n.device(device)
	if err == nil {
		at.MAC = hw.String()
	}
	return err
}

// Words are n as a kernel's command line has it, for the guest called so.
func (n Net) Words(hostname string) (list []string) {
	text := func(a netip.Addr) string {
		if !a.IsValid() {
			return ""
		}
		return a.String()
	}
	if n.Addr.IsValid() {
		ip := fmt.Sprintf("ip=%s::%s:%s:%s:%s:off", n.Addr.Addr(), text(n.Gateway), net.IP(net.CIDRMask(n.Addr.Bits(), 32)), hostname, n.Device)
		if n.DNS[0].IsValid() || n.DNS[1].IsValid() {
			ip += ":" + text(n.DNS[0]) + ":" + text(n.DNS[1])
		}
		list = append(list, strings.TrimRight(ip, ":"))
	}
	if n.MAC != "" {
		list = append(list, "ifname="+n.Device+":"+n.MAC)
	}
	return list
}

func (n Net) words() (pairs [][2]string) {
	for _, w := range n.Words("") {
		k, v, _ := strings.Cut(w, "=")
		pairs = append(pairs, [2]string{k, v})
	}
	return pairs
}
