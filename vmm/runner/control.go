package runner

import (
	"context"
	"net/http"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/runner/qmp"
)

// guestState is what a hypervisor says of its guest.
type guestState uint8

const (
	notYet guestState = iota // it boots, ends, or has none
	running
	paused
	waiting // for a guest that comes from elsewhere
	left    // its guest was sent somewhere: elsewhere, or into a file
)

// control is what every hypervisor can be asked over its socket, however it
// spells that. A call does one thing, or fails; none is trusted to be answered.
type control interface {
	state(context.Context) (guestState, error)
	pause(context.Context) error
	resume(context.Context) error
	// close ends the connection, if there is one.
	close()
}

// dial connects to what a hypervisor listens on; nil for one that cannot be asked.
func dial(ctx context.Context, kind blixardv1.Hypervisor, socket string) (control, error) {
	switch kind {
	case blixardv1.Hypervisor_HYPERVISOR_QEMU:
		c, err := qmp.Dial(ctx, socket, nil)
		if err != nil {
			return nil, err
		}
		return qemuControl{c}, nil
	case blixardv1.Hypervisor_HYPERVISOR_CLOUD_HYPERVISOR:
		return cloudControl{rest{socket}}, nil
	case blixardv1.Hypervisor_HYPERVISOR_FIRECRACKER:
		return firecrackerControl{rest{socket}}, nil
	}
	return nil, nil
}

type qemuControl struct{ c *qmp.Client }

func (q qemuControl) state(ctx context.Context) (guestState, error) {
	status, err := q.c.Status(ctx)
	return guestStates[status], err
}

// guestStates are QEMU's words. One that has sent its guest somewhere stands still.
var guestStates = map[string]guestState{"running": running, "paused": paused, "postmigrate": paused}

func (q qemuControl) pause(ctx context.Context) error  { return q.c.Execute(ctx, "stop", nil, nil) }
func (q qemuControl) resume(ctx context.Context) error { return q.c.Execute(ctx, "cont", nil, nil) }
func (q qemuControl) close()                           { q.c.Close() }

// cloudControl speaks cloud-hypervisor's API, version 1.
type cloudControl struct{ rest }

func (c cloudControl) put(ctx context.Context, what string, body any) error {
	return c.call(ctx, http.MethodPut, "/api/v1/"+what, body, nil)
}

func (c cloudControl) state(ctx context.Context) (guestState, error) {
	var info struct {
		State string `json:"state"`
	}
	err := c.call(ctx, http.MethodGet, "/api/v1/vm.info", nil, &info)
	return map[string]guestState{"Running": running, "Paused": paused}[info.State], err
}

// disks adds up what it counts of each device, and has so many names for: only disks
// have these.
func (c cloudControl) disks(ctx context.Context) (read, written uint64, err error) {
	var devices map[string]struct {
		Read    uint64 `json:"read_bytes"`
		Written uint64 `json:"write_bytes"`
	}
	if err := c.call(ctx, http.MethodGet, "/api/v1/vm.counters", nil, &devices); err != nil {
		return 0, 0, err
	}
	for _, d := range devices {
		read, written = read+d.Read, written+d.Written
	}
	return read, written, nil
}

func (c cloudControl) pause(ctx context.Context) error  { return c.put(ctx, "vm.pause", nil) }
func (c cloudControl) resume(ctx context.Context) error { return c.put(ctx, "vm.resume", nil) }
func (cloudControl) close()                             {}

// firecrackerControl speaks Firecracker's API.
type firecrackerControl struct{ rest }

func (f firecrackerControl) state(ctx context.Context) (guestState, error) {
	var info struct {
		State string `json:"state"`
	}
	err := f.call(ctx, http.MethodGet, "/", nil, &info)
	return map[string]guestState{"Running": running, "Paused": paused}[info.State], err
}

func (f firecrackerControl) set(ctx context.Context, state string) error {
	return f.call(ctx, http.MethodPatch, "/vm", map[string]string{"state": state}, nil)
}

func (f firecrackerControl) pause(ctx context.Context) error  { return f.set(ctx, "Paused") }
func (f firecrackerControl) resume(ctx context.Context) error { return f.set(ctx, "Resumed") }
func (firecrackerControl) close()                             {}
