package vmm

import (
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Without an address, the port of the host that leads to the guest's is asked.
func TestReached(t *testing.T) {
	spec := &blixardv1.VMSpec{Networks: []*blixardv1.Interface{
		{Ports: []*blixardv1.PortForward{
			{HostPort: 5353, GuestPort: 80, Protocol: blixardv1.Protocol_PROTOCOL_UDP},
			{HostPort: 8080, GuestPort: 80},
			{HostPort: 8443, GuestPort: 443, Address: "192.0.2.7"},
			{HostPort: 8022, GuestPort: 22, Address: "0.0.0.0"},
		}},
	}}
	for _, c := range []struct {
		host string
		port uint32
		want string
		at   uint32
	}{{"", 80, "127.0.0.1", 8080}, {"", 443, "192.0.2.7", 8443}, {"", 22, "127.0.0.1", 8022}, {"192.0.2.1", 80, "192.0.2.1", 80}, {"", 81, "", 81}} {
		tcp := &blixardv1.Health{Probe: &blixardv1.Health_Tcp{Tcp: &blixardv1.TCPProbe{Host: c.host, Port: c.port}}}
		if got := reached(tcp, spec).GetTcp(); got.Host != c.want || got.Port != c.at {
			t.Errorf("tcp %s %d: asked at %s %d", c.host, c.port, got.Host, got.Port)
		}
		http := &blixardv1.Health{Probe: &blixardv1.Health_Http{Http: &blixardv1.HTTPProbe{Host: c.host, Port: c.port, Path: "/x"}}}
		if got := reached(http, spec).GetHttp(); got.Host != c.want || got.Port != c.at || got.Path != "/x" {
			t.Errorf("http %s %d: asked at %s %d", c.host, c.port, got.Host, got.Port)
		}
		if tcp.GetTcp().Host != c.host || http.GetHttp().Host != c.host {
			t.Error("the spec was changed")
		}
	}
}
