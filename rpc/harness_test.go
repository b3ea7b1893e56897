package rpc

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// world is a cluster without raft: one state that its nodes share.
type world struct {
	mu    sync.Mutex
	state *cluster.State
	index uint64
	// down: there is no quorum.
	down bool
	cmds []*blixardv1.Command
}

func newWorld(t *testing.T, servers ...*node) *world {
	w := &world{state: cluster.New()}
	settings := cluster.DefaultSettings()
	for i, n := range servers {
		add := &blixardv1.AddNodeOp{Name: n.name, Address: n.address, Server: !n.hostOnly, Host: true, Level: cluster.Level}
		cmd := &blixardv1.Command{Op: &blixardv1.Command_AddNode{AddNode: add}}
		if i == 0 {
			cmd.Op = &blixardv1.Command_Init{Init: &blixardv1.InitOp{ClusterId: "test", Generation: 1, Settings: settings, Node: add}}
		}
		resp := w.apply(cmd)
		if resp.GetError() != nil {
			t.Fatal(resp.Error)
		}
		n.world = w
		w.state.Nodes(func(x *blixardv1.Node) bool {
			if x.Name == n.name {
				n.id = x.Id
			}
			return true
		})
	}
	var voters []uint64
	for _, n := range servers {
		if !n.hostOnly {
			voters = append(voters, n.id)
		}
	}
	w.index++
	w.state.Reconfigure(w.index, 1, voters, nil)
	return w
}

func (w *world) apply(cmd *blixardv1.Command) *blixardv1.Response {
	w.index++
	cmd = proto.Clone(cmd).(*blixardv1.Command)
	cmd.LoggedTime, cmd.WallTime = w.index*1e6, time.Now().UnixNano()
	w.cmds = append(w.cmds, cmd)
	return w.state.Apply(w.index, 1, cmd)
}

// boot makes a node a host that VMs can be placed on.
func (w *world) boot(id uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.apply(&blixardv1.Command{Op: &blixardv1.Command_HostBoot{HostBoot: &blixardv1.HostBootOp{
		NodeId: id, BootId: fmt.Sprint("boot", id),
		Facts: &blixardv1.HostFacts{
			Capacity:    &blixardv1.Resources{Vcpus: 4, MemoryMib: 4096, DiskMib: 10000},
			Hypervisors: []*blixardv1.HypervisorFact{{Hypervisor: blixardv1.Hypervisor_HYPERVISOR_PROCESS}, {Hypervisor: blixardv1.Hypervisor_HYPERVISOR_QEMU}},
			HoldsForks:  true, Nix: true,
		}}}})
}

// node is one fake Backend, with its store and its consoles.
type node struct {
	*world
	name, address string
	id            uint64
	hostOnly      bool
	outside       bool
	servers       []*blixardv1.Node

	server *Server
	blobs  *dirBlobs
	logs   *fakeLogs
	guests *fakeGuests
	// What the Config may have.
	closures Closures
	arrivals Arrivals
	checkVM  func(context.Context, *blixardv1.VMSpec) error
	log      *slog.Logger
	opened   func(string) func(error)
}

