package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/rpc"
)

// Restore is rpc.Backend. The node is in no cluster, or of an earlier generation
// of the one that the backup is of: then it stays who it was, and keeps what its
// VMs have on its disk.
func (d *daemon) Restore(ctx context.Context, backup *cluster.State, opts *blixardv1.RestoreOptions) (*blixardv1.RestoreResponse, error) {
	d.life.Lock()
	defer d.life.Unlock()
	id, was, err := d.earlier(backup)
	if err != nil {
		return nil, err
	}
	if alive := d.oldServers(ctx, backup, id.ID); len(alive) > 0 {
		return nil, precondition(fmt.Sprintf("the cluster that is to be restored is still alive: %s", strings.Join(alive, "; ")),
			"stop every server of it for good first: as long as one of them can lead, hosts keep their VMs, and a second copy of each would be started here")
	}
	id, batch, err := core.Restore(id, backup, opts.GetHostsOff(), cluster.Level, readTime(bootClock{}))
	if err != nil {
		return nil, precondition(err.Error(), "give this node another --name, or another --role")
	}
	out := &blixardv1.RestoreResponse{ClusterId: id.ClusterID, Generation: id.Generation, NodeId: id.ID}
	backup.VMs("", func(*blixardv1.VM) bool {
		out.Vms++
		return true
	})
	if backup.Meta().GetUnsettled() {
		out.WaitMs = uint64(backup.SettledAfter() / int64(time.Millisecond))
	}
	if err := d.reenter(was, batch); err != nil {
		return nil, err
	}
	return out, d.settled(ctx)
}

// earlier is who this node becomes by a restore, and the world that it leaves.
func (d *daemon) earlier(backup *cluster.State) (core.Identity, *world, error) {
	id, was := d.self, d.world.Load()
	if d.ended {
		return id, nil, context.Canceled
	}
	if !id.Server {
		return id, nil, precondition("a cluster is restored on a server, and this node is none", "serve --role server --role host")
	}
	m := backup.Meta()
	if level := m.GetSettings().GetLevel(); level > cluster.Level {
		return id, nil, precondition(fmt.Sprintf("the backup is of a cluster at level %d, and this binary knows only %d", level, cluster.Level), "upgrade blixard on this node")
	}
	if was == nil {
		return id, nil, nil
	}
	id = was.loop.status.Load().Identity
	switch n := backup.Node(id.ID); {
	case id.ClusterID != m.GetClusterId() || n == nil:
		return id, nil, precondition(fmt.Sprintf("this node is %s of cluster %s, and the backup does not know it", id.Name, id.ClusterID),
			"restore on a node that the backup knows, or on a new one, with an empty data directory")
	case id.Generation > m.GetGeneration():
		return id, nil, precondition(fmt.Sprintf("this node is of generation %d already, and the backup of %d", id.Generation, m.GetGeneration()),
			"the cluster was restored: 'blixard cluster status' shows it")
	}
	return id, was, nil
}

// oldServers names those who still answer as servers of an earlier generation, but
// for this node.
func (d *daemon) oldServers(ctx context.Context, backup *cluster.State, self uint64) (alive []string) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	var mu sync.Mutex
	var all sync.WaitGroup
	backup.Servers(func(n *blixardv1.Node) bool {
		if n.Id == self {
			return true
		}
		all.Go(func() {
			c := rpc.Dial([]string{n.Address}, d.tls)
			defer c.Close()
			r, err := c.Cluster.Status(ctx, connect.NewRequest(&blixardv1.StatusRequest{}))
			if err != nil || r.Msg.GetClusterId() != backup.Meta().GetClusterId() {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			alive = append(alive, fmt.Sprintf("%s answers at %s, of generation %d", n.Name, n.Address, r.Msg.GetGeneration()))
		})
		return true
	})
	all.Wait()
	return alive
}

// Rejoin is rpc.Backend.
func (d *daemon) Rejoin(ctx context.Context, req *blixardv1.RejoinRequest) (*blixardv1.RejoinResponse, error) {
	d.life.Lock()
	defer d.life.Unlock()
	was := d.world.Load()
	if was == nil || d.ended {
		return nil, precondition("this node is in no cluster", "blixard cluster join "+req.GetServer())
	}
	id := was.loop.status.Load().Identity
	requestID, err := d.joinID()
	if err != nil {
		return nil, err
	}
	c := rpc.Dial([]string{req.GetServer()}, d.tls)
	defer c.Close()
	r, err := c.Cluster.Readmit(ctx, connect.NewRequest(&blixardv1.ReadmitRequest{
		RequestId: requestID, ClusterId: id.ClusterID, NodeId: id.ID, Generation: id.Generation,
		Member: &blixardv1.AddMemberRequest{Name: id.Name, Address: id.Address, Server: id.Server, Host: id.Host, Level: cluster.Level},
	}))
	if err != nil {
		return nil, d.notAdmitted(req.GetServer(), err)
	}
	m := r.Msg.GetMember()
	out := &blixardv1.RejoinResponse{ClusterId: id.ClusterID, Generation: m.GetGeneration(), NodeId: id.ID}
	if m.GetName() != id.Name {
		out.Renamed = m.GetName()
	}
	id.Generation, id.Name = m.GetGeneration(), m.GetName()
	batch, err := core.Join(id, m.GetServers())
	if err != nil {
		return nil, err
	}
	return out, d.reenter(was, batch)
}

// reenter leaves the world that was, if any, as a daemon that ends does, and enters
// the next one. VMs live on.
func (d *daemon) reenter(was *world, first core.Batch) error {
	if was != nil {
		d.world.Store(nil)
		was.stop()
		was.close()
		err := d.disk.Close()
		d.disk = nil
		if err == nil {
			_, _, err = d.openDisk()
		}
		if err != nil {
			d.fail(err)
			return err
		}
	}
	return d.enter(first)
}
