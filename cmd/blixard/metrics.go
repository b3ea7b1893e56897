package main

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// metrics is what /metrics shows, in Prometheus' text format. What can be looked up
// is looked up when somebody asks; only requests are counted as they come.
//
// Each server shows the whole cluster as its own copy of the state has it, so take
// cluster series from one server, or their max; a host shows the VMs that live there.
type metrics struct {
	*counted
	d       *daemon
	handler http.Handler
}

// descriptions are those of all series that are looked up.
var descriptions []*prometheus.Desc

func describe(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc("blixard_"+name, help, labels, nil)
	descriptions = append(descriptions, d)
	return d
}

var (
	descInfo    = describe("build_info", "Always 1; which binary this is, and as what it serves.", "version", "node")
	descMember  = describe("cluster_member", "1: this node is in a cluster.")
	descQuorum  = describe("raft_quorum", "1: this node knows a leader.")
	descLeads   = describe("raft_leads", "1: this server leads.")
	descTerm    = describe("raft_term", "Raft's term.")
	descCommit  = describe("raft_commit_index", "Last log entry that is known to be committed.")
	descApplied = describe("raft_applied_index", "Last log entry that this server has applied.")
	descLease   = describe("host_lease_granted", "1: this host holds its lease.")

	descLeaders  = describe("raft_leader_changes_total", "Leaders that this server has learnt of, each time another one.")
	descProposed = describe("raft_proposals_total", "Commands that this server gave to Raft while it led.")
	descDropped  = describe("raft_proposals_dropped_total", "Those of them that Raft did not take.")
	descRenewals = describe("host_lease_renewals_total", "Grants that renewed this host's lease.")
	descLate     = describe("host_lease_late_renewals_total", "Those of them that came when more than half of the lease had gone by.")

	descNodes   = describe("nodes", "Hosts by state, as this server's copy has it.", "state")
	descVMs     = describe("vms", "VMs by phase, as this server's copy has it.", "phase")
	descWaiting = describe("vms_waiting", "VMs that should run and have no host, by the reason.", "reason")
	descFailing = describe("vm_failures", "Ends in a row without a stable run between them, of VMs that have any.", "vm", "node")
	descCap     = describe("host_capacity", "What a host has: vcpus (times the overcommit), bytes.", "node", "resource")
	descUsed    = describe("host_allocated", "What placed VMs take of that.", "node", "resource")

	descCPU     = describe("vm_cpu_seconds_total", "User and system time of a VM that lives here.", "vm", "uid")
	descMemory  = describe("vm_resident_memory_bytes", "Resident memory of a VM that lives here.", "vm", "uid")
	descRead    = describe("vm_storage_read_bytes_total", "Read from storage by a VM that lives here.", "vm", "uid")
	descWritten = describe("vm_storage_written_bytes_total", "Written to storage by a VM that lives here.", "vm", "uid")
	descDiskR   = describe("vm_disk_read_bytes_total", "Read from its disks by the guest of a VM that lives here, where its hypervisor says.", "vm", "uid")
	descDiskW   = describe("vm_disk_written_bytes_total", "Written to its disks by the guest of a VM that lives here, where its hypervisor says.", "vm", "uid")
	descNetR    = describe("vm_network_received_bytes_total", "Received on bridges by the guest of a VM that lives here.", "vm", "uid")
	descNetS    = describe("vm_network_sent_bytes_total", "Sent on bridges by the guest of a VM that lives here.", "vm", "uid")
	descProcs   = describe("vm_processes", "Processes of a VM that lives here.", "vm", "uid")
)

func newMetrics(d *daemon) *metrics {
	m := &metrics{counted: newCounted(), d: d}
	r := prometheus.NewRegistry()
	r.MustRegister(append(m.all(), m, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))...)
	m.handler = promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelWarn), ErrorHandling: promhttp.ContinueOnError})
	return m
}

func codeOf(err error) string {
	if err == nil {
		return "ok"
	}
	return connect.CodeOf(err).String()
}

// Describe is prometheus.Collector; what comes depends on what the node is.
func (m *metrics) Describe(chan<- *prometheus.Desc) {}

// Collect is prometheus.Collector.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, n uint64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n))
	}
	yes := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	gauge(descInfo, 1, versionText(), m.d.self.Name)
	st := m.d.Status()
	gauge(descMember, yes(st.Identity.ClusterID != ""))
	if st.Identity.ClusterID == "" {
		return
	}
	if st.Identity.Host {
		gauge(descLease, yes(st.Granted))
		count(descRenewals, st.Counts.Renewals)
		count(descLate, st.Counts.Late)
	}
	var view *cluster.State
	if st.Identity.Server {
		gauge(descQuorum, yes(st.Quorum))
		gauge(descLeads, yes(st.Leading))
		gauge(descTerm, float64(st.Term))
		gauge(descCommit, float64(st.Committed))
		gauge(descApplied, float64(st.Applied))
		count(descLeaders, st.Counts.LeaderChanges)
		count(descProposed, st.Counts.Proposed)
		count(descDropped, st.Counts.Dropped)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if view, _ = m.d.Read(ctx, true); view != nil {
			collectState(view, gauge)
		}
	}
	m.collectHost(view, out)
}

