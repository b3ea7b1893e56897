package rpc

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// end is one end of the channel, and what was delivered there.
type end struct {
	*Peers
	id      uint64
	address string
	server  *http.Server
	got     chan core.Input
}

func newEnd(t *testing.T, id uint64, address string, tls *TLS) *end {
	t.Helper()
	l, err := Listen(address, tls)
	if err != nil {
		t.Fatal(err)
	}
	e := &end{id: id, address: l.Addr().String(), got: make(chan core.Input, 10000)}
	e.Peers = NewPeers(PeersConfig{TLS: tls, Deliver: func(in core.Input) { e.got <- in }})
	e.Identify(core.Identity{ClusterID: "test", ID: id})
	mux := http.NewServeMux()
	mux.Handle(peerPath, e.Peers)
	e.server = &http.Server{Handler: mux}
	go e.server.Serve(l)
	t.Cleanup(e.shut)
	return e
}

func (e *end) shut() {
	e.server.Close()
	e.Peers.Close()
}

func (e *end) to(x *end, nonce uint64) core.Message {
	return core.Message{To: x.id, Address: x.address, Envelope: &blixardv1.Envelope{
		ClusterId: "test", From: e.id, To: x.id, Body: &blixardv1.Envelope_Sync{Sync: &blixardv1.Sync{Nonce: nonce}}}}
}

func (e *end) next(t *testing.T) core.Input {
	t.Helper()
	select {
	case in := <-e.got:
		return in
	case <-time.After(time.Minute):
		t.Fatal("nothing came")
		return nil
	}
}

func nonce(in core.Input) uint64 { return in.(core.Receive).Envelope.GetSync().GetNonce() }

func TestPeersInOrder(t *testing.T) {
	ca := newAuthority(t)
	for _, tls := range []*TLS{nil, ca.node("n")} {
		a, b := newEnd(t, 1, "127.0.0.1:0", tls), newEnd(t, 2, "127.0.0.1:0", tls)
		for i := range uint64(1000) {
			a.Send(a.to(b, i+1))
		}
		for i := range uint64(1000) {
			if got := nonce(b.next(t)); got != i+1 {
				t.Fatalf("message %d came as number %d", got, i+1)
			}
		}
	}
}

func TestPeersReconnect(t *testing.T) {
	a, b := newEnd(t, 1, "127.0.0.1:0", nil), newEnd(t, 2, "127.0.0.1:0", nil)
	a.Send(a.to(b, 1))
	b.next(t)
	b.shut()
	if _, ok := a.next(t).(core.PeerLost); !ok {
		t.Fatal("no PeerLost")
	}
	b = newEnd(t, 2, b.address, nil)
	for i := uint64(2); ; i++ { // what is sent meanwhile may be lost
		a.Send(a.to(b, i))
		select {
		case <-b.got:
			return
		case <-time.After(20 * time.Millisecond):
		}
		if i > 3000 {
			t.Fatal("it never came back")
		}
	}
}

// Nobody takes anything: Send must not block, and the oldest go.
func TestPeersUnderPressure(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a := newEnd(t, 1, "127.0.0.1:0", nil)
	dead := &end{id: 2, address: l.Addr().String()}
	begun := time.Now()
	for i := range uint64(3 * maxQueue) {
		a.Send(a.to(dead, i))
	}
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("Send blocked for %s", took)
	}
	q := &queue{ready: make(chan struct{}, 1)}
	for i := range uint64(maxQueue + 10) {
		q.push(a.to(dead, i))
	}
	if l := q.take(); len(l) != maxQueue || l[0].Envelope.GetSync().Nonce != 10 {
		t.Errorf("the queue kept %d, from %d", len(l), l[0].Envelope.GetSync().Nonce)
	}
}

func TestPeersDropWhatIsNotTheirs(t *testing.T) {
	a, b := newEnd(t, 1, "127.0.0.1:0", nil), newEnd(t, 2, "127.0.0.1:0", nil)
	m := a.to(b, 1)
	m.Envelope.ClusterId = "other"
	a.Send(m)
	m = a.to(b, 2)
	m.Envelope.To = 3
	a.Send(m)
	a.Send(a.to(b, 3))
	if got := nonce(b.next(t)); got != 3 {
		t.Errorf("message %d came", got)
	}
	b.Identify(core.Identity{ClusterID: "elsewhere", ID: 2})
	if _, err := a.dial(t.Context(), 2, b.address, false); err == nil || !strings.Contains(err.Error(), "another cluster") {
		t.Errorf("another cluster: %v", err)
	}
	if _, err := a.dial(t.Context(), 7, a.address, false); err == nil || !strings.Contains(err.Error(), "not the one") {
		t.Errorf("another node: %v", err)
	}
}

func TestPeersWantANodesCertificate(t *testing.T) {
	ca := newAuthority(t)
	b := newEnd(t, 2, "127.0.0.1:0", ca.node("b"))
	user := NewPeers(PeersConfig{TLS: ca.user("alice")})
	defer user.Close()
	user.Identify(core.Identity{ClusterID: "test", ID: 1})
	if _, err := user.dial(t.Context(), 2, b.address, false); err == nil || !strings.Contains(err.Error(), "serverAuth") {
		t.Errorf("a user's certificate: %v", err)
	}
}

