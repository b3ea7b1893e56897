package runner

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"syscall"

	"github.com/prometheus/procfs"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// The cluster knows which VM has which port of a host, and nothing of what else runs
// there. So a host looks before it starts what would only say "could not set up host
// forwarding rule".

// portsFree says which port of this host a VM cannot have, and who has it.
func portsFree(spec *blixardv1.VMSpec) error {
	for _, n := range spec.GetNetworks() {
		if n.GetUser() == nil {
			continue
		}
		for _, p := range n.Ports {
			if err := portFree(p); errors.Is(err, syscall.EADDRINUSE) {
				return fmt.Errorf("%s of its host is in use by %s: end that, or give the VM another port of its host (vm update --port)", portText(p), holderOf(p))
			} else if err != nil {
				return fmt.Errorf("%s of its host cannot be had: %w", portText(p), err)
			}
		}
	}
	return nil
}

// portFree opens a port, and closes it again.
func portFree(p *blixardv1.PortForward) error {
	at := net.JoinHostPort(p.Address, strconv.FormatUint(uint64(p.HostPort), 10))
	if p.Protocol == blixardv1.Protocol_PROTOCOL_UDP {
		c, err := new(net.ListenConfig).ListenPacket(context.Background(), "udp4", at)
		if err == nil {
			err = c.Close()
		}
		return err
	}
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp4", at)
	if err == nil {
		err = l.Close()
	}
	return err
}

func portText(p *blixardv1.PortForward) string {
	protocol := "TCP"
	if p.Protocol == blixardv1.Protocol_PROTOCOL_UDP {
		protocol = "UDP"
	}
	text := fmt.Sprintf("%s port %d", protocol, p.HostPort)
	if p.Address != "" {
		text += " at " + p.Address
	}
	return text
}

// holderOf is who has a port open, as far as this daemon may look.
func holderOf(p *blixardv1.PortForward) string {
	const unknown = "another program"
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return unknown
	}
	var inodes []string
	add := func(port, inode uint64) {
		if port == uint64(p.HostPort) && inode != 0 {
			inodes = append(inodes, fmt.Sprintf("socket:[%d]", inode))
		}
	}
	const listens = 0x0a
	if p.Protocol == blixardv1.Protocol_PROTOCOL_UDP {
		for _, look := range []func() (procfs.NetUDP, error){fs.NetUDP, fs.NetUDP6} {
			lines, _ := look()
			for _, l := range lines {
				add(l.LocalPort, l.Inode)
			}
		}
	} else {
		for _, look := range []func() (procfs.NetTCP, error){fs.NetTCP, fs.NetTCP6} {
			lines, _ := look()
			for _, l := range lines {
				if l.St == listens {
					add(l.LocalPort, l.Inode)
				}
			}
		}
	}
	procs, err := fs.AllProcs()
	if err != nil {
		return unknown
	}
	for _, proc := range procs {
		files, err := proc.FileDescriptorTargets()
		if err != nil || !slices.ContainsFunc(files, func(f string) bool { return slices.Contains(inodes, f) }) {
			continue
		}
		if name, err := proc.Comm(); err == nil {
			return fmt.Sprintf("%s (pid %d)", name, proc.PID)
		}
	}
	return unknown
}
