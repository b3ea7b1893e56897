package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority signs certificates for tests.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.key = key
	a.cert = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	a.write("ca.pem", "CERTIFICATE", der)
	return a
}

func (a *authority) write(name, kind string, der []byte) {
	if err := os.WriteFile(filepath.Join(a.dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// flags are those of a party of that name: a node serves, a user does not.
func (a *authority) flags(name string, serves bool, ips ...string) []string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	use := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if serves {
		use = append(use, x509.ExtKeyUsageServerAuth)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, ExtKeyUsage: use,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	for _, ip := range ips {
		c.IPAddresses = append(c.IPAddresses, net.ParseIP(ip))
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(name+".pem", "CERTIFICATE", der)
	a.write(name+".key", "PRIVATE KEY", secret)
	path := func(f string) string { return filepath.Join(a.dir, f) }
	return []string{"--tls-cert", path(name + ".pem"), "--tls-key", path(name + ".key"), "--tls-ca", path("ca.pem")}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	c := &Cluster{t: t, dir: t.TempDir()}
	t.Cleanup(c.down)
	alice := a.flags("alice", false)
	as := func(n *Node, args ...string) []string {
		return append(append([]string{"--server", n.Addr}, alice...), args...)
	}
	for _, name := range []string{"n1", "n2"} {
		n := c.Add(a.flags(name, true)...).Start()
		c.Eventually(20*time.Second, name+" answers", func() error {
			if r := c.Run(as(n, "cluster", "status")...); r.code != 0 {
				return usagef("%v", r)
			}
			return nil
		})
	}
	c.Must(as(c.Node(1), "cluster", "init", "--lease", "3s", "--renew", "600ms")...)
	c.Must(as(c.Node(2), "cluster", "join", c.Node(1).Addr)...)
	for _, n := range c.nodes {
		c.Must(as(n, create("on-"+n.Name)...)...)
	}
	if out := c.Must(as(c.Node(2), "vm", "logs", "on-n1")...); !strings.Contains(out, "tick 1\n") {
		t.Errorf("logs: %s", out)
	}
	if r := c.Run("--server", c.Node(1).Addr, "--timeout", "5s", "vm", "list"); r.code == 0 || !strings.Contains(r.err, "--tls-cert") {
		t.Errorf("a client without a certificate got %v", r)
	}
	stranger := newAuthority(t).flags("mallory", true)
	if r := c.Run(append([]string{"--server", c.Node(1).Addr, "--timeout", "5s"}, append(stranger, "vm", "list")...)...); r.code == 0 || !strings.Contains(r.err, "certificate") {
		t.Errorf("another CA's client got %v", r)
	} else {
		t.Logf("another CA's client: %s", r.err)
	}
	plain := up(t, 1)
	if r := plain.Run(append(alice, "--timeout", "5s", "vm", "list")...); r.code == 0 || !strings.Contains(r.err, "without TLS") {
		t.Errorf("a client with a certificate got of a server without: %v", r)
	}
}
