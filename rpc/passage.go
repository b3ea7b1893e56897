package rpc

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// A guest that moves while it runs goes over a connection of its own, which begins
// as the peers' do, as an Upgrade on the API's port between two nodes of one
// cluster. From then on it is the hypervisors': bytes both ways, held back by TCP,
// cut by whoever closes it. Nothing here knows what they mean.
//
//	source host ── Upgrade: which VM, which migration, what machine ──► target host
//	            ◄── 101, or why not ──

const (
	passagePath  = "/blixard.internal/v1/passage"
	passageName  = "blixard-passage-v1"
	diskName     = "blixard-passage-disk-v1" // which a node may not know yet
	headShape    = "Blixard-Shape"
	maxShape     = 16 << 10
	passageAdmit = 10 * time.Second
)

// Passage is one guest on its way to a node.
type Passage struct {
	Node      uint64
	Address   string
	UID       string
	Migration uint64
	// Shape is the source's machine, for the target's host to judge.
	Shape string
	// Disk is which of its disks goes over it; "": its memory does.
	Disk string
}

// Stream is the connection that a guest goes over. Each way ends by itself.
type Stream interface {
	io.ReadWriteCloser
	CloseWrite() error
	SetWriteDeadline(time.Time) error
}

// Arrivals is where guests come in.
type Arrivals interface {
	// Admit gives what takes a guest, or why it is not taken. What it gives ends when
	// the guest has come, or will not come, and closes the stream.
	Admit(ctx context.Context, p Passage) (func(ctx context.Context, from Stream) error, error)
}

// protocol of what goes over it.
func (p Passage) protocol() string {
	if p.Disk != "" {
		return diskName
	}
	return passageName
}

// Passage opens the way of a guest to another node, which has admitted it when
// there is no error.
func (p *Peers) Passage(ctx context.Context, to Passage) (Stream, error) {
	self := p.identity()
	ctx, cancel := context.WithTimeout(ctx, dialTimeout+passageAdmit)
	defer cancel()
	conn, err := (&net.Dialer{Timeout: dialTimeout, KeepAlive: 5 * time.Second}).DialContext(ctx, "tcp", to.Address)
	if err != nil {
		return nil, fmt.Errorf("the host %s cannot be reached: %w", to.Address, err)
	}
	if c := p.cfg.TLS.client(); c != nil {
		c.NextProtos = []string{"http/1.1"}
		c.ServerName, _, _ = net.SplitHostPort(to.Address)
		conn = tls.Client(conn, c)
	}
	u := url.URL{Scheme: "http", Host: to.Address, Path: passagePath, RawQuery: url.Values{
		"uid": {to.UID}, "migration": {strconv.FormatUint(to.Migration, 10)}, "disk": {to.Disk},
	}.Encode()}
	req, err := http.NewRequest(http.MethodGet, u.String(), nil)
	if err != nil {
		conn.Close()
		return nil, err
	}
	for key, value := range map[string]string{
		"Connection": "Upgrade", "Upgrade": to.protocol(), headCluster: self.ClusterID,
		headFrom: strconv.FormatUint(self.ID, 10), headTo: strconv.FormatUint(to.Node, 10),
		headShape: url.QueryEscape(to.Shape),
	} {
		req.Header.Set(key, value)
	}
	in, err := ask(ctx, conn, req)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("the host %s does not take it: %w", to.Address, err)
	}
	return passage{conn.(halved), in}, nil
}

// ask sends a request for an Upgrade, and gives what follows the answer's head.
func ask(ctx context.Context, conn net.Conn, req *http.Request) (*bufio.Reader, error) {
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	defer conn.SetDeadline(time.Time{})
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return nil, fmt.Errorf("%s (%s)", strings.TrimSpace(string(why)), resp.Status)
	}
	return in, nil
}

// halved is a connection each way of which ends by itself.
type halved interface {
	net.Conn
	CloseWrite() error
}

// passage reads first what came with the head.
type passage struct {
	halved
	in *bufio.Reader
}

func (p passage) Read(b []byte) (int, error) { return p.in.Read(b) }

// servePassage takes a guest from another node.
func (s *Server) servePassage(w http.ResponseWriter, r *http.Request) {
	if !nodeOnly(w, r, s.cfg.TLS) {
		return
	}
	self := s.cfg.Backend.Status().Identity
	from, err := strconv.ParseUint(r.Header.Get(headFrom), 10, 64)
	migration, errMigration := strconv.ParseUint(r.URL.Query().Get("migration"), 10, 64)
	shape, errShape := url.QueryUnescape(r.Header.Get(headShape))
	p := Passage{Node: from, UID: r.URL.Query().Get("uid"), Migration: migration, Shape: shape, Disk: r.URL.Query().Get("disk")}
	switch {
	case r.Header.Get("Upgrade") != p.protocol():
		http.Error(w, "this path is for guests that move: it wants Upgrade: "+p.protocol(), http.StatusUpgradeRequired)
		return
	case s.cfg.Arrivals == nil || self.ClusterID == "":
		http.Error(w, "this node runs no VMs", http.StatusServiceUnavailable)
		return
	case r.Header.Get(headCluster) != self.ClusterID || r.Header.Get(headTo) != strconv.FormatUint(self.ID, 10):
		http.Error(w, fmt.Sprintf("this is node %d of another cluster, or not the one that was called", self.ID), http.StatusMisdirectedRequest)
		return
	case errors.Join(err, errMigration, errShape) != nil || from == 0 || len(shape) > maxShape:
		http.Error(w, "who sends what is not said", http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), passageAdmit)
	take, err := s.cfg.Arrivals.Admit(ctx, p)
	cancel()
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.cfg.Log.Warn("a guest cannot come in", "err", err)
		http.Error(w, "a guest's passage needs HTTP/1.1", http.StatusHTTPVersionNotSupported)
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_ = take(ended, nothing{})
		return
	}
	conn.SetDeadline(time.Time{})
	stream := passage{conn.(halved), rw.Reader}
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+p.protocol()+"\r\n\r\n"); err != nil {
		conn.Close()
	}
	// It ends with the node: the guest then runs on where it was.
	if err := take(s.stopping, stream); err != nil {
		s.cfg.Log.Info("a guest's passage has ended", "from", from, "uid", p.UID, "migration", migration, "disk", p.Disk, "err", err)
	}
}

// nothing is a stream that has ended.
type nothing struct{}

func (nothing) Read([]byte) (int, error)         { return 0, io.EOF }
func (nothing) Write([]byte) (int, error)        { return 0, io.ErrClosedPipe }
func (nothing) Close() error                     { return nil }
func (nothing) CloseWrite() error                { return nil }
func (nothing) SetWriteDeadline(time.Time) error { return nil }
