//go:build linux && amd64

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/guest/boot"
)

// serveNet gives the first network interface its address and echoes on TCP
// port 7 for ever.
func serveNet(out *console, n boot.Net) {
	name, err := firstInterface()
	if err == nil {
		err = configure(name, n)
	}
	if err != nil {
		out.say("error: network: %v", err)
		return
	}
	l, err := net.Listen("tcp4", ":7")
	if err != nil {
		out.say("error: network: %v", err)
		return
	}
	out.say("net %s %s", name, n.Addr)
	for {
		c, err := l.Accept()
		if err != nil {
			time.Sleep(time.Second) // out of descriptors: some will be given back
			continue
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
	}
}

// firstInterface waits for an interface with hardware behind it.
func firstInterface() (string, error) {
	for wait := 5 * time.Millisecond; wait < 10*time.Second; wait *= 2 {
		if found, _ := filepath.Glob("/sys/class/net/*/device"); len(found) > 0 {
			return filepath.Base(filepath.Dir(found[0])), nil
		}
		time.Sleep(wait)
	}
	return "", errors.New("no interface found, although blixard.ip is given")
}

// configure sets address, mask and route with the old ioctls: one small
// request each, where netlink would need a library.
func configure(name string, n boot.Net) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	mask := netip.AddrFrom4([4]byte(net.CIDRMask(n.Addr.Bits(), 32)))
	for _, step := range []struct {
		what string
		req  uint
		set  func(*unix.Ifreq) error
	}{
		{"set address", unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(n.Addr.Addr().AsSlice()) }},
		{"set mask", unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr(mask.AsSlice()) }},
		{"bring up", unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil }},
	} {
		r, err := unix.NewIfreq(name)
		if err == nil {
			err = step.set(r)
		}
		if err == nil {
			err = unix.IoctlIfreq(fd, step.req, r)
		}
		if err != nil {
			return fmt.Errorf("%s: %s: %w", name, step.what, err)
		}
	}
	if n.Gateway.IsValid() {
		if err := addDefaultRoute(fd, n.Gateway); err != nil {
			return fmt.Errorf("%s: add route by %s: %w", name, n.Gateway, err)
		}
	}
	return nil
}

// rtentry is struct rtentry of <linux/route.h> on 64-bit; x/sys has none.
type rtentry struct {
	_                     uint64
	dst, gateway, genmask unix.RawSockaddrInet4
	flags                 uint16
	_                     int16
	_                     [4]byte
	_                     uint64
	_                     uintptr
	metric                int16
	_                     [6]byte
	dev                   uintptr
	mtu, window           uint64
	irtt                  uint16
	_                     [6]byte
}

func addDefaultRoute(fd int, gw netip.Addr) error {
	const up, gateway = 0x1, 0x2
	inet := unix.RawSockaddrInet4{Family: unix.AF_INET}
	r := rtentry{dst: inet, gateway: inet, genmask: inet, flags: up | gateway}
	r.gateway.Addr = gw.As4()
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCADDRT, uintptr(unsafe.Pointer(&r)))
	if errno != 0 {
		return os.NewSyscallError("ioctl", errno)
	}
	return nil
}
