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
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core"
)

// peer is the way to one other node.
type peer struct {
	p       *Peers
	id      uint64
	address string
	queue   queue
	ctx     context.Context
	cancel  context.CancelFunc
}

func newPeer(p *Peers, id uint64, address string) *peer {
	o := &peer{p: p, id: id, address: address, queue: queue{ready: make(chan struct{}, 1)}}
	o.ctx, o.cancel = context.WithCancel(p.ctx)
	return o
}

func (o *peer) run() {
	defer o.cancel()
	backoff := firstBackoff
	for o.wait() {
		conn, err := o.p.dial(o.ctx, o.id, o.address, false)
		if err != nil {
			o.p.cfg.Log.Debug("no connection to a peer", "peer", o.id, "address", o.address, "error", err)
			o.sleep(backoff)
			backoff = min(2*backoff, lastBackoff)
			o.queue.take() // stale by now
			continue
		}
		backoff = firstBackoff
		if o.carry(conn); o.ctx.Err() == nil {
			o.probe()
		}
	}
}

// wait returns once there is something to send; false: there will not be.
func (o *peer) wait() bool {
	for {
		if o.ctx.Err() != nil {
			return false
		}
		if !o.queue.empty() {
			return true
		}
		idle := time.NewTimer(idlePeer)
		select {
		case <-o.ctx.Done():
		case <-o.queue.ready:
		case <-idle.C:
			if o.p.forget(o) {
				return false
			}
		}
		idle.Stop()
	}
}

func (o *peer) sleep(d time.Duration) {
	select {
	case <-o.ctx.Done():
	case <-time.After(d):
	}
}

// carry writes what is queued until the connection ends.
func (o *peer) carry(conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(o.ctx, func() { conn.Close() })()
	// Nothing comes on this connection but its end, which is seen at once.
	ended := make(chan struct{})
	o.p.wg.Go(func() {
		defer close(ended)
		io.Copy(io.Discard, conn)
	})
	idle := time.NewTimer(idlePeer)
	defer idle.Stop()
	var buf []byte
	for {
		for _, m := range o.queue.take() {
			at := len(buf)
			buf = append(buf, 0, 0, 0, 0)
			b, err := proto.MarshalOptions{}.MarshalAppend(buf, m.Pack())
			n := len(b) - at - frameHead
			if err != nil || n > maxFrame {
				o.p.cfg.Log.Error("a message to a peer was dropped: it is too big or does not encode", "peer", o.id, "bytes", n, "error", err)
				buf = buf[:at]
				continue
			}
			buf = b
			buf[at], buf[at+1], buf[at+2], buf[at+3] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
		}
		if len(buf) > 0 {
			conn.SetWriteDeadline(time.Now().Add(writeTimeout))
			if _, err := conn.Write(buf); err != nil {
				return
			}
			idle.Reset(idlePeer)
		}
		if buf = buf[:0]; cap(buf) > 1<<20 {
			buf = nil
		}
		select {
		case <-ended:
			return
		case <-o.queue.ready:
		case <-idle.C:
			if o.p.forget(o) {
				o.cancel()
				return
			}
		}
	}
}

// probe says PeerLost when nobody listens any more where a connection has just
// ended. A dying process closes its sockets one after the other, and so may
// still take a connection that it never answers: then we look again.
func (o *peer) probe() {
	for range 20 {
		ctx, cancel := context.WithTimeout(o.ctx, 250*time.Millisecond)
		conn, err := o.p.dial(ctx, o.id, o.address, false)
		cancel()
		switch {
		case err == nil:
			conn.Close()
			return
		case errors.Is(err, syscall.ECONNREFUSED):
			o.p.cfg.Log.Info("a peer's process is gone", "peer", o.id, "address", o.address)
			o.p.cfg.Deliver(core.PeerLost{Peer: o.id})
			return
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
			o.sleep(5 * time.Millisecond)
		default:
			return // unreachable or refused by a living process: no news
		}
	}
}

// dial opens a connection to a peer and upgrades it.
func (p *Peers) dial(ctx context.Context, id uint64, address string, bulk bool) (net.Conn, error) {
	self := p.identity()
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := (&net.Dialer{KeepAlive: 5 * time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if c := p.cfg.TLS.client(); c != nil {
		c.NextProtos = []string{"http/1.1"}
		c.ServerName, _, _ = net.SplitHostPort(address)
		conn = tls.Client(conn, c)
	}
	if err := upgrade(ctx, conn, address, self, id, bulk); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func upgrade(ctx context.Context, conn net.Conn, address string, self core.Identity, id uint64, bulk bool) error {
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	defer conn.SetDeadline(time.Time{})
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	req, err := http.NewRequest(http.MethodGet, "http://"+address+peerPath, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", upgradeName)
	req.Header.Set(headCluster, self.ClusterID)
	req.Header.Set(headFrom, strconv.FormatUint(self.ID, 10))
	req.Header.Set(headTo, strconv.FormatUint(id, 10))
	if bulk {
		req.Header.Set(headBulk, "1")
	}
	if err := req.Write(conn); err != nil {
		return err
	}
	// The other side says nothing after its head until a snapshot is whole, so
	// the reader holds nothing back.
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		return fmt.Errorf("the peer refused: %s: %s", resp.Status, strings.TrimSpace(string(why)))
	}
	return nil
}
