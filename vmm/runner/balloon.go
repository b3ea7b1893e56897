package runner

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/qmp"
)

// A balloon is a device whose driver, in the guest, takes pages that nobody there
// uses, and gives them to the host. It asks for no more than what the guest can
// spare: one that is short of memory takes pages back. Virtio 1.2, 5.5.

// ballooner is a session whose guest has one. Memory is in MiB.
type ballooner interface {
	// inflate has it take all but so much of what the guest was started with.
	inflate(ctx context.Context, leave, boot uint64) error
	// left asks what the guest has.
	left(ctx context.Context, boot uint64) (uint64, error)
}

// giving is how long an order waits for a guest to give what is asked of it. What it
// gives later is seen when it is asked again.
const giving = 2 * time.Second

func (v *vm) balloon(ctx context.Context, a vmm.Action) error {
	v.settle()
	if !v.alive {
		return nil
	}
	if err := v.mine(a.Instance); err != nil {
		return err
	}
	if v.leaving != nil || v.rec.Incoming || v.rec.HandedOver != 0 {
		return errElsewhere
	}
	s, can := v.session.(ballooner)
	boot := v.rec.BootMiB
	if !can || boot == 0 {
		return errors.New("it has no balloon")
	}
	want := min(a.Assignment.GetSpec().GetMemoryMib(), boot)
	if want == 0 {
		return errors.New("nothing says how much memory it should have")
	}
	ask, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	if err := s.inflate(ask, want, boot); err != nil {
		return fmt.Errorf("ask its balloon to leave it %d MiB: %w", want, err)
	}
	for end := time.Now().Add(giving); ; time.Sleep(20 * time.Millisecond) {
		has, err := s.left(ask, boot)
		if err != nil {
			return fmt.Errorf("ask its balloon how much it has left it: %w", err)
		}
		if late := time.Now().After(end); has == want || late {
			if v.rec.MemoryMiB != has {
				v.rec.MemoryMiB = has
				v.note()
			}
			if late && has != want {
				return fmt.Errorf("its guest has %d MiB, and was asked %ds ago to have %d: it uses the rest, or has no balloon driver; it is asked again", has, giving/time.Second, want)
			}
			return nil
		}
	}
}

func (s *qemuSession) inflate(ctx context.Context, leave, _ uint64) error {
	return s.with(ctx, func(ctx context.Context, c *qmp.Client) error {
		return c.Execute(ctx, "balloon", map[string]any{"value": leave << 20}, nil)
	})
}

func (s *qemuSession) left(ctx context.Context, _ uint64) (uint64, error) {
	var b struct {
		Actual uint64 `json:"actual"`
	}
	err := s.with(ctx, func(ctx context.Context, c *qmp.Client) error { return c.Execute(ctx, "query-balloon", nil, &b) })
	return b.Actual >> 20, err
}

func (s *restSession) inflate(ctx context.Context, leave, boot uint64) error {
	b, can := s.control.(bladder)
	if !can {
		return errors.New(s.name + " has no balloon")
	}
	return b.take(ctx, boot-leave)
}

func (s *restSession) left(ctx context.Context, boot uint64) (uint64, error) {
	b, can := s.control.(bladder)
	if !can {
		return 0, errors.New(s.name + " has no balloon")
	}
	taken, err := b.taken(ctx, boot)
	return boot - min(taken, boot), err
}

// bladder is a control of one whose balloon is told how large to be.
type bladder interface {
	take(ctx context.Context, mib uint64) error
	taken(ctx context.Context, boot uint64) (mib uint64, err error)
}

func (c cloudControl) take(ctx context.Context, mib uint64) error {
	return c.put(ctx, "vm.resize", map[string]uint64{"desired_balloon": mib << 20})
}

func (c cloudControl) taken(ctx context.Context, boot uint64) (uint64, error) {
	var info struct {
		Actual uint64 `json:"memory_actual_size"`
	}
	err := c.call(ctx, http.MethodGet, "/api/v1/vm.info", nil, &info)
	return boot - min(info.Actual>>20, boot), err
}

func (f firecrackerControl) take(ctx context.Context, mib uint64) error {
	return f.call(ctx, http.MethodPatch, "/balloon", map[string]uint64{"amount_mib": mib}, nil)
}

func (f firecrackerControl) taken(ctx context.Context, _ uint64) (uint64, error) {
	var s struct {
		Actual uint64 `json:"actual_mib"`
	}
	err := f.call(ctx, http.MethodGet, "/balloon/statistics", nil, &s)
	return s.Actual, err
}