// bigState is a state of some 30 MB.
func bigState(t *testing.T) *cluster.State {
	w := newWorld(t, &node{name: "n1", address: "127.0.0.1:1"})
	arg := strings.Repeat("x", 30000)
	for i := range 1000 {
		w.apply(&blixardv1.Command{Op: &blixardv1.Command_CreateVm{CreateVm: &blixardv1.CreateVMOp{Name: fmt.Sprint("vm", i),
			Spec: &blixardv1.VMSpec{Source: &blixardv1.VMSpec_Process{Process: &blixardv1.Process{Argv: []string{"/bin/echo", arg}}}}}}})
	}
	return w.state.Freeze()
}

func TestSnapshotLetsHeartbeatsPass(t *testing.T) {
	a, b := newEnd(t, 1, "127.0.0.1:0", nil), newEnd(t, 2, "127.0.0.1:0", nil)
	m := a.to(b, 0)
	m.Envelope.Body, m.Raft = nil, &raftpb.Message{Type: raftpb.MsgSnap.Enum()}
	m.State = bigState(t)
	a.Send(m)
	var worst time.Duration
	for i := uint64(1); ; i++ {
		begun := time.Now()
		a.Send(a.to(b, i))
		in := b.next(t)
		if e := in.(core.Receive).Envelope; in.(core.Receive).Raft.GetType() == raftpb.MsgSnap {
			var got blixardv1.Snapshot
			if err := proto.Unmarshal(e.Snapshot, &got); err != nil || !proto.Equal(&got, m.State.Encode()) {
				t.Fatalf("the snapshot is not what was sent: %d bytes, %v", len(e.Snapshot), err)
			}
			if i == 1 {
				t.Error("no heartbeat has overtaken the snapshot")
			}
			t.Logf("%d MB; the slowest heartbeat took %s", len(e.Snapshot)>>20, worst)
			break
		}
		worst = max(worst, time.Since(begun))
	}
	if sent, ok := a.next(t).(core.SnapshotSent); !ok || !sent.OK || sent.To != 2 {
		t.Errorf("SnapshotSent: %v", sent)
	}
	m.Address = "127.0.0.1:1"
	a.Send(m)
	if sent, ok := a.next(t).(core.SnapshotSent); !ok || sent.OK {
		t.Errorf("SnapshotSent to nobody: %v", sent)
	}
}

// TestMain also plays a node that is to be killed.
func TestMain(m *testing.M) {
	if os.Getenv("BLIXARD_TEST_PEER") == "" {
		os.Exit(m.Run())
	}
	l, err := Listen("127.0.0.1:0", nil)
	if err != nil {
		panic(err)
	}
	p := NewPeers(PeersConfig{Deliver: func(core.Input) { fmt.Println("received") }})
	p.Identify(core.Identity{ClusterID: "test", ID: 2})
	fmt.Println(l.Addr())
	http.Serve(l, p)
}

func TestPeerLostWhenAProcessIsKilled(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "BLIXARD_TEST_PEER=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	var address, received string
	fmt.Fscanln(out, &address)
	a := newEnd(t, 1, "127.0.0.1:0", nil)
	a.Send(a.to(&end{id: 2, address: address}, 1))
	fmt.Fscanln(out, &received)
	begun := time.Now()
	cmd.Process.Kill()
	lost, ok := a.next(t).(core.PeerLost)
	if !ok || lost.Peer != 2 {
		t.Fatalf("%v", lost)
	}
	t.Logf("PeerLost %s after the kill", time.Since(begun))
}

func TestHostileFrames(t *testing.T) {
	b := newEnd(t, 2, "127.0.0.1:0", nil)
	a := NewPeers(PeersConfig{})
	defer a.Close()
	a.Identify(core.Identity{ClusterID: "test", ID: 1})
	forged, _ := proto.Marshal(&blixardv1.Envelope{ClusterId: "test", From: 9, To: 2})
	for name, raw := range map[string][]byte{
		"too long":  {0xff, 0xff, 0xff, 0xff},
		"no proto":  appendFrame(nil, []byte("\xff\xff\xff")),
		"forged":    appendFrame(nil, forged),
		"cut short": {0, 0, 1, 0, 1, 2},
	} {
		for _, bulk := range []bool{false, true} {
			conn, err := a.dial(t.Context(), 2, b.address, bulk)
			if err != nil {
				t.Fatal(err)
			}
			conn.Write(raw)
			if bulk {
				conn.Write(appendFrame(nil, nil))
			}
			if name == "cut short" {
				conn.(*net.TCPConn).CloseWrite()
			}
			conn.SetReadDeadline(time.Now().Add(30 * time.Second))
			if n, err := io.ReadAll(conn); len(n) != 0 || err != nil && strings.Contains(err.Error(), "timeout") {
				t.Errorf("%s (bulk %v): the connection lives on: %q, %v", name, bulk, n, err)
			}
			conn.Close()
		}
	}
	if len(b.got) != 0 {
		t.Errorf("something of it was delivered: %v", <-b.got)
	}
}

func FuzzFrame(f *testing.F) {
	e, _ := proto.Marshal(&blixardv1.Envelope{ClusterId: "test", From: 1, To: 2, Body: &blixardv1.Envelope_Raft{Raft: []byte("x")}})
	f.Add(appendFrame(nil, e))
	f.Add(appendFrame(appendFrame(nil, nil), []byte{0xff}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0})
	f.Add([]byte{0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, buf := bytes.NewReader(b), bytes.Buffer{}
		read := 0
		for readFrame(r, &buf, 1<<10) == nil {
			if buf.Len() > 1<<10 {
				t.Fatal("a frame beyond the limit")
			}
			read += frameHead + buf.Len()
			if !bytes.Equal(b[read-buf.Len():read], buf.Bytes()) {
				t.Fatal("a frame is not what was there")
			}
			decodeEnvelope(buf.Bytes())
		}
	})
}
