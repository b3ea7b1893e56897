package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"connectrpc.com/connect"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func (c *ClusterBackupCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if c.File == "-" {
		return s.backup(c.Stale, t.out)
	}
	if err := mayWrite(g, t, c.File); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(c.File), filepath.Base(c.File)+".*")
	if err != nil {
		return &failure{code: exitError, what: "cannot write the backup", why: err.Error(), next: "name a file in a directory that you may write to"}
	}
	defer os.Remove(f.Name())
	defer f.Close()
	err = s.backup(c.Stale, f)
	if err == nil {
		err = f.Sync()
	}
	var header *blixardv1.BackupHeader
	if err == nil { // what was written is read again, whole
		if _, err = f.Seek(0, io.SeekStart); err == nil {
			header, _, err = cluster.ReadBackup(f)
		}
	}
	if err != nil {
		return err
	}
	if err := errors.Join(f.Close(), os.Rename(f.Name(), c.File)); err != nil {
		return &failure{code: exitError, what: "cannot write the backup", why: err.Error(), next: "name a file in a directory that you may write to"}
	}
	if g.Output == "json" || g.Output == "yaml" {
		return s.show(g, header, nil)
	}
	fmt.Fprintf(t.out, "%s is cluster %s, generation %d, at revision %d: %d VMs on %d nodes.\nIt holds what is known of them, and neither disks nor artifacts.\n",
		c.File, header.GetClusterId(), header.GetGeneration(), header.GetRevision(), header.GetVms(), len(header.GetNodes()))
	return nil
}

// mayWrite says whether a file can be made, or written over.
func mayWrite(g *Globals, t *terminal, path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil: // what is wrong with it is seen when it is written
		return nil
	case info.IsDir():
		return &failure{code: exitUsage, what: path + " is a directory", why: "a backup is one file", next: "blixard cluster backup " + filepath.Join(path, "cluster.backup")}
	case g.Yes:
		return nil
	case !t.asks():
		return &failure{code: exitConflict, what: path + " is there already", why: "it may be the only good backup of this cluster, and nobody is there to be asked", next: "name another file, or give -y to overwrite it"}
	}
	return t.confirm(g, "Overwrite "+path+"?")
}

// backup writes what a server sends.
func (s *session) backup(stale bool, to io.Writer) error {
	stream, err := s.Cluster.Backup(s.ctx, connect.NewRequest(&blixardv1.BackupRequest{Stale: stale}))
	if err != nil {
		return err
	}
	defer stream.Close()
	for stream.Receive() {
		if _, err := to.Write(stream.Msg().GetData()); err != nil {
			return &failure{code: exitError, what: "cannot write the backup", why: err.Error(), next: "make room, or name another file"}
		}
	}
	return stream.Err()
}

func (c *ClusterRestoreCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	f, err := os.Open(c.File)
	if err != nil {
		return &failure{code: exitUsage, what: "cannot read the backup", why: err.Error(), next: "name a file that 'blixard cluster backup' has written"}
	}
	defer f.Close()
	header, _, err := cluster.ReadBackup(f)
	if err != nil {
		return &failure{code: exitUsage, what: "cannot restore " + c.File, why: err.Error(), next: "name a file that 'blixard cluster backup' has written, whole"}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := c.confirm(g, t, header); err != nil {
		return err
	}
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	stream := s.Cluster.Restore(s.ctx)
	opts, buf := &blixardv1.RestoreOptions{HostsOff: c.HostsOff}, make([]byte, 256<<10)
	for {
		n, err := f.Read(buf)
		if err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		if stream.Send(&blixardv1.RestoreRequest{Options: opts, Data: buf[:n]}) != nil {
			break // the answer says why
		}
	}
	r, err := stream.CloseAndReceive()
	if err != nil {
		return err
	}
	if g.Output == "json" || g.Output == "yaml" {
		return s.show(g, r.Msg, nil)
	}
	m := r.Msg
	fmt.Fprintf(t.out, "Cluster %s begins generation %d with this node and %d VMs.\n", m.GetClusterId(), m.GetGeneration(), m.GetVms())
	if m.GetWaitMs() > 0 {
		fmt.Fprintf(t.out, "They may still run where nobody knows, so none of them is started for %s. New VMs are.\n",
			(time.Duration(m.GetWaitMs()) * time.Millisecond).Round(time.Second))
	}
	fmt.Fprintf(t.out, "On each node that outlived the old cluster:\n  blixard cluster rejoin %s\non each new one:\n  blixard cluster join %s\nand for each whose machine is lost:\n  blixard cluster remove --lost NODE\n", g.Server[0], g.Server[0])
	return nil
}

// confirm has somebody give the word that a restore stands on.
func (c *ClusterRestoreCmd) confirm(g *Globals, t *terminal, h *blixardv1.BackupHeader) error {
	if !g.Yes && !t.asks() {
		why := "(1) no server of that generation will ever run again: hosts would go on running the VMs that are started here again; " +
			"(2) its leases were not made longer since the backup; (3) it did not come down to one host, on which nothing binds (or else: none of its VMs is alive on any machine, and --hosts-off)"
		if c.HostsOff {
			why = "(1) no server of that generation will ever run again: hosts would go on running the VMs that are started here again; " +
				"(2) none of its VMs is alive on any machine, which --hosts-off says: one that is runs twice from now on"
		}
		return &failure{code: exitUsage, what: "a restore needs somebody's word for what it cannot know", why: why,
			next: "make sure of all of that; then -y gives the word in a script"}
	}
	fmt.Fprintf(t.err, "%s is of cluster %s, generation %d: %d VMs on %d nodes, written %s.\nWhat changed since is lost. You say that no server of that generation will ever run again",
		c.File, h.GetClusterId(), h.GetGeneration(), h.GetVms(), len(h.GetNodes()), h.GetCreateTime().AsTime().Local().Format(time.DateTime))
	if c.HostsOff {
		fmt.Fprint(t.err, ",\nand with --hosts-off that none of its VMs is alive on any machine: one that is runs twice from now on")
	} else {
		fmt.Fprint(t.err, ",\nthat its leases were not made longer since, and that it did not come down to one host, on which nothing binds")
	}
	fmt.Fprintln(t.err, ".")
	return t.confirm(g, "Restore it?")
}

func (c *ClusterRejoinCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	r, err := s.Cluster.Rejoin(s.ctx, connect.NewRequest(&blixardv1.RejoinRequest{Server: c.To}))
	if err != nil {
		return err
	}
	if g.Output == "json" || g.Output == "yaml" {
		return s.show(g, r.Msg, nil)
	}
	fmt.Fprintf(t.out, "Rejoined cluster %s, generation %d, as node %d.\n", r.Msg.GetClusterId(), r.Msg.GetGeneration(), r.Msg.GetNodeId())
	if name := r.Msg.GetRenamed(); name != "" {
		fmt.Fprintf(t.out, "Its name is %s now: from its next start on it wants --name %s.\n", name, name)
	}
	return nil
}
