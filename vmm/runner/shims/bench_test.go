package shims

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkMemory tells what a shim costs: PSS, its fair share with ten of them
// at work, RSS, and the part that is its alone.
func BenchmarkMemory(b *testing.B) {
	const shims = 10
	for _, namespace := range []bool{false, true} {
		b.Run(fmt.Sprintf("namespace=%v", namespace), func(b *testing.B) {
			if namespace && os.Getuid() != 0 {
				b.Skip("no PID namespace for us")
			}
			for b.Loop() {
				b.StopTimer()
				h := newHost(&testing.T{})
				var rss, pss, private float64
				var all []*Shim
				for range shims {
					start := h.program("sleep", "300")
					start.PIDNamespace = namespace
					s, err := Spawn(b.Context(), h.nextDir(), start)
					if err != nil {
						b.Fatal(err)
					}
					all = append(all, s)
				}
				for _, s := range all {
					pids := []int{s.Hello().Shim.PID}
					if namespace {
						pids = append(pids, s.Hello().VM.PID)
					}
					for _, pid := range pids {
						text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
						rss += rollup(text, "Rss:")
						pss += rollup(text, "Pss:")
						private += rollup(text, "Private_Dirty:")
					}
				}
				for _, s := range all {
					s.Kill(b.Context(), unix.SIGKILL)
					s.Wait(b.Context())
				}
				os.RemoveAll(h.run)
				b.ReportMetric(rss/shims, "KB-RSS/VM")
				b.ReportMetric(pss/shims, "KB-PSS/VM")
				b.ReportMetric(private/shims, "KB-private/VM")
				b.StartTimer()
			}
		})
	}
}

func rollup(text []byte, field string) float64 {
	var kb float64
	for _, line := range strings.Split(string(text), "\n") {
		if rest, ok := strings.CutPrefix(line, field); ok {
			fmt.Sscan(rest, &kb)
		}
	}
	return kb
}

// BenchmarkSpawn is how long a start takes, to the VM's running and back.
func BenchmarkSpawn(b *testing.B) {
	h := newHost(&testing.T{})
	defer os.RemoveAll(h.run)
	for b.Loop() {
		s, err := Spawn(b.Context(), h.nextDir(), h.program("true"))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.Wait(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
