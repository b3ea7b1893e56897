package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// What VMs take, and what they take now: hosts count only upwards, so a rate is the
// difference of two looks.

func (c *VMTopCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	if c.Interval < 100*time.Millisecond || c.Interval > time.Hour {
		return usagef("--interval %s is out of range: want 100ms to 1h", c.Interval)
	}
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	look := func() (*blixardv1.StatsResponse, error) {
		r, err := s.Guest.Stats(s.ctx, connect.NewRequest(&blixardv1.StatsRequest{Names: c.Names}))
		if err != nil {
			return nil, err
		}
		return r.Msg, nil
	}
	last, err := look()
	if err != nil {
		return err
	}
	if g.Output == "json" || g.Output == "yaml" || g.Output == "name" {
		return s.show(g, last, func() table { return topTable(nil, last, c.Sort) })
	}
	live := isTerminal(t.out) && !c.Once
	for {
		select {
		case <-time.After(c.Interval):
		case <-ctx.Done():
			return nil
		}
		if live { // for as long as one likes
			s.began = time.Now()
			s.endAfter(s.patience)
		}
		now, err := look()
		if err != nil && (!live || ctx.Err() != nil) {
			return err
		}
		if live {
			fmt.Fprint(t.out, "\x1b[H\x1b[2J")
		}
		if err != nil {
			fmt.Fprintf(t.out, "%s\n", oneLine(asFailure(err).what))
			continue
		}
		if err := topTable(last, now, c.Sort).print(t.out, g.Output == "wide"); err != nil || !live {
			return err
		}
		last = now
	}
}

// topTable shows what was taken between two looks; before may be nil.
func topTable(before, now *blixardv1.StatsResponse, by string) table {
	old := map[string]*blixardv1.VMStats{}
	for _, v := range before.GetVms() {
		old[v.GetUid()+" "+v.GetNode()] = v
	}
	list := slices.Clone(now.GetVms())
	cpu := func(v *blixardv1.VMStats) float64 {
		return rate(old[v.GetUid()+" "+v.GetNode()], v, (*blixardv1.VMStats).GetCpuNs) / 1e7
	}
	slices.SortStableFunc(list, func(a, b *blixardv1.VMStats) int {
		switch by {
		case "cpu":
			return cmp.Compare(cpu(b), cpu(a))
		case "memory":
			return cmp.Compare(b.GetMemoryBytes(), a.GetMemoryBytes())
		}
		return 0 // they come by name
	})
	t := table{
		head: []string{"NAME", "NODE", "CPU", "MEMORY", "OF", "READ/S", "WRITE/S", "RECV/S", "SENT/S"},
		wide: []string{"VCPUS", "CPU TIME", "PROCESSES", "UID"},
	}
	for _, v := range list {
		o := old[v.GetUid()+" "+v.GetNode()]
		read, written := (*blixardv1.VMStats).GetStorageReadBytes, (*blixardv1.VMStats).GetStorageWrittenBytes
		if v.DiskReadBytes != nil { // what the guest does says more than what its host writes back
			read, written = (*blixardv1.VMStats).GetDiskReadBytes, (*blixardv1.VMStats).GetDiskWrittenBytes
		}
		per := func(of func(*blixardv1.VMStats) uint64) string {
			if o == nil {
				return ""
			}
			return bytesText(uint64(rate(o, v, of)))
		}
		percent := ""
		if o != nil {
			percent = fmt.Sprintf("%.1f%%", cpu(v))
		}
		t.names = append(t.names, v.GetName())
		t.rows = append(t.rows, []string{
			v.GetName(), v.GetNode(), percent, bytesText(v.GetMemoryBytes()), mib(v.GetMemoryMib()),
			per(read), per(written), per((*blixardv1.VMStats).GetNetworkReceivedBytes), per((*blixardv1.VMStats).GetNetworkSentBytes),
			fmt.Sprint(v.GetVcpus()), time.Duration(v.GetCpuNs()).Round(10 * time.Millisecond).String(), fmt.Sprint(v.GetProcesses()), v.GetUid(),
		})
	}
	if n := now.GetSilent(); len(n) > 0 {
		t.notes = append(t.notes, fmt.Sprintf("%s did not answer: what runs there is not shown", strings.Join(n, ", ")))
	}
	return t
}

// rate is how much more of something there is a second later; of an instance that was
// started meanwhile, which counts from 0 again, nothing.
func rate(old, now *blixardv1.VMStats, of func(*blixardv1.VMStats) uint64) float64 {
	if old == nil || of(now) < of(old) || now.GetTimeNs() <= old.GetTimeNs() {
		return 0
	}
	return float64(of(now)-of(old)) / (float64(now.GetTimeNs()-old.GetTimeNs()) / 1e9)
}

func (c *VMExecCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	var stdin []byte
	if c.Stdin {
		const most = 512 << 10
		var err error
		if stdin, err = io.ReadAll(io.LimitReader(t.in, most+1)); err != nil {
			return err
		}
		if len(stdin) > most {
			return &failure{code: exitUsage, what: "the standard input is longer than 512 KiB", next: fmt.Sprintf("blixard vm copy FILE %s:/tmp/in, and have the program read that", c.Name)}
		}
	}
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	limit := min(s.patience, time.Hour)
	s.endAfter(limit + 10*time.Second) // the agent ends it at its time, and says so
	r, err := s.Guest.Exec(s.ctx, connect.NewRequest(&blixardv1.ExecRequest{
		Name: c.Name, Argv: c.Argv, Env: environment(c.Env), Stdin: stdin, TimeoutMs: uint32(max(limit.Milliseconds(), 1))}))
	if err != nil {
		return err
	}
	m := r.Msg
	if g.Output == "json" || g.Output == "yaml" {
		return s.show(g, m, nil)
	}
	_, err = t.out.Write(m.GetStdout())
	_, errs := t.err.Write(m.GetStderr())
	if err = errors.Join(err, errs); err != nil {
		return err
	}
	if m.GetCut() {
		fmt.Fprintln(t.err, "blixard: it said more than 256 KiB, which is not shown")
	}
	if m.GetTimedOut() {
		return &failure{code: exitTimeout, what: fmt.Sprintf("%s was ended after %s", c.Argv[0], limit), next: "allow more with --timeout"}
	}
	if m.GetExitCode() != 0 {
		return programExit(m.GetExitCode())
	}
	return nil
}

// programExit is how a program in a guest has ended: our own exit code, without a word.
type programExit int

func (e programExit) Error() string { return fmt.Sprintf("it ended with exit code %d", int(e)) }

func environment(m map[string]string) (list []string) {
	for k, v := range m {
		list = append(list, k+"="+v)
	}
	slices.Sort(list)
	return list
}