// collectState shows what a server's copy says of the cluster.
func collectState(view *cluster.State, gauge func(*prometheus.Desc, float64, ...string)) {
	overcommit := float64(view.Settings().GetVcpuOvercommitMilli()) / 1000
	states := map[string]int{"ready": 0, "cordoned": 0, "suspect": 0, "lost": 0, "joining": 0}
	view.Nodes(func(n *blixardv1.Node) bool {
		if n.Host == nil {
			return true
		}
		states[hostState(n)]++
		c, a := n.Host.GetFacts().GetCapacity(), n.Host.GetAllocated()
		for resource, v := range map[string][2]float64{
			"vcpus":        {float64(c.GetVcpus()) * overcommit, float64(a.GetVcpus())},
			"memory_bytes": {float64(c.GetMemoryMib() << 20), float64(a.GetMemoryMib() << 20)},
			"disk_bytes":   {float64(c.GetDiskMib() << 20), float64(a.GetDiskMib() << 20)},
		} {
			gauge(descCap, v[0], n.Name, resource)
			gauge(descUsed, v[1], n.Name, resource)
		}
		return true
	})
	for state, n := range states {
		gauge(descNodes, float64(n), state)
	}
	phases, waiting := map[string]int{}, map[string]int{"NoHostFits": 0, cluster.NoHostCan: 0, "Unsettled": 0}
	for _, name := range blixardv1.Phase_name {
		if name != "PHASE_UNSPECIFIED" {
			phases[phaseLabel(name)] = 0
		}
	}
	view.VMs("", func(vm *blixardv1.VM) bool {
		vm = view.Shown(vm)
		st := vm.GetStatus()
		phases[phaseLabel(st.GetPhase().String())]++
		if vm.Placement == nil && vm.Run && !vm.Deleting {
			waiting[st.GetReason()]++
		}
		if st.GetFailures() > 0 {
			gauge(descFailing, float64(st.GetFailures()), vm.Name, vm.GetPlacement().GetNode())
		}
		return true
	})
	for phase, n := range phases {
		gauge(descVMs, float64(n), phase)
	}
	for reason, n := range waiting {
		gauge(descWaiting, float64(n), reason)
	}
}

func phaseLabel(name string) string { return strings.ToLower(strings.TrimPrefix(name, "PHASE_")) }

// hostState is one word for how a host is.
func hostState(n *blixardv1.Node) string {
	switch h := n.Host; {
	case h.EpochState == blixardv1.EpochState_EPOCH_STATE_UNSPECIFIED:
		return "joining"
	case h.EpochState != blixardv1.EpochState_EPOCH_STATE_ACTIVE:
		return "lost"
	case h.Suspect:
		return "suspect"
	case n.Cordoned:
		return "cordoned"
	}
	return "ready"
}

// collectHost shows what VMs take of this machine, with their names where this node
// knows them.
func (m *metrics) collectHost(view *cluster.State, out chan<- prometheus.Metric) {
	w := m.d.world.Load()
	if w == nil || w.host == nil {
		return
	}
	for _, u := range w.host.Usage() {
		name := ""
		if view != nil {
			if vm := view.VMByUID(u.UID); vm != nil {
				name = vm.Name
			}
		}
		put := func(d *prometheus.Desc, t prometheus.ValueType, v float64) {
			out <- prometheus.MustNewConstMetric(d, t, v, name, u.UID)
		}
		put(descCPU, prometheus.CounterValue, u.CPUSeconds)
		put(descMemory, prometheus.GaugeValue, float64(u.MemoryBytes))
		put(descRead, prometheus.CounterValue, float64(u.ReadBytes))
		put(descWritten, prometheus.CounterValue, float64(u.WrittenBytes))
		if u.Disks {
			put(descDiskR, prometheus.CounterValue, float64(u.DiskRead))
			put(descDiskW, prometheus.CounterValue, float64(u.DiskWritten))
		}
		put(descNetR, prometheus.CounterValue, float64(u.Received))
		put(descNetS, prometheus.CounterValue, float64(u.Sent))
		put(descProcs, prometheus.GaugeValue, float64(u.Processes))
	}
}