func (n *node) Do(ctx context.Context, cmd *blixardv1.Command) (*blixardv1.Response, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.down {
		return &blixardv1.Response{Error: &blixardv1.Error{Code: blixardv1.ErrorCode_ERROR_CODE_NO_QUORUM, Message: "no leader", Advice: "retry"}}, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return n.apply(cmd), nil
}

func (n *node) Read(_ context.Context, stale bool) (*cluster.State, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.down && !stale {
		return nil, &Refusal{&blixardv1.Error{Code: blixardv1.ErrorCode_ERROR_CODE_NO_QUORUM, Message: "no leader"}}
	}
	return n.state.Freeze(), nil
}

func (n *node) One(ctx context.Context, name string, stale bool) (*cluster.One, error) {
	view, err := n.Read(ctx, stale)
	if err != nil {
		return nil, err
	}
	return view.One(name), nil
}

func (n *node) Await(ctx context.Context, after uint64) (*cluster.State, error) {
	for {
		n.mu.Lock()
		view := n.state.Freeze()
		n.mu.Unlock()
		if view.Revision() > after {
			return view, nil
		}
		select {
		case <-ctx.Done():
			return view, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (n *node) Status() core.Status {
	st := core.Status{Servers: n.servers}
	if !n.outside {
		st.Identity = core.Identity{ClusterID: "test", Generation: 1, ID: n.id, Name: n.name, Address: n.address, Server: !n.hostOnly, Host: true}
		st.Quorum, st.Leader = true, 1
	}
	return st
}

func (n *node) Init(context.Context, *blixardv1.InitRequest) (*blixardv1.InitResponse, error) {
	n.outside = false
	return &blixardv1.InitResponse{ClusterId: "test", NodeId: n.id}, nil
}

func (n *node) Restore(_ context.Context, backup *cluster.State, opts *blixardv1.RestoreOptions) (*blixardv1.RestoreResponse, error) {
	m := backup.Meta()
	return &blixardv1.RestoreResponse{ClusterId: m.ClusterId, Generation: m.Generation + 1, WaitMs: uint64(len(opts.String()))}, nil
}

func (n *node) Rejoin(_ context.Context, req *blixardv1.RejoinRequest) (*blixardv1.RejoinResponse, error) {
	return &blixardv1.RejoinResponse{Renamed: req.Server}, nil
}

func (n *node) Join(_ context.Context, req *blixardv1.JoinRequest) (*blixardv1.JoinResponse, error) {
	return nil, errors.New("not here")
}

// dirBlobs is the simplest store that keeps the contract.
type dirBlobs struct{ dir string }

func (d dirBlobs) Put(_ context.Context, r io.Reader, digest string, size uint64) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if digestOf(b) != digest || uint64(len(b)) != size {
		return errors.New("corrupt")
	}
	return os.WriteFile(filepath.Join(d.dir, digest), b, 0o600)
}
func (d dirBlobs) Open(_ context.Context, digest string) (*os.File, error) {
	return os.Open(filepath.Join(d.dir, digest))
}
func (d dirBlobs) Has(digest string) (uint64, bool) {
	st, err := os.Stat(filepath.Join(d.dir, digest))
	if err != nil {
		return 0, false
	}
	return uint64(st.Size()), true
}
func (d dirBlobs) Delete(digest string) error { return os.Remove(filepath.Join(d.dir, digest)) }
func (d dirBlobs) list() ([]string, error) {
	es, err := os.ReadDir(d.dir)
	var out []string
	for _, e := range es {
		out = append(out, e.Name())
	}
	return out, err
}

func digestOf(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// fakeLogs has one console for every uid, once it is written to, and a build
// log that is a console of its own.
type fakeLogs struct {
	mu    sync.Mutex
	text  string
	live  *io.PipeReader
	build *fakeLogs
}

func (l *fakeLogs) BuildLogs(ctx context.Context, uid string, follow bool, tail uint64) (io.ReadCloser, error) {
	return l.build.Logs(ctx, uid, follow, tail)
}

func (l *fakeLogs) Logs(_ context.Context, uid string, follow bool, tail uint64) (io.ReadCloser, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text == "" {
		return nil, fs.ErrNotExist
	}
	text := l.text
	if tail != 0 && tail < uint64(len(text)) {
		text = text[uint64(len(text))-tail:]
	}
	if !follow {
		return io.NopCloser(strings.NewReader(text)), nil
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(strings.NewReader(text), l.live), l.live}, nil
}

func (l *fakeLogs) write(s string) {
	l.mu.Lock()
	l.text += s
	l.mu.Unlock()
}

// serve brings nodes up as one cluster.
func serve(t *testing.T, tlsOf func(string) *TLS, nodes ...*node) *world {
	t.Helper()
	listeners := make([]net.Listener, len(nodes))
	for i, n := range nodes {
		if n.name == "" {
			n.name = fmt.Sprintf("n%d", i+1)
		}
		l, err := Listen("127.0.0.1:0", tlsOf(n.name))
		if err != nil {
			t.Fatal(err)
		}
		listeners[i], n.address = l, l.Addr().String()
	}
	w := newWorld(t, nodes...)
	for _, n := range nodes {
		w.state.Nodes(func(x *blixardv1.Node) bool {
			if x.Server != blixardv1.ServerState_SERVER_STATE_UNSPECIFIED {
				n.servers = append(n.servers, x)
			}
			return true
		})
	}
	for i, n := range nodes {
		n.blobs = &dirBlobs{t.TempDir()}
		n.logs = &fakeLogs{build: &fakeLogs{}}
		n.guests = &fakeGuests{node: n.name}
		n.server = NewServer(Config{Backend: n, Blobs: n.blobs, Logs: n.logs, Guests: n.guests, Closures: n.closures, Arrivals: n.arrivals, CheckVM: n.checkVM, TLS: tlsOf(n.name), Version: "test", Log: n.log, Opened: n.opened})
		go n.server.Serve(listeners[i])
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			n.server.Shutdown(ctx)
		})
	}
	return w
}

func noTLS(string) *TLS { return nil }

func dial(t *testing.T, tls *TLS, nodes ...*node) *Client {
	var addresses []string
	for _, n := range nodes {
		addresses = append(addresses, n.address)
	}
	c := Dial(addresses, tls)
	t.Cleanup(c.Close)
	return c
}

func processSpec() *blixardv1.VMSpec {
	return &blixardv1.VMSpec{Source: &blixardv1.VMSpec_Process{Process: &blixardv1.Process{Argv: []string{"/bin/sleep", "1"}}}}
}

// authority makes certificates.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, _ = x509.ParseCertificate(der)
	a.write("ca.pem", "CERTIFICATE", der)
	return a
}

func (a *authority) write(name, kind string, der []byte) string {
	path := filepath.Join(a.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

// issue gives a certificate for 127.0.0.1, or for clients only.
func (a *authority) issue(name string, usage ...x509.ExtKeyUsage) *TLS {
	a.t.Helper()
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: usage, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	kder, _ := x509.MarshalECPrivateKey(key)
	t, err := LoadTLS(a.write(name+".pem", "CERTIFICATE", der), a.write(name+".key", "EC PRIVATE KEY", kder), filepath.Join(a.dir, "ca.pem"))
	if err != nil {
		a.t.Fatal(err)
	}
	return t
}

func (a *authority) node(name string) *TLS {
	return a.issue(name, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth)
}

func (a *authority) user(name string) *TLS { return a.issue(name, x509.ExtKeyUsageClientAuth) }
