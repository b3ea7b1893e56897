//go:build linux && amd64

package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/guest/boot"
)

// serveNet gives the interfaces their addresses, and echoes on TCP port 7 for ever:
// whoever reads that an address is there can reach the echo.
func serveNet(out *console, nets []boot.Net, p boot.Params) {
	l, err := net.Listen("tcp4", ":7")
	if err != nil {
		out.say("error: network: %v", err)
		return
	}
	for _, n := range nets {
		name, err := interfaceOf(n)
		if err == nil {
			err = configure(name, n)
		}
		if err != nil {
			out.say("error: network: %v", err)
			continue
		}
		out.say("net %s %s", name, n.Addr)
	}
	if p.Dial != "" {
		go greet(out, p)
	}
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

// greet says its name to an echo, again and again.
func greet(out *console, p boot.Params) {
	once := func() error {
		c, err := net.DialTimeout("tcp4", p.Dial, 3*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(3 * time.Second))
		word := []byte("greetings from " + p.Name)
		if _, err := c.Write(word); err != nil {
			return err
		}
		back := make([]byte, len(word))
		if _, err := io.ReadFull(c, back); err != nil || string(back) != string(word) {
			return fmt.Errorf("heard %q: %w", back, err)
		}
		return nil
	}
	for ; ; time.Sleep(p.Tick) {
		if once() == nil { // it may not be there yet
			out.say("reached %s", p.Dial)
		}
	}
}

// interfaceOf waits for the interface with a hardware address, or of a name.
func interfaceOf(n boot.Net) (string, error) {
	for wait := 5 * time.Millisecond; wait < 10*time.Second; wait *= 2 {
		all, _ := net.Interfaces()
		for _, i := range all {
			if n.MAC != "" && i.HardwareAddr.String() == n.MAC || n.MAC == "" && i.Name == n.Device {
				return i.Name, nil
			}
		}
		time.Sleep(wait)
	}
	return "", fmt.Errorf("there is no interface %s %s", n.Device, n.MAC)
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
