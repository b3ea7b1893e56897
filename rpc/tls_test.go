package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func TestListenBeyondLoopback(t *testing.T) {
	for address, ok := range map[string]bool{
		"127.0.0.1:0": true, "localhost:0": true, "[::1]:0": true,
		"0.0.0.0:0": false, ":0": false, "[::]:0": false, "192.0.2.1:0": false, "nonsense": false,
	} {
		l, err := Listen(address, nil)
		if err == nil {
			l.Close()
		}
		if ok && err != nil && !strings.Contains(err.Error(), "cannot assign") {
			t.Errorf("%s: %v", address, err)
		}
		if !ok && err == nil {
			t.Errorf("%s is listened on without TLS", address)
		}
		if address == "0.0.0.0:0" && !strings.Contains(err.Error(), "tls.cert") {
			t.Errorf("it does not say what to do: %v", err)
		}
	}
	l, err := Listen("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Listen(l.Addr().String(), nil); err == nil || !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("a port in use: %v", err)
	}
}

func TestTLS(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	n, host := &node{}, &node{hostOnly: true}
	certs := map[string]*TLS{"n1": ca.node("n1"), "n2": ca.node("n2")}
	w := serve(t, func(name string) *TLS { return certs[name] }, n, host)
	get := func(tls *TLS) error {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := dial(t, tls, n).Node.List(ctx, connect.NewRequest(&blixardv1.NodeServiceListRequest{}))
		return err
	}
	if err := get(ca.user("alice")); err != nil {
		t.Errorf("the right certificate: %v", err)
	}
	if err := get(other.user("mallory")); err == nil {
		t.Error("another CA's certificate is taken")
	}
	if err := get(nil); err == nil {
		t.Error("a client without TLS is taken")
	}
	for name, c := range map[string]*tls.Config{
		"no certificate": {RootCAs: ca.user("bob").ca},
		"TLS 1.2": func() *tls.Config {
			c := ca.user("carol").client()
			c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			return c
		}(),
	} {
		resp, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: c}}).Get("https://" + n.address + "/")
		if err == nil {
			resp.Body.Close()
			t.Errorf("%s: is taken", name)
		}
	}
	// The principal is the certificate's name, also through a host.
	alice := ca.user("alice")
	for i, through := range []*node{n, host} {
		name := string(rune('a' + i))
		if _, err := dial(t, alice, through).VM.Create(t.Context(), connect.NewRequest(&blixardv1.CreateRequest{Name: name, Spec: processSpec()})); err != nil {
			t.Fatal(err)
		}
		if got := w.cmds[len(w.cmds)-1].Principal; got != "alice" {
			t.Errorf("through %s the principal is %q", through.name, got)
		}
	}
	// A user speaks for nobody else, and is no node.
	forged := connect.NewRequest(&blixardv1.CreateRequest{Name: "c", Spec: processSpec()})
	forged.Header().Set(principalHeader, "root")
	if _, err := dial(t, alice, n).VM.Create(t.Context(), forged); err != nil || w.cmds[len(w.cmds)-1].Principal != "alice" {
		t.Errorf("a forged principal: %v, %q", err, w.cmds[len(w.cmds)-1].Principal)
	}
	if _, err := dial(t, alice, n).Cluster.AddMember(t.Context(), connect.NewRequest(&blixardv1.AddMemberRequest{Name: "x", Address: "a:1", Host: true})); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("a user adds a member: %v", err)
	}
	resp, err := (&http.Client{Transport: transport(alice)}).Get("https://" + n.address + logsPath + "?tail=0")
	if err != nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("a user on an internal path: %v, %v", resp, err)
	}
	resp.Body.Close()
}

func TestLoadTLS(t *testing.T) {
	ca := newAuthority(t)
	ca.node("n1")
	f := func(name string) string { return filepath.Join(ca.dir, name) }
	if got, err := LoadTLS("", "", ""); got != nil || err != nil {
		t.Errorf("nothing: %v, %v", got, err)
	}
	for _, c := range [][3]string{
		{f("n1.pem"), f("n1.key"), ""},
		{f("n1.pem"), "", f("ca.pem")},
		{f("n1.pem"), f("n1.key"), f("n1.key")},
		{f("n1.pem"), f("ca.pem"), f("ca.pem")},
		{f("gone.pem"), f("n1.key"), f("ca.pem")},
		{f("n1.pem"), f("n1.key"), f("gone.pem")},
	} {
		if got, err := LoadTLS(c[0], c[1], c[2]); got != nil || err == nil {
			t.Errorf("%v: %v, %v", c, got, err)
		}
	}
}

func TestServerNameIsVerified(t *testing.T) {
	ca := newAuthority(t)
	l, err := Listen("127.0.0.1:0", ca.node("n1"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { c.(*tls.Conn).Handshake(); c.Close() }()
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_, err = (&http.Client{Transport: transport(ca.user("alice"))}).Get("https://localhost:" + port)
	if err == nil || !strings.Contains(err.Error(), "localhost") {
		t.Errorf("a certificate for another name: %v", err)
	}
}
