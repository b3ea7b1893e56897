package runner

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/console"
	"github.com/blixard/blixard/vmm/runner/nix"
	"github.com/blixard/blixard/vmm/runner/qmp"
	"github.com/blixard/blixard/vmm/runner/shims"
	"github.com/blixard/blixard/vmm/shim"
)

// nixSession looks at the hypervisor's own socket until it says that the guest
// runs, and never after: QEMU's has room for one client, and the script that
// stops the guest must be that one.
type nixSession struct {
	place  place
	cancel context.CancelFunc
	done   chan struct{}
}

func (n *nixDriver) follow(p place, ready func()) session {
	ctx, cancel := context.WithCancel(context.Background())
	s := &nixSession{place: p, cancel: cancel, done: make(chan struct{})}
	go s.watch(ctx, ready)
	return s
}

const (
	readyLook  = 200 * time.Millisecond
	readyAsk   = time.Second
	readyBlind = 3 * time.Second // alive for so long is ready, where there is nothing to ask
)

func (s *nixSession) watch(ctx context.Context, ready func()) {
	defer close(s.done)
	runner, _ := os.Readlink(filepath.Join(s.place.state, "booted"))
	hypervisor, _ := nix.Fact(runner, "hypervisor")
	_, err := os.Stat(filepath.Join(runner, "bin", "microvm-shutdown"))
	askable := err == nil // microvm.nix makes that script where there is a socket
	tick := time.NewTicker(readyLook)
	defer tick.Stop()
	for begin := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		socket, up := s.up(ctx, hypervisor, runner)
		if up || !socket && !askable && time.Since(begin) > readyBlind {
			ready()
			return
		}
	}
}

// up says whether there is a socket to ask, and whether the guest runs.
func (s *nixSession) up(ctx context.Context, hypervisor, runner string) (socket, running bool) {
	dir, err := os.Open(machineDir(s.place)) // a path through it fits into a socket's address
	if err != nil {
		return false, false
	}
	defer dir.Close()
	shares := map[string]bool{}
	for _, tag := range shareTags(runner) {
		if s, err := nix.Fact(runner, "virtiofs", tag, "socket"); err == nil {
			shares[filepath.Base(s)] = true
		}
	}
	list, err := dir.ReadDir(-1)
	if err != nil {
		return false, false
	}
	for _, e := range list {
		if e.Type()&os.ModeSocket == 0 || !strings.HasSuffix(e.Name(), ".sock") || shares[e.Name()] {
			continue
		}
		path := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), e.Name())
		ask, cancel := context.WithTimeout(ctx, readyAsk)
		running = runs(ask, hypervisor, path)
		cancel()
		if socket = true; running {
			return true, true
		}
	}
	return socket, false
}

// runs asks a hypervisor whether its guest runs. Of one that we cannot ask, the
// socket must do.
func runs(ctx context.Context, hypervisor, socket string) bool {
	switch hypervisor {
	case "qemu":
		c, err := qmp.Dial(ctx, socket, nil)
		if err != nil {
			return false
		}
		defer c.Close()
		status, err := c.Status(ctx)
		return err == nil && status == "running"
	case "cloud-hypervisor":
		return state(ctx, socket, "/api/v1/vm.info") == "Running"
	case "firecracker":
		return state(ctx, socket, "/") == "Running"
	}
	return true
}

// state reads a field of that name, which both REST interfaces have.
func state(ctx context.Context, socket, path string) string {
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer t.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+path, nil)
	if err != nil {
		return ""
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	var answer struct {
		State string `json:"state"`
	}
	if resp.StatusCode != http.StatusOK || json.NewDecoder(http.MaxBytesReader(nil, resp.Body, 1<<20)).Decode(&answer) != nil {
		return ""
	}
	return answer.State
}

// stop has the VM's init run the booted runner's microvm-shutdown.
func (s *nixSession) stop(ctx context.Context, h *shims.Shim) error {
	return h.Kill(ctx, syscall.SIGTERM)
}

func (s *nixSession) ended(e shim.Exit, ready bool) *vmm.Exit {
	said, _ := console.Tail(s.place.console, 8<<10)
	last := string(said)
	if i := strings.LastIndex(last, "--- attempt "); i >= 0 {
		last = last[i:]
	}
	words := lastLines(last, 3, 600)
	panicLine := lineWith(last, "Kernel panic")
	switch {
	case e.Code == shim.StepFailed:
		return &vmm.Exit{Code: int32(e.Code), Reason: BootFailed, Message: words}
	case e.Signal == int(unix.SIGTERM) && e.Asked == e.Signal:
		return &vmm.Exit{Code: int32(128 + e.Signal), Reason: Exited, Message: "it was asked to stop before its guest could be"}
	case e.Signal != 0:
		return &vmm.Exit{Code: int32(128 + e.Signal), Reason: Crashed, Message: "the hypervisor was ended by signal " + strconv.Itoa(e.Signal) + ". " + words}
	case panicLine != "":
		return &vmm.Exit{Code: 1, Reason: Panicked, Message: "the guest's kernel panicked: " + lastLines(panicLine, 1, 300)}
	case e.Code != 0 && !ready:
		return &vmm.Exit{Code: int32(e.Code), Reason: BootFailed, Message: fmt.Sprintf("the runner ended with exit code %d: %s", e.Code, words)}
	case e.Code != 0:
		return &vmm.Exit{Code: int32(e.Code), Reason: Exited, Message: fmt.Sprintf("the hypervisor ended with exit code %d: %s", e.Code, words)}
	}
	return &vmm.Exit{Reason: Exited, Message: "the guest powered off"}
}

func (s *nixSession) close() {
	s.cancel()
	<-s.done
}
