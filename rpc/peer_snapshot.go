package rpc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core"
)

// A snapshot's connection carries the envelope as one frame, the encoded state
// as frames of a chunk each, and an empty frame. The receiver answers one byte
// once it has delivered the whole.
const snapshotTaken = 1

// sendSnapshot carries one snapshot over and says what became of it.
func (p *Peers) sendSnapshot(m core.Message) {
	err := p.carrySnapshot(m)
	if err != nil {
		p.cfg.Log.Warn("a snapshot did not arrive; Raft will send another", "peer", m.To, "error", err)
	}
	p.cfg.Deliver(core.SnapshotSent{To: m.To, OK: err == nil})
}

func (p *Peers) carrySnapshot(m core.Message) error {
	if m.Address == "" || p.identity().ClusterID == "" {
		return errors.New("no address")
	}
	conn, err := p.dial(p.ctx, m.To, m.Address, true)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(p.ctx, func() { conn.Close() })()
	state, err := proto.Marshal(m.State.Encode())
	if err != nil {
		return err
	}
	head, err := proto.Marshal(m.Pack())
	if err != nil {
		return err
	}
	if len(state) > maxSnapshot || len(head) > maxFrame {
		return fmt.Errorf("a state of %d bytes is more than a snapshot can carry", len(state))
	}
	send := func(b []byte) error {
		conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		_, err := conn.Write(appendFrame(nil, b))
		return err
	}
	if err := send(head); err != nil {
		return err
	}
	for len(state) > 0 {
		n := min(chunk, len(state))
		if err := send(state[:n]); err != nil {
			return err
		}
		state = state[n:]
	}
	if err := send(nil); err != nil {
		return err
	}
	conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	var answer [1]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return fmt.Errorf("the peer did not take it: %w", err)
	}
	return nil
}

func (p *Peers) receiveSnapshot(conn net.Conn, r *bufio.Reader, from uint64) error {
	var frame bytes.Buffer
	read := func(limit uint32) error {
		conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		return readFrame(r, &frame, limit)
	}
	if err := read(maxFrame); err != nil {
		return err
	}
	e, err := decodeEnvelope(frame.Bytes())
	if err != nil {
		return err
	}
	e.Snapshot = nil
	for {
		if err := read(chunk); err != nil {
			return err
		}
		if frame.Len() == 0 {
			break
		}
		if len(e.Snapshot)+frame.Len() > maxSnapshot {
			return errors.New("a snapshot is longer than any may be")
		}
		e.Snapshot = append(e.Snapshot, frame.Bytes()...)
	}
	if err := p.deliver(e, from); err != nil {
		return err
	}
	conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err = conn.Write([]byte{snapshotTaken})
	return err
}
