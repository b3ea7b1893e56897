package qmp

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// # How a disk moves with its guest
//
//	target   NBD server on a unix socket, an export for each disk     (Export)
//	source   mirror: everything once, and then whatever is written    (Mirror)
//	         ready: the target has all but the newest writes          (Mirrors)
//	         the guest is stopped; the job is ended, which has the
//	         rest written, and flushed                                (Settle)
//
// A mirror that fails disturbs nobody: the guest writes to its own disk first. What
// is left of one, failed or not, stands until Unmirror.

const mirrorPrefix = "move-"

// MirrorState is how far a mirror is.
type MirrorState struct {
	Drive string
	// Ready: it is in step, but for what was written a moment ago.
	Ready bool
	// Over: it has ended; Error says why, when that was not asked for.
	Over  bool
	Error string
	// Done of Total bytes; Total grows when the guest writes again.
	Done, Total uint64
}

type job struct {
	ID       string `json:"id"`
	Status   string `json:"status"`
	Error    string `json:"error"`
	Progress uint64 `json:"current-progress"`
	Total    uint64 `json:"total-progress"`
}

// Export lets one client of a unix socket write a drive's disk. The guest must not
// run yet.
func (c *Client) Export(ctx context.Context, socket, drive string) error {
	node, err := c.node(ctx, drive)
	if err != nil {
		return err
	}
	exports, err := c.exports(ctx)
	if err != nil {
		return err
	}
	if len(exports) == 0 {
		addr := map[string]any{"type": "unix", "data": map[string]any{"path": socket}}
		err = c.Execute(ctx, "nbd-server-start", map[string]any{"addr": addr}, nil)
		if err != nil && !strings.Contains(err.Error(), "already running") {
			return err
		}
	}
	for _, e := range exports {
		if e == mirrorPrefix+drive {
			return nil
		}
	}
	return c.Execute(ctx, "block-export-add", map[string]any{
		"type": "nbd", "id": mirrorPrefix + drive, "node-name": node, "name": drive, "writable": true,
	}, nil)
}

// Unexport takes all disks back: nobody but the guest can write them then.
func (c *Client) Unexport(ctx context.Context) error {
	err := c.Execute(ctx, "nbd-server-stop", nil, nil)
	if err != nil && strings.Contains(err.Error(), "not running") {
		err = nil
	}
	for err == nil {
		var left []string
		if left, err = c.exports(ctx); err != nil || len(left) == 0 {
			return err
		}
		select { // a client is being let go
		case <-ctx.Done():
			return fmt.Errorf("QEMU still lets others write to %v: %w", left, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return err
}

func (c *Client) exports(ctx context.Context) (ids []string, err error) {
	var all []struct {
		ID string `json:"id"`
	}
	err = c.Execute(ctx, "query-block-exports", nil, &all)
	for _, e := range all {
		ids = append(ids, e.ID)
	}
	return ids, err
}

// node is the block node of a drive.
func (c *Client) node(ctx context.Context, drive string) (string, error) {
	var all []struct {
		Device   string `json:"device"`
		Inserted struct {
			Node string `json:"node-name"`
		} `json:"inserted"`
	}
	if err := c.Execute(ctx, "query-block", nil, &all); err != nil {
		return "", err
	}
	for _, d := range all {
		if d.Device == drive && d.Inserted.Node != "" {
			return d.Inserted.Node, nil
		}
	}
	return "", fmt.Errorf("QEMU has no drive %s", drive)
}

// Mirror begins to copy a drive's disk to the export of that name on a unix socket.
func (c *Client) Mirror(ctx context.Context, socket, drive string) error {
	to := mirrorPrefix + drive
	err := c.Execute(ctx, "blockdev-add", map[string]any{
		"driver": "nbd", "node-name": to, "export": drive, "discard": "unmap",
		"server": map[string]any{"type": "unix", "path": socket},
	}, nil)
	if err != nil {
		return err
	}
	return c.Execute(ctx, "blockdev-mirror", map[string]any{
		"job-id": to, "device": drive, "target": to, "sync": "full", "auto-dismiss": false,
	}, nil)
}

// Mirrors says how far the mirrors are.
func (c *Client) Mirrors(ctx context.Context) (list []MirrorState, err error) {
	var jobs []job
	if err := c.Execute(ctx, "query-jobs", nil, &jobs); err != nil {
		return nil, err
	}
	for _, j := range jobs {
		drive, ours := strings.CutPrefix(j.ID, mirrorPrefix)
		if !ours {
			continue
		}
		over := j.Status == "concluded" || j.Status == "null"
		list = append(list, MirrorState{Drive: drive, Ready: j.Status == "ready", Over: over, Error: j.Error, Done: j.Progress, Total: j.Total})
	}
	return list, nil
}

// Settle ends the mirrors of a guest that is stopped: when it returns nil, each of
// these drives' targets has every write, on its disk.
func (c *Client) Settle(ctx context.Context, drives []string) error {
	for _, drive := range drives {
		// Not forced: of a mirror that is ready it means to bring it to its end.
		if err := c.Execute(ctx, "block-job-cancel", map[string]any{"device": mirrorPrefix + drive}, nil); err != nil {
			return err
		}
	}
	for {
		states, err := c.Mirrors(ctx)
		if err != nil {
			return err
		}
		over := 0
		for _, m := range states {
			if m.Error != "" {
				return fmt.Errorf("drive %s: %s", m.Drive, m.Error)
			}
			if m.Over {
				over++
			}
		}
		if len(states) < len(drives) {
			return fmt.Errorf("of %d mirrors %d are there", len(drives), len(states))
		}
		if over == len(states) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the disks are not in step yet: %w", ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Unmirror ends all mirrors, whatever they do, and forgets them.
func (c *Client) Unmirror(ctx context.Context) error {
	for {
		states, err := c.Mirrors(ctx)
		if err != nil {
			return err
		}
		if len(states) == 0 {
			break
		}
		for _, m := range states {
			id := mirrorPrefix + m.Drive
			name, args := "job-dismiss", map[string]any{"id": id}
			if !m.Over {
				name, args = "block-job-cancel", map[string]any{"device": id, "force": true}
			}
			if err := c.Execute(ctx, name, args, nil); err != nil && ctx.Err() != nil {
				return err
			} // else it may just have ended: it is looked at again
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("a disk's mirror does not end: %w", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
	var nodes []struct {
		Name string `json:"node-name"`
	}
	if err := c.Execute(ctx, "query-named-block-nodes", map[string]any{"flat": true}, &nodes); err != nil {
		return err
	}
	for _, n := range nodes {
		if strings.HasPrefix(n.Name, mirrorPrefix) {
			if err := c.Execute(ctx, "blockdev-del", map[string]any{"node-name": n.Name}, nil); err != nil {
				return err
			}
		}
	}
	return nil
}
