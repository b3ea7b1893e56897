package runner

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/guest/agent"
)

// shortly is as long as a good answer may take on a busy machine.
func shortly(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func portOf(t *testing.T, addr net.Addr) uint32 {
	_, p, err := net.SplitHostPort(addr.String())
	if err != nil {
		t.Fatal(err)
	}
	n, _ := strconv.ParseUint(p, 10, 16)
	return uint32(n)
}

func TestProbesOfAPort(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/gone", http.StatusFound)
		case "/gone":
			w.WriteHeader(http.StatusGone)
		case "/slow":
			<-r.Context().Done()
		}
	}))
	defer s.Close()
	port := portOf(t, s.Listener.Addr())
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := portOf(t, closed.Addr())
	closed.Close()
	get := func(path string, status uint32) *blixardv1.Health {
		return &blixardv1.Health{Probe: &blixardv1.Health_Http{Http: &blixardv1.HTTPProbe{Host: "127.0.0.1", Port: port, Path: path, Status: status}}}
	}
	open := func(port uint32) *blixardv1.Health {
		return &blixardv1.Health{Probe: &blixardv1.Health_Tcp{Tcp: &blixardv1.TCPProbe{Host: "127.0.0.1", Port: port}}}
	}
	for _, c := range []struct {
		health *blixardv1.Health
		want   string // "": it is well
	}{
		{open(port), ""},
		{open(nobody), "connection refused"},
		{get("/", 0), ""},
		{get("/moved", 0), ""}, // it is answered, and not followed
		{get("/gone", 0), "answered 410 Gone"},
		{get("/gone", 410), ""},
		{get("/", 204), "answered 200 OK"},
		{get("/slow", 0), "deadline exceeded"},
	} {
		err := new(agents).ask(shortly(t), c.health, "")
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want %q", c.health, err, c.want)
		}
		if err != nil && ours(err) {
			t.Errorf("%v: %v is said to be our fault", c.health, err)
		}
	}
	for _, err := range []error{&net.OpError{Err: os.NewSyscallError("socket", syscall.EMFILE)}, fmt.Errorf("dial: %w", syscall.ENETUNREACH), new(agents).ask(shortly(t), &blixardv1.Health{}, "")} {
		if !ours(err) {
			t.Errorf("%v is said to be the guest's fault", err)
		}
	}
}

func TestProbesOfAnAgent(t *testing.T) {
	t.Parallel()
	at := filepath.Join(t.TempDir(), "agent")
	if err := new(agents).ask(shortly(t), agentProbe, at); err == nil || !ours(err) {
		t.Errorf("without a socket: %v", err)
	}
	l, err := net.Listen("unix", at)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	answers := make(chan func(agent.Request) string, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			say := <-answers
			r := bufio.NewReader(c)
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					break
				}
				if req, err := agent.DecodeRequest([]byte(line)); err == nil {
					io.WriteString(c, say(req))
				}
			}
			c.Close()
		}
	}()
	for _, c := range []struct {
		say  func(agent.Request) string
		want string
	}{
		{func(r agent.Request) string {
			return fmt.Sprintf("ruins}\n{\"id\":7,\"ok\":false}\n{\"id\":%d,\"ok\":true}\n", r.ID)
		}, ""},
		{func(r agent.Request) string { return fmt.Sprintf("{\"id\":%d,\"error\":\"ill\"}\n", r.ID) }, "the agent says: ill"},
		{func(agent.Request) string { return "{\"id\":7,\"ok\":true}\n" }, "deadline exceeded"},
	} {
		answers <- c.say
		a := new(agents)
		err := a.ask(shortly(t), agentProbe, at)
		a.close()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

var agentProbe = &blixardv1.Health{Probe: &blixardv1.Health_Agent{Agent: &blixardv1.AgentProbe{}}}

// The pulse counts what it missed, and nothing else.
// What a probe finds while we have the guest stand still says nothing of the guest.
func TestAProbeOfWhoStandsStill(t *testing.T) {
	v := &vm{uid: "a"}
	h := &Host{vms: map[string]*vm{"a": v}}
	begun := time.Now()
	look := func(what string, uid string, since time.Time, want bool) {
		t.Helper()
		if got := h.hadStill(uid, since); got != want {
			t.Errorf("%s: stood still %t, want %t", what, got, want)
		}
	}
	look("never", "a", begun, false)
	look("another VM", "b", begun, false)
	v.still.stand(true)
	look("now", "a", time.Now(), true)
	v.still.stand(false)
	look("meanwhile", "a", begun, true)
	look("before", "a", time.Now(), false)
}

func TestPulse(t *testing.T) {
	t.Parallel()
	p := newPulse()
	time.Sleep(50 * time.Millisecond)
	if stood := p.stop(); stood > 20*time.Second {
		t.Errorf("it stood still for %s", stood)
	}
}
