// Package links makes the ends on this host of what VMs are plugged into: a tap
// for each interface, and the bridges that the taps are plugged into.
//
// # The model
//
//	guest ── hypervisor ── tap ── bridge ── the host, and what the operator plugs in
//
// A tap's name says whose it is: bt, five characters of the daemon, seven of the
// VM's uid, and the interface's number. So nothing needs to be written down: what is
// left behind by a crash at any step is found by its name, and is known to be ours
// and of whom; what has another name is not ours, and is never touched.
//
// A bridge may be the operator's: one that is there is used as it is. One that we
// make is marked by its alias, and is removed with the last tap that was plugged
// into it. It comes into being under a name of ours, and gets the wanted one when it
// is marked: one without the mark is never taken for ours, and none is left behind
// without it.
//
// Daemons that share a machine share its bridges: a lock on a file orders them.
package links

import (
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/shim"
)

// Links makes and removes links for one daemon.
type Links struct {
	dir  string
	host string // five characters
}

// New is for the daemon of an identity; dir is the same for all daemons of this
// machine.
func New(dir, identity string) *Links { return &Links{dir, short(5, "host", identity)} }

// Plug is one interface of a VM.
type Plug struct {
	// Index of the interface, below 10.
	Index int
	// Bridge that it is plugged into; Address is the host's on it, with its length,
	// when we make it.
	Bridge, Address string
	// Receive and Send bound what the guest gets and what it sends.
	Receive, Send Rate
}

const (
	tapPrefix    = "bt"
	bridgePrefix = "bb"
	funnelPrefix = "bf"
	mark         = "blixard" // a bridge's alias
	// MaxPlugs of one VM.
	MaxPlugs = 10
)

// short is a short name for some words.
func short(digits int, words ...string) string {
	h := sha256.New()
	for _, w := range words {
		fmt.Fprintf(h, "%d:%s", len(w), w)
	}
	return strings.ToLower(base32.StdEncoding.EncodeToString(h.Sum(nil)))[:digits]
}

// Tap is the name of a VM's tap.
func (l *Links) Tap(uid string, index int) string {
	return fmt.Sprintf("%s%d", l.taps(uid), index)
}

func (l *Links) taps(uid string) string { return tapPrefix + l.host + short(7, "vm", uid) }

// between is called between any two steps; tests end the process there.
var between = func(string) {}

// Plug makes all that a VM is plugged into. What an attempt before has left is
// removed first: nothing of the VM may be alive. Its taps are for owner to open, or
// for us when that is nil.
func (l *Links) Plug(uid string, plugs []Plug, owner *shim.User) error {
	return l.locked(func() error {
		if err := l.unplug(uid); err != nil {
			return err
		}
		for _, p := range plugs {
			between("bridge")
			b, err := l.bridge(p)
			if err != nil {
				return fmt.Errorf("bridge %s: %w", p.Bridge, err)
			}
			between("tap")
			name := l.Tap(uid, p.Index)
			if err := l.tap(name, uid, b, owner); err != nil {
				return fmt.Errorf("tap %s: %w", name, err)
			}
			if err := bound(name, uid, p); err != nil {
				return fmt.Errorf("bound what passes tap %s: %w", name, err)
			}
		}
		return nil
	})
}

// Unplug removes all that a VM was plugged into. There may be nothing.
func (l *Links) Unplug(uid string) error {
	if _, err := os.Stat(l.lockFile()); errors.Is(err, os.ErrNotExist) {
		return nil // nothing was ever plugged in here
	}
	return l.locked(func() error { return l.unplug(uid) })
}

// Sweep removes the taps of this daemon that are of none of these VMs, and our
// bridges that nothing is plugged into.
func (l *Links) Sweep(uids []string) error {
	if _, err := os.Stat(l.lockFile()); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return l.locked(func() error {
		known := map[string]bool{}
		for _, uid := range uids {
			known[l.taps(uid)] = true
		}
		all, err := netlink.LinkList()
		if err != nil {
			return err
		}
		var errs []error
		for _, link := range all {
			name := link.Attrs().Name
			if tap := tapOf(link); strings.HasPrefix(tap, tapPrefix+l.host) && len(name) == 15 && !known[tap[:14]] {
				errs = append(errs, netlink.LinkDel(link))
			}
		}
		return errors.Join(append(errs, l.tidy())...)
	})
}

// Able says whether this host can be plugged into anything: by doing it.
func (l *Links) Able() error {
	uid := "able"
	return l.locked(func() error {
		if err := l.tap(l.Tap(uid, 0), uid, nil, nil); err != nil {
			return fmt.Errorf("make a tap: %w", err)
		}
		err := l.unplug(uid)
		b := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: l.fresh()}}
		if e := netlink.LinkAdd(b); e != nil {
			return fmt.Errorf("make a bridge: %w", e)
		}
		return errors.Join(err, netlink.LinkDel(b))
	})
}

// Subnets are the ranges of IPv4 addresses of which this host has one, but for its
// loopback and the bridges that we made.
func Subnets() (list []string, err error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	for _, link := range all {
		if link.Attrs().Flags&net.FlagLoopback != 0 || ours(link) {
			continue
		}
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			ones, _ := a.Mask.Size()
			list = append(list, fmt.Sprintf("%s/%d", a.IP.Mask(a.Mask), ones))
		}
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}

