package runner

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/blixard/blixard/core"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/guest/agent"
)

// A probe asks once how a guest is, beside whatever else is done for its VM. What
// comes of it says something of the guest only if this host was there to hear it:
// a probe that we could not even begin, or during which we stood still for a good
// part of its timeout, is answered as unknown. So is one during which we had the guest
// stand still.

// probe carries out a Probe.
func (h *Host) probe(a vmm.Action) {
	timeout := time.Duration(a.Health.GetTimeoutMs()) * time.Millisecond
	ctx, cancel := context.WithTimeout(h.ctx, timeout)
	defer cancel()
	pulse, begun := newPulse(), time.Now()
	err := h.agents.ask(ctx, a.Health, filepath.Join(h.at.runOf(a.Instance.UID), agentSocket))
	stood := pulse.stop()
	if h.ctx.Err() != nil {
		return // being closed
	}
	d := vmm.Done{Action: a.ID, UID: a.Instance.UID}
	if err != nil {
		if d.Err = err.Error(); errors.Is(err, context.DeadlineExceeded) || errors.Is(err, syscall.ETIMEDOUT) {
			d.Err = fmt.Sprintf("no answer within %s", timeout)
		}
		d.Unknown = ours(err) || stood > timeout/4 || h.hadStill(a.Instance.UID, begun)
	}
	h.observe(core.Observed{Done: []vmm.Done{d}})
}

// hadStill says that a VM's guest stood still, by our doing, at some time since.
func (h *Host) hadStill(uid string, since time.Time) bool {
	h.mu.Lock()
	v := h.vms[uid]
	h.mu.Unlock()
	return v != nil && v.still.since(since)
}

// standstill is when a guest stood still while it was written down, of which nobody else is
// told.
type standstill struct {
	mu   sync.Mutex
	now  bool
	last time.Time
}

func (s *standstill) stand(now bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now, s.last = now, time.Now()
}

func (s *standstill) since(t time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now || s.last.After(t)
}

// ask says what is wrong with a guest, as far as its probe can tell.
func (a *agents) ask(ctx context.Context, h *blixardv1.Health, agentAt string) error {
	switch p := h.GetProbe().(type) {
	case *blixardv1.Health_Agent:
		return a.ping(ctx, agentAt)
	case *blixardv1.Health_Tcp:
		c, err := connect(ctx, p.Tcp.Host, p.Tcp.Port)
		if err == nil {
			c.Close()
		}
		return err
	case *blixardv1.Health_Http:
		return askHTTP(ctx, p.Http)
	}
	return fmt.Errorf("this release knows no probe %T: %w", h.GetProbe(), errOurs)
}

func connect(ctx context.Context, host string, port uint32) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10)))
}

// ping asks the agent in a guest whether it is there.
func (a *agents) ping(ctx context.Context, at string) error {
	_, err := a.call(ctx, at, agent.Request{Op: agent.Ping})
	return err
}

// late is why a call failed: our own time being up says more than what it broke.
func late(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func askHTTP(ctx context.Context, p *blixardv1.HTTPProbe) error {
	url := "http://" + net.JoinHostPort(p.Host, strconv.FormatUint(uint64(p.Port), 10)) + p.Path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("%w: %w", err, errOurs)
	}
	req.Header.Set("User-Agent", "blixard-probe")
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true}, // and no proxy
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	r, err := client.Do(req)
	if err != nil {
		return late(ctx, err)
	}
	r.Body.Close()
	if want := int(p.Status); want != 0 && r.StatusCode != want || want == 0 && (r.StatusCode < 200 || r.StatusCode >= 400) {
		return fmt.Errorf("GET %s answered %s", url, r.Status)
	}
	return nil
}

// errOurs marks what is wrong with us, and not with the guest.
var errOurs = errors.New("it could not be asked")

// ours says that a probe failed on our side: it never came to the guest.
func ours(err error) bool {
	for _, e := range []error{
		errOurs, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, syscall.EADDRNOTAVAIL, syscall.ENETUNREACH,
		syscall.EACCES, syscall.EPERM, syscall.ENOENT, syscall.EAGAIN,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// pulse finds out for how long we stood still: stopped, starved or asleep.
type pulse struct {
	over chan struct{}
	most chan time.Duration
}

const beat = 20 * time.Millisecond

func newPulse() *pulse {
	p := &pulse{make(chan struct{}), make(chan time.Duration, 1)}
	go func() {
		t := time.NewTicker(beat)
		defer t.Stop()
		most, last := time.Duration(0), time.Now()
		for {
			ended := false
			select {
			case <-t.C:
			case <-p.over:
				ended = true
			}
			now := time.Now()
			most, last = max(most, now.Sub(last)-beat), now
			if ended {
				p.most <- most
				return
			}
		}
	}()
	return p
}

// stop is the longest time between two beats, beyond what is usual.
func (p *pulse) stop() time.Duration {
	close(p.over)
	return <-p.most
}
