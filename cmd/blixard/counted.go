package main

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/blixard/blixard/core"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/proto/blixard/v1/blixardv1connect"
	"github.com/blixard/blixard/rpc"
	"github.com/blixard/blixard/vmm"
)

// counted are the series that must be counted as things happen, for nobody remembers
// them; the others are looked up when somebody asks.
type counted struct {
	requests  *prometheus.HistogramVec
	open      *prometheus.GaugeVec
	ended     *prometheus.CounterVec
	events    *prometheus.CounterVec
	snapshots prometheus.Counter
	orders    *prometheus.HistogramVec
	boots     *prometheus.HistogramVec
	writes    prometheus.Histogram
}

// eventsOfNote are there from the beginning, so that the first of them is an increase.
var eventsOfNote = []string{
	"VMPlaced", "VMReleased", "VMFailed", "VMCrashLoop", "VMUnhealthy",
	"VMMigrating", "VMMigrated", "VMNotMigrated", "VMMoving",
	"HostSuspect", "HostFenced", "NodeDraining", "NodeDrained",
}

func newCounted() *counted {
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "blixard_" + name, Help: help, Buckets: buckets}, labels)
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "blixard_" + name, Help: help}, labels)
	}
	long := []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800}
	c := &counted{
		requests: histogram("request_duration_seconds", "Requests of clients that were answered here, but for streams.",
			[]float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}, "method", "code"),
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "blixard_streams_open",
			Help: "Streams of clients that are open here: watches, logs, uploads."}, []string{"method"}),
		ended:  counter("streams_ended_total", "Streams of clients that have ended here. A watcher that came too late for what happened is code out_of_range.", "method", "code"),
		events: counter("events_total", "Events of the cluster, as this server applies them.", "type"),
		snapshots: prometheus.NewCounter(prometheus.CounterOpts{Name: "blixard_raft_snapshots_sent_total",
			Help: "Snapshots of the state that this server began to send to others which were far behind."}),
		orders: histogram("vm_order_duration_seconds", "Orders for VMs that were carried out on this host, by their result: ok, failed, or overtaken by a later order.", long, "order", "result"),
		boots:  histogram("vm_boot_duration_seconds", "From the start of a VM on this host until its guest was seen to run.", long, "hypervisor"),
		writes: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "blixard_disk_write_duration_seconds",
			Help:    "Transactions of this node's own database, until they were durable.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10}}),
	}
	for _, kind := range eventsOfNote {
		c.events.WithLabelValues(kind)
	}
	c.open.WithLabelValues(rpc.Method(blixardv1connect.WatchServiceWatchProcedure))
	return c
}

func (c *counted) all() []prometheus.Collector {
	return []prometheus.Collector{c.requests, c.open, c.ended, c.events, c.snapshots, c.orders, c.boots, c.writes}
}

// answered counts a request.
func (c *counted) answered(procedure string, err error, took time.Duration) {
	c.requests.WithLabelValues(rpc.Method(procedure), codeOf(err)).Observe(took.Seconds())
}

// opened counts a stream.
func (c *counted) opened(procedure string) (ended func(error)) {
	method := rpc.Method(procedure)
	c.open.WithLabelValues(method).Inc()
	return func(err error) {
		c.open.WithLabelValues(method).Dec()
		c.ended.WithLabelValues(method, codeOf(err)).Inc()
	}
}

// stepped counts what a step of the node has brought.
func (c *counted) stepped(out core.Output) {
	for i := range out.Applied {
		if e, ok := out.Applied[i].Record.(*blixardv1.Event); ok {
			c.events.WithLabelValues(e.Type).Inc()
		}
	}
	for i := range out.Messages {
		if out.Messages[i].State != nil {
			c.snapshots.Inc()
		}
	}
}

// carriedOut counts an order for a VM.
func (c *counted) carriedOut(order vmm.Verb, result string, took time.Duration) {
	c.orders.WithLabelValues(order.String(), result).Observe(took.Seconds())
}

// booted counts a guest that runs.
func (c *counted) booted(h blixardv1.Hypervisor, took time.Duration) {
	c.boots.WithLabelValues(strings.ToLower(strings.TrimPrefix(h.String(), "HYPERVISOR_"))).Observe(took.Seconds())
}

// wrote counts a transaction.
func (c *counted) wrote(took time.Duration) { c.writes.Observe(took.Seconds()) }