// Traffic is what the guest of a VM has received and sent by its taps, so many.
func (l *Links) Traffic(uid string, taps int) (received, sent uint64) {
	for i := 0; i < MaxPlugs && taps > 0; i++ {
		link, err := netlink.LinkByName(l.Tap(uid, i))
		if err != nil {
			continue // another kind of interface has that number
		}
		taps--
		if s := link.Attrs().Statistics; s != nil { // what the host sends, the guest receives
			received, sent = received+s.TxBytes, sent+s.RxBytes
		}
	}
	return received, sent
}

// fresh is the name under which a bridge of this daemon comes into being.
func (l *Links) fresh() string { return bridgePrefix + l.host + "new" }

func (l *Links) lockFile() string { return filepath.Join(l.dir, "links.lock") }

// locked keeps the daemons apart that share this network, wherever their directories
// are: by the network namespace itself, and by a file for those of before.
func (l *Links) locked(do func() error) error {
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(l.lockFile(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	network, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer network.Close()
	for _, lock := range []*os.File{f, network} {
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
			return &os.PathError{Op: "lock", Path: lock.Name(), Err: err}
		}
	}
	return do()
}

// bridge is the one that is wanted: the one that is there, or one of ours.
func (l *Links) bridge(p Plug) (netlink.Link, error) {
	link, err := netlink.LinkByName(p.Bridge)
	if err == nil {
		if link.Type() != "bridge" {
			return nil, fmt.Errorf("it is there, and is no bridge (%s): take another name for the network's bridge", link.Type())
		}
		if ours(link) {
			if err := address(link, p.Address); err != nil {
				return nil, err
			}
		}
		return link, netlink.LinkSetUp(link)
	}
	if !errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, err
	}
	if err := l.abandoned(); err != nil {
		return nil, err
	}
	// A bridge without a hardware address of its own takes a port's, and loses it
	// with the port.
	h := sha256.Sum256([]byte(p.Bridge + l.host))
	attrs := netlink.LinkAttrs{Name: l.fresh(), HardwareAddr: net.HardwareAddr{2, h[0], h[1], h[2], h[3], h[4]}}
	link = &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(link); err != nil {
		return nil, err
	}
	for _, step := range []func() error{
		func() error { return netlink.LinkSetAlias(link, mark) },
		func() error { return netlink.LinkSetName(link, p.Bridge) },
		func() error { return address(link, p.Address) },
		func() error { return netlink.LinkSetUp(link) },
	} {
		between("bridge step")
		if err := step(); err != nil {
			return nil, errors.Join(err, netlink.LinkDel(link))
		}
	}
	return link, nil
}

func ours(link netlink.Link) bool { return link.Attrs().Alias == mark }

// address gives the host its own on a bridge that we made; two networks may share
// one.
func address(link netlink.Link, text string) error {
	a, err := netlink.ParseAddr(text)
	if err != nil {
		return err
	}
	all, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, other := range all {
		if other.LinkIndex != link.Attrs().Index && (other.Contains(a.IP) || a.Contains(other.IP)) {
			name := "another interface"
			if l, err := netlink.LinkByIndex(other.LinkIndex); err == nil {
				name = l.Attrs().Name
			}
			return fmt.Errorf("this host has %s on %s, which overlaps %s: it would not know where to send what is for one of them; give the network other addresses, or change the host's", other.IPNet, name, text)
		}
	}
	if err := netlink.AddrAdd(link, a); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("address %s: %w", text, err)
	}
	return nil
}

// tap makes a tap that stays when nobody has it open.
func (l *Links) tap(name, uid string, bridge netlink.Link, owner *shim.User) error {
	t := &netlink.Tuntap{
		LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TAP,
		Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR,
	}
	if owner != nil {
		t.Owner, t.Group = owner.UID, owner.GID
	}
	if err := netlink.LinkAdd(t); err != nil {
		return err
	}
	between("tap made")
	if err := netlink.LinkSetAlias(t, mark+" "+uid); err != nil {
		return err
	}
	if bridge == nil {
		return nil
	}
	between("tap marked")
	if err := netlink.LinkSetMaster(t, bridge); err != nil {
		return err
	}
	between("tap plugged")
	return netlink.LinkSetUp(t)
}

// unplug removes a VM's taps, and the bridges that are of no use any more.
func (l *Links) unplug(uid string) error {
	removed := false
	for i := range 2 * MaxPlugs {
		name := l.Tap(uid, i/2)
		if i%2 == 1 { // after its tap, which leads to it
			name = funnelOf(name)
		}
		link, err := netlink.LinkByName(name)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			continue
		}
		if err != nil {
			return err
		}
		if tapOf(link) == "" {
			return fmt.Errorf("%s is no tap: something else has a name of ours", link.Attrs().Name)
		}
		if err := netlink.LinkDel(link); err != nil {
			return fmt.Errorf("remove %s: %w", link.Attrs().Name, err)
		}
		removed = true
		between("tap removed")
	}
	if !removed {
		return nil
	}
	return l.tidy()
}

// tidy removes our bridges that nothing is plugged into.
func (l *Links) tidy() error {
	all, err := netlink.LinkList()
	if err != nil {
		return err
	}
	used := map[int]bool{}
	for _, link := range all {
		used[link.Attrs().MasterIndex] = true
	}
	errs := []error{l.abandoned()}
	for _, link := range all {
		if link.Type() == "bridge" && ours(link) && !used[link.Attrs().Index] && link.Attrs().Name != l.fresh() {
			errs = append(errs, netlink.LinkDel(link))
		}
	}
	return errors.Join(errs...)
}

// abandoned removes a bridge of this daemon that did not come to its name.
func (l *Links) abandoned() error {
	link, err := netlink.LinkByName(l.fresh())
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return err
	}
	return netlink.LinkDel(link)
}
