package links

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What a guest gets is what its tap sends, and waits there in a token bucket (tbf). A
// tap has no queue for what comes from it, so what a guest sends is led through an
// ifb, its funnel, which has, and which gives it back to the tap's bridge:
//
//	guest ◄── tap ◄── tbf ◄── bridge
//	guest ──► tap ──► funnel ──► tbf ──► bridge
//
// It is done by the host's kernel, outside of the hypervisor, and for all of them
// alike: a guest that has broken into its own cannot lift it.

// Rate is how much may pass; the zero value: all.
type Rate struct{ BytesPerSecond, BurstBytes uint64 }

const (
	leastBurst = 64 << 10 // what a guest hands over at once (GSO)
	// patience of a packet in the queue, as a part of a second.
	patience = 10
)

// funnelOf is the name of a tap's funnel, and tapOf that of the tap that a tap or a
// funnel is; "" of other links.
func funnelOf(tap string) string { return funnelPrefix + strings.TrimPrefix(tap, tapPrefix) }

func tapOf(link netlink.Link) string {
	name := link.Attrs().Name
	switch {
	case link.Type() == "tuntap":
		return name
	case link.Type() == "ifb" && strings.HasPrefix(name, funnelPrefix):
		return tapPrefix + strings.TrimPrefix(name, funnelPrefix)
	}
	return ""
}

// bound sets what may pass a tap.
func bound(name, uid string, p Plug) error {
	tap, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if p.Receive.BytesPerSecond > 0 {
		between("receive")
		if err := shape(tap, p.Receive); err != nil {
			return fmt.Errorf("what it receives: %w", err)
		}
	}
	if p.Send.BytesPerSecond == 0 {
		return nil
	}
	between("funnel")
	funnel := &netlink.Ifb{LinkAttrs: netlink.LinkAttrs{Name: funnelOf(name), TxQLen: 1000}}
	if err := netlink.LinkAdd(funnel); err != nil {
		return fmt.Errorf("what it sends: make an ifb, for which the kernel needs a module of that name: %w", err)
	}
	between("funnel made")
	root, in := netlink.MakeHandle(1, 0), netlink.MakeHandle(0xffff, 0)
	for _, step := range []func() error{
		func() error { return netlink.LinkSetAlias(funnel, mark+" "+uid) },
		func() error { return shape(funnel, p.Send) },
		func() error { return netlink.LinkSetUp(funnel) },
		func() error {
			return netlink.QdiscAdd(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: tap.Attrs().Index, Handle: in, Parent: netlink.HANDLE_INGRESS}})
		},
		func() error {
			return netlink.FilterAdd(&netlink.U32{
				FilterAttrs: netlink.FilterAttrs{LinkIndex: tap.Attrs().Index, Parent: in, Priority: 1, Protocol: unix.ETH_P_ALL},
				ClassId:     root, RedirIndex: funnel.Attrs().Index,
			})
		},
	} {
		between("funnel step")
		if err := step(); err != nil {
			return errors.Join(fmt.Errorf("what it sends: %w", err), netlink.LinkDel(funnel))
		}
	}
	return nil
}

// shape has what a link sends wait for tokens.
func shape(link netlink.Link, r Rate) error {
	burst := r.BurstBytes
	if burst == 0 {
		burst = max(r.BytesPerSecond/20, leastBurst)
	}
	burst = min(burst, 1<<30)
	queue := min(burst+max(r.BytesPerSecond/patience, leastBurst), 1<<31)
	return netlink.QdiscAdd(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       r.BytesPerSecond, Limit: uint32(queue), Buffer: netlink.Xmittime(r.BytesPerSecond, uint32(burst)),
	})
}
