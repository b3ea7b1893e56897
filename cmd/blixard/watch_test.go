package main

import (
	"bufio"
	"context"
	"strings"
	"testing"
	"time"
)

// Events say what happened, and a watch goes on when the server that it asked is killed.
func TestWatchingACluster(t *testing.T) {
	t.Parallel()
	c := up(t, 3)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	lines := func(args ...string) chan string {
		cmd := c.Command(ctx, args...)
		out, err := cmd.StdoutPipe()
		cmd.Stderr = cmd.Stdout
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said := make(chan string, 1000)
		go func() {
			for s := bufio.NewScanner(out); s.Scan(); {
				said <- s.Text()
			}
			close(said)
			cmd.Wait()
		}()
		return said
	}
	await := func(said chan string, words ...string) {
		t.Helper()
		var all []string
		for late := time.After(time.Minute); ; {
			select {
			case line, ok := <-said:
				all = append(all, line)
				has := ok
				for _, w := range words {
					has = has && strings.Contains(line, w)
				}
				if has {
					return
				}
				if !ok {
					t.Fatalf("it ended without %q:\n%s", words, strings.Join(all, "\n"))
				}
			case <-late:
				t.Fatalf("no line with %q:\n%s", words, strings.Join(all, "\n"))
			}
		}
	}
	vms, events := lines("vm", "list", "-w"), lines("events", "-f", "--vm", "web")
	c.Must(create("web")...)
	await(vms, "web", "Running")
	await(events, "VMPlaced", "web on ")

	c.Node(1).Kill() // the first that clients ask
	c.Must("vm", "stop", "web")
	await(vms, "web", "Stopped")
	c.Must("vm", "delete", "web", "-y")
	await(vms, "web", "Gone")
	await(events, "VMDeleted", "web")

	all := strings.Split(strings.TrimSpace(c.Must("events", "--vm", "web")), "\n")
	if len(all) < 3 || !strings.Contains(all[len(all)-1], "VMDeleted") {
		t.Errorf("events:\n%s", strings.Join(all, "\n"))
	}
	revision := strings.Fields(all[len(all)-2])[2]
	if out := c.Must("events", "--vm", "web", "--since", revision, "-o", "json"); strings.Count(out, "\n") != 1 || !strings.Contains(out, `"VMDeleted"`) {
		t.Errorf("events since %s: %s", revision, out)
	}
	c.Fails(exitUsage, []string{"line by line"}, "events", "-o", "yaml")
	c.Fails(exitUsage, []string{"--watch shows every VM"}, "vm", "list", "-w", "--stale")
}
