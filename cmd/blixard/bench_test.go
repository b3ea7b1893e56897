package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/rpc"
)

// BenchmarkCluster measures what clients of three local daemons get: committed
// creates, and linearizable reads, with fsync on, at 1, 64 and 256 clients, each
// with a connection of its own to one of the servers. The VMs need more than any
// host has, so that nothing but the control plane works. Clients share the
// machine with the servers.
func BenchmarkCluster(b *testing.B) {
	c := up(b, 3)
	warm(b, c)
	for _, clients := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("create/clients=%d", clients), func(b *testing.B) {
			load(b, c, clients, func(ctx context.Context, r *rpc.Client, name string) error {
				_, err := r.VM.Create(ctx, connect.NewRequest(&blixardv1.CreateRequest{Name: name, Spec: tooBig()}))
				return err
			})
		})
	}
	for _, clients := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("get/clients=%d", clients), func(b *testing.B) {
			load(b, c, clients, func(ctx context.Context, r *rpc.Client, _ string) error {
				_, err := r.VM.Get(ctx, connect.NewRequest(&blixardv1.GetRequest{Name: "warm"}))
				return err
			})
		})
	}
}

// BenchmarkCreateToExec measures one VM: from the call of Create on one of three
// nodes to the moment at which the program that it runs was executed.
func BenchmarkCreateToExec(b *testing.B) {
	c := up(b, 3)
	warm(b, c)
	r := c.Client()
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		name := fmt.Sprintf("exec-%d", i)
		start := time.Now()
		spec := &blixardv1.VMSpec{MemoryMib: 32, Restart: blixardv1.RestartPolicy_RESTART_POLICY_NEVER,
			Source: &blixardv1.VMSpec_Process{Process: &blixardv1.Process{Argv: []string{"/bin/date", "+%s.%N"}}}}
		if _, err := r.VM.Create(ctx(b), connect.NewRequest(&blixardv1.CreateRequest{Name: name, Spec: spec})); err != nil {
			b.Fatal(err)
		}
		took = append(took, executedAt(b, r, name).Sub(start))
		if _, err := r.VM.Delete(ctx(b), connect.NewRequest(&blixardv1.DeleteRequest{Name: name})); err != nil {
			b.Fatal(err)
		}
	}
	quantiles(b, took)
}

// executedAt is the time that the program itself printed.
func executedAt(b *testing.B, r *rpc.Client, name string) (at time.Time) {
	eventually(b, 20*time.Second, name+" printed the time", func() error {
		short, cancel := context.WithTimeout(ctx(b), 5*time.Second)
		defer cancel()
		stream, err := r.VM.Logs(short, connect.NewRequest(&blixardv1.LogsRequest{Name: name}))
		if err != nil {
			return err
		}
		defer stream.Close()
		var text []byte
		for stream.Receive() {
			text = append(text, stream.Msg().GetData()...)
		}
		for line := range bytesLines(text) {
			var sec, nsec int64
			if n, _ := fmt.Sscanf(line, "%d.%d", &sec, &nsec); n == 2 {
				at = time.Unix(sec, nsec)
				return nil
			}
		}
		return fmt.Errorf("only %q", text)
	})
	return at
}

func bytesLines(text []byte) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		start := 0
		for i, c := range text {
			if c == '\n' {
				if !yield(string(text[start:i])) {
					return
				}
				start = i + 1
			}
		}
	}
}

func tooBig() *blixardv1.VMSpec {
	return &blixardv1.VMSpec{MemoryMib: 1 << 20, Source: &blixardv1.VMSpec_Process{Process: &blixardv1.Process{Argv: []string{"/bin/true"}}}}
}

func warm(b *testing.B, c *Cluster) {
	if _, err := c.Client().VM.Create(ctx(b), connect.NewRequest(&blixardv1.CreateRequest{Name: "warm", Spec: tooBig()})); err != nil && connect.CodeOf(err) != connect.CodeAlreadyExists {
		b.Fatal(err)
	}
}

// load makes b.N calls by so many clients at once.
func load(b *testing.B, c *Cluster, clients int, call func(context.Context, *rpc.Client, string) error) {
	var next atomic.Int64
	took := make([][]time.Duration, clients)
	run := time.Now().UnixNano()
	var group sync.WaitGroup
	b.ResetTimer()
	for i := range clients {
		r := rpc.Dial([]string{c.nodes[i%len(c.nodes)].Addr}, nil)
		defer r.Close()
		group.Add(1)
		go func() {
			defer group.Done()
			for {
				n := next.Add(1)
				if n > int64(b.N) {
					return
				}
				start := time.Now()
				if err := call(ctx(b), r, fmt.Sprintf("b%d-%d", run, n)); err != nil {
					b.Error(err)
					return
				}
				took[i] = append(took[i], time.Since(start))
			}
		}()
	}
	group.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
	quantiles(b, slices.Concat(took...))
}

func quantiles(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	if len(took) == 0 {
		return
	}
	ms := func(q int) float64 { return float64(took[min(len(took)*q/100, len(took)-1)]) / 1e6 }
	b.ReportMetric(ms(50), "p50-ms")
	b.ReportMetric(ms(99), "p99-ms")
}
