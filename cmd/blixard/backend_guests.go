package main

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/runner"
)

// daemonGuests is rpc's Guests: it passes on to the node's host.
type daemonGuests struct{ d *daemon }

var errNoHost = errors.New("this node is no host")

func (g daemonGuests) host() (*runner.Host, error) {
	if w := g.d.world.Load(); w != nil && w.host != nil {
		return w.host, nil
	}
	return nil, errNoHost
}

func (g daemonGuests) Stats(context.Context) (all []*blixardv1.VMStats) {
	h, err := g.host()
	if err != nil {
		return nil
	}
	for _, u := range h.Usage() {
		s := &blixardv1.VMStats{
			Uid: u.UID, TimeNs: bootNs(), CpuNs: uint64(u.CPUSeconds * 1e9), MemoryBytes: u.MemoryBytes,
			StorageReadBytes: u.ReadBytes, StorageWrittenBytes: u.WrittenBytes,
			NetworkReceivedBytes: u.Received, NetworkSentBytes: u.Sent, Processes: uint32(u.Processes),
		}
		if u.Disks {
			s.DiskReadBytes, s.DiskWrittenBytes = &u.DiskRead, &u.DiskWritten
		}
		all = append(all, s)
	}
	return all
}

// bootNs is a clock that only goes on.
func bootNs() uint64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // it is there since Linux 2.6.39
	return uint64(ts.Nano())
}

func (g daemonGuests) Exec(ctx context.Context, uid string, r *blixardv1.ExecRequest) (*blixardv1.ExecResponse, error) {
	h, err := g.host()
	if err != nil {
		return nil, err
	}
	return h.Exec(ctx, uid, r)
}

func (g daemonGuests) ReadFile(ctx context.Context, uid string, r *blixardv1.ReadFileRequest) (*blixardv1.ReadFileResponse, error) {
	h, err := g.host()
	if err != nil {
		return nil, err
	}
	return h.ReadFile(ctx, uid, r)
}

func (g daemonGuests) WriteFile(ctx context.Context, uid string, r *blixardv1.WriteFileRequest) error {
	h, err := g.host()
	if err != nil {
		return err
	}
	return h.WriteFile(ctx, uid, r)
}

func (g daemonGuests) WriteConsole(ctx context.Context, uid string, data []byte) error {
	h, err := g.host()
	if err != nil {
		return err
	}
	return h.WriteConsole(ctx, uid, data)
}
