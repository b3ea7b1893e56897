package runner

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Who has a port is named, and what is free is not complained about.
func TestPortsOfTheHost(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp4", "127.0.0.3:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	u, err := net.ListenPacket("udp4", "127.0.0.3:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	spec := func(p *blixardv1.PortForward) *blixardv1.VMSpec {
		return &blixardv1.VMSpec{Networks: []*blixardv1.Interface{{
			Kind: &blixardv1.Interface_User{User: &blixardv1.UserInterface{}}, Ports: []*blixardv1.PortForward{p},
		}}}
	}
	tcp, udp := uint32(l.Addr().(*net.TCPAddr).Port), uint32(u.LocalAddr().(*net.UDPAddr).Port)
	me := fmt.Sprintf("(pid %d)", os.Getpid())
	for _, c := range []struct {
		port  *blixardv1.PortForward
		words []string
	}{
		{&blixardv1.PortForward{HostPort: tcp}, []string{fmt.Sprintf("TCP port %d of its host", tcp), me, "vm update --port"}},
		{&blixardv1.PortForward{HostPort: tcp, Address: "127.0.0.3"}, []string{fmt.Sprintf("TCP port %d at 127.0.0.3", tcp), me}},
		{&blixardv1.PortForward{HostPort: udp, Protocol: blixardv1.Protocol_PROTOCOL_UDP}, []string{fmt.Sprintf("UDP port %d", udp), me}},
		{&blixardv1.PortForward{HostPort: tcp, Address: "127.0.0.4"}, nil},
		{&blixardv1.PortForward{HostPort: 1, Address: "192.0.2.77"}, []string{"cannot be had"}},
	} {
		err := portsFree(spec(c.port))
		if (err == nil) != (c.words == nil) {
			t.Errorf("%v: %v", c.port, err)
		}
		for _, w := range c.words {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%v: %v, without %q", c.port, err, w)
			}
		}
	}
}
