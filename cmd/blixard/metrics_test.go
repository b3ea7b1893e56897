package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// scrape reads a node's /metrics as Prometheus would, and holds the names to its
// conventions.
func (n *Node) scrape() map[string]*dto.MetricFamily {
	n.t.Helper()
	r, err := http.Get("http://" + n.Addr + "/metrics")
	if err != nil {
		n.t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		n.t.Fatalf("%s: %v", r.Status, err)
	}
	problems, err := promlint.New(bytes.NewReader(text)).Lint()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, p := range problems {
		n.t.Errorf("%s: %s", p.Metric, p.Text)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	all, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		n.t.Fatal(err)
	}
	return all
}

// value is that of the series with these labels, as "name", "value", ...; false:
// there is none.
func value(all map[string]*dto.MetricFamily, name string, labels ...string) (float64, bool) {
	want := map[string]string{}
	for i := 0; i < len(labels); i += 2 {
		want[labels[i]] = labels[i+1]
	}
	for _, m := range all[name].GetMetric() {
		found := 0
		for _, l := range m.GetLabel() {
			if want[l.GetName()] == l.GetValue() {
				found++
			}
		}
		if found == len(want) {
			return m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount()), true
		}
	}
	return 0, false
}

// What a node shows to Prometheus: before it is in a cluster, and while it runs VMs.
func TestMetrics(t *testing.T) {
	t.Parallel()
	c := up(t, 1)
	n := c.Node(1)
	c.Must("vm", "create", "busy", "--process", "--memory", "64", "--", "/bin/sh", "-c", "while :; do :; done")
	c.Must("vm", "create", "stuck", "--process", "--memory", "64", "--require", "no=where", "--wait=false", "--", "/bin/true")
	c.Fails(exitNotFound, nil, "vm", "get", "none")
	busy, _ := c.VM("busy")
	is := func(all map[string]*dto.MetricFamily, least, most float64, name string, labels ...string) {
		t.Helper()
		if v, ok := value(all, name, labels...); !ok || v < least || v > most {
			t.Errorf("%s%v is %v (there: %t), want %v to %v", name, labels, v, ok, least, most)
		}
	}
	first := n.scrape()
	is(first, 1, 1, "blixard_build_info", "node", "n1")
	is(first, 1, 1, "blixard_raft_leads")
	is(first, 1, 1, "blixard_raft_quorum")
	is(first, 1, 1, "blixard_host_lease_granted")
	is(first, 1, 1, "blixard_nodes", "state", "ready")
	is(first, 1, 1, "blixard_vms", "phase", "running")
	is(first, 0, 0, "blixard_vms", "phase", "unreachable")
	is(first, 1, 1, "blixard_vms_waiting", "reason", "NoHostFits")
	is(first, 0, 0, "blixard_vms_waiting", "reason", "Unsettled")
	is(first, 64<<20, 64<<20, "blixard_host_allocated", "node", "n1", "resource", "memory_bytes")
	is(first, 4096<<20, 4096<<20, "blixard_host_capacity", "node", "n1", "resource", "memory_bytes")
	is(first, 2, 10, "blixard_request_duration_seconds", "method", "VM.Create", "code", "ok")
	is(first, 1, 10, "blixard_request_duration_seconds", "method", "VM.Get", "code", "not_found")
	is(first, 1, 64<<20, "blixard_vm_resident_memory_bytes", "vm", "busy", "uid", busy.GetUid())
	is(first, 1, 10, "blixard_vm_processes", "vm", "busy")

	before, _ := value(first, "blixard_vm_cpu_seconds_total", "vm", "busy")
	c.Eventually(30*time.Second, "its cpu time grows", func() error {
		if now, _ := value(n.scrape(), "blixard_vm_cpu_seconds_total", "vm", "busy"); now < before+0.1 {
			return io.ErrNoProgress
		}
		return nil
	})
	c.Must("vm", "create", "broken", "--process", "--memory", "64", "--restart", "never", "--wait=false", "--", "/nonexistent")
	follow := c.Command(ctx(t), "events", "-f")
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	// What is counted as it happens.
	grows := func(name string, labels ...string) func() error {
		return func() error {
			was, _ := value(first, name, labels...)
			if now, there := value(n.scrape(), name, labels...); !there || now <= was {
				return fmt.Errorf("%s%v is %v (there: %t), and was %v", name, labels, now, there, was)
			}
			return nil
		}
	}
	for _, want := range []func() error{
		grows("blixard_streams_open", "method", "Watch.Watch"),
		grows("blixard_events_total", "type", "VMPlaced"),
		grows("blixard_events_total", "type", "VMFailed"),
		grows("blixard_vm_order_duration_seconds", "order", "Start", "result", "failed"),
		grows("blixard_raft_proposals_total"),
		grows("blixard_host_lease_renewals_total"),
		grows("blixard_disk_write_duration_seconds"),
	} {
		c.Eventually(30*time.Second, "it is counted", want)
	}
	is(first, 1, 1, "blixard_raft_leader_changes_total")
	is(first, 0, 0, "blixard_raft_proposals_dropped_total")
	is(first, 0, 0, "blixard_raft_snapshots_sent_total")
	is(first, 0, 1e6, "blixard_host_lease_late_renewals_total")
	is(first, 0, 0, "blixard_events_total", "type", "HostFenced")
	is(first, 1, 1, "blixard_events_total", "type", "VMPlaced")
	is(first, 1, 1, "blixard_vm_order_duration_seconds", "order", "Build", "result", "ok")
	is(first, 1, 1, "blixard_vm_order_duration_seconds", "order", "Start", "result", "ok")
	is(first, 1, 1, "blixard_vm_boot_duration_seconds", "hypervisor", "process")
	_ = follow.Process.Kill()
	_ = follow.Wait()
	c.Eventually(30*time.Second, "a stream that was left is not open", func() error {
		if open, _ := value(n.scrape(), "blixard_streams_open", "method", "Watch.Watch"); open != 0 {
			return fmt.Errorf("%v are", open)
		}
		return grows("blixard_streams_ended_total", "method", "Watch.Watch", "code", "canceled")()
	})
	c.Must("vm", "delete", "-y", "busy")
	after := n.scrape()
	if _, ok := value(after, "blixard_vm_cpu_seconds_total", "uid", busy.GetUid()); ok {
		t.Error("a VM that is gone is still shown")
	}
	is(after, 0, 0, "blixard_vms", "phase", phaseLabel(blixardv1.Phase_PHASE_RUNNING.String()))

	lone := c.Add()
	lone.Start().Await()
	outside := lone.scrape()
	is(outside, 0, 0, "blixard_cluster_member")
	if _, ok := outside["blixard_raft_term"]; ok {
		t.Error("a node in no cluster has a term")
	}
}
