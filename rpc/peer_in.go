package rpc

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// ServeHTTP takes the connection of another node.
func (p *Peers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !nodeOnly(w, r, p.cfg.TLS) {
		return
	}
	self := p.identity()
	from, err := strconv.ParseUint(r.Header.Get(headFrom), 10, 64)
	switch {
	case r.Header.Get("Upgrade") != upgradeName:
		http.Error(w, "this path is the peers' channel: it wants Upgrade: "+upgradeName, http.StatusUpgradeRequired)
		return
	case self.ClusterID == "":
		http.Error(w, "this node is in no cluster", http.StatusServiceUnavailable)
		return
	case r.Header.Get(headCluster) != self.ClusterID:
		http.Error(w, "this node is in another cluster", http.StatusMisdirectedRequest)
		return
	case r.Header.Get(headTo) != strconv.FormatUint(self.ID, 10):
		http.Error(w, fmt.Sprintf("this is node %d, not the one that was called", self.ID), http.StatusMisdirectedRequest)
		return
	case err != nil || from == 0 || from == self.ID:
		http.Error(w, "the caller does not say which other node it is", http.StatusBadRequest)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "the peers' channel needs HTTP/1.1", http.StatusHTTPVersionNotSupported)
		return
	}
	p.start(func() { p.serve(conn, rw, from, r.Header.Get(headBulk) != "") })
}

func (p *Peers) serve(conn net.Conn, rw *bufio.ReadWriter, from uint64, bulk bool) {
	defer conn.Close()
	p.mu.Lock()
	p.in[conn] = struct{}{}
	closed := p.ctx.Err() != nil
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.in, conn)
		p.mu.Unlock()
	}()
	if closed {
		return
	}
	conn.SetDeadline(time.Time{})
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+upgradeName+"\r\n\r\n"); err != nil {
		return
	}
	var err error
	if bulk {
		err = p.receiveSnapshot(conn, rw.Reader, from)
	} else {
		err = p.receive(rw.Reader, from)
	}
	if err != nil && p.ctx.Err() == nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		p.cfg.Log.Debug("a peer's connection ended", "peer", from, "error", err)
	}
}

// receive delivers what comes, until the connection ends or says nonsense.
func (p *Peers) receive(r *bufio.Reader, from uint64) error {
	var buf bytes.Buffer
	for {
		if err := readFrame(r, &buf, maxFrame); err != nil {
			return err
		}
		e, err := decodeEnvelope(buf.Bytes())
		if err != nil {
			return err
		}
		if err := p.deliver(e, from); err != nil {
			return err
		}
		if buf.Cap() > 1<<20 {
			buf = bytes.Buffer{}
		}
	}
}

// decodeEnvelope reads what a peer sent. Nothing of b is kept.
func decodeEnvelope(b []byte) (*blixardv1.Envelope, error) {
	e := &blixardv1.Envelope{}
	if err := proto.Unmarshal(b, e); err != nil {
		return nil, fmt.Errorf("decode an envelope: %w", err)
	}
	return e, nil
}

// deliver passes an envelope on, unless it is another's: then it is dropped,
// as the node would do. A sender who calls himself by two names is an error.
func (p *Peers) deliver(e *blixardv1.Envelope, from uint64) error {
	self := p.identity()
	if e.From != from {
		return fmt.Errorf("node %d sent a message as node %d", from, e.From)
	}
	if e.ClusterId != self.ClusterID || e.To != self.ID {
		return nil
	}
	in, err := core.Unpack(e)
	if err != nil {
		return err
	}
	p.cfg.Deliver(in)
	return nil
}
