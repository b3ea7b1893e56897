package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/shim"
)

// cloud boots images with cloud-hypervisor. All of a VM is on its command line,
// so that nothing is left half done when the daemon dies between two requests.
//
// It starts a guest that has reset itself anew by itself, in the same process.
// A VM of ours ends then, and its policy decides: see resets.
type cloud struct {
	images
	program string
	warn    func(msg string, args ...any)
}

// refillMs is how long a bucket of tokens takes to be full again, which holds what a
// second may have.
const refillMs = 1000

// Files in a VM's run directory, besides those of layout.go.
const (
	apiSocket  = "api"
	eventsFile = "events"
	vmmLog     = "vmm.log"
)

func (d *cloud) prepare(ctx context.Context, p place, a *blixardv1.Assignment, i shim.Instance) (command, error) {
	b, err := d.elfFiles(ctx, p, a, i)
	if err != nil {
		return command{}, err
	}
	argv, err := d.argv(b)
	if err != nil {
		return command{}, err
	}
	return d.command(b, argv)
}

func (d *cloud) command(b boot, argv []string) (command, error) {
	p := b.place
	if err := clean(p.run, apiSocket, eventsFile, vmmLog); err != nil {
		return command{}, err
	}
	return b.beside(command{argv: argv, env: []string{"PATH=/usr/bin:/bin"}, dir: p.run, output: p.console, balloon: b.balloon()}), nil
}

// alone is the command line of one that has no guest yet.
func (d *cloud) alone(p place) []string {
	in := func(name string) string { return filepath.Join(p.run, name) }
	return []string{
		d.program,
		"--api-socket", "path=" + quoted(p.socket(apiSocket)),
		"--event-monitor", "path=" + quoted(in(eventsFile)),
		"--log-file", in(vmmLog),
		"--seccomp", "true",
	}
}

// argv is its command line. A value in its comma syntax is quoted when it has to be.
func (d *cloud) argv(b boot) ([]string, error) {
	cmdline, err := b.commandLine("console=ttyS0", "quiet", "panic=-1", "reboot=t")
	if err != nil {
		return nil, err
	}
	memory := fmt.Sprintf("size=%dM", b.memoryMib)
	if len(b.shares) > 0 {
		memory += ",shared=on"
	}
	argv := append(d.alone(b.place),
		"--cpus", fmt.Sprintf("boot=%d", b.vcpus),
		"--memory", memory,
		"--serial", "tty", "--console", "off", // on its standard output, which is the VM's console log
		"--pvpanic",
		"--kernel", b.kernel, "--cmdline", cmdline,
	)
	if b.initrd != "" {
		argv = append(argv, "--initramfs", b.initrd)
	}
	if b.balloon() > 0 {
		argv = append(argv, "--balloon", "size=0,deflate_on_oom=on")
	}
	if len(b.disks) > 0 {
		argv = append(argv, "--disk")
	}
	for _, disk := range b.disks {
		// What a guest writes must never be taken for the head of another format.
		word := fmt.Sprintf("path=%s,image_type=%s,serial=%s", quoted(disk.path), disk.format, disk.name)
		if disk.readOnly {
			word += ",readonly=on"
		}
		if disk.rate > 0 {
			word += fmt.Sprintf(",bw_size=%d,bw_refill_time=%d", disk.rate, refillMs)
		}
		if disk.ops > 0 {
			word += fmt.Sprintf(",ops_size=%d,ops_refill_time=%d", disk.ops, refillMs)
		}
		argv = append(argv, word)
	}
	if len(b.nics) > 0 {
		argv = append(argv, "--net")
	}
	for _, n := range b.nics {
		argv = append(argv, "tap="+n.tap+",mac="+n.mac)
	}
	if len(b.shares) > 0 {
		argv = append(argv, "--fs")
	}
	for _, s := range b.shares {
		argv = append(argv, "tag="+s.tag+",socket="+quoted(s.socket)+",num_queues=1,queue_size=1024")
	}
	if len(b.devices) > 0 {
		argv = append(argv, "--device")
	}
	for _, address := range b.devices {
		argv = append(argv, "path="+filepath.Join(thisBus.devices, address))
	}
	return argv, nil
}

// quoted makes a value safe inside cloud-hypervisor's comma syntax.
func quoted(s string) string {
	if strings.ContainsAny(s, ",[]= ") {
		return `"` + s + `"`
	}
	return s
}

func (d *cloud) follow(p place, tell func(guestState)) session {
	c := cloudControl{rest{filepath.Join(p.run, apiSocket)}}
	r := &resets{path: filepath.Join(p.run, eventsFile), control: c, warn: d.warn}
	r.skip()
	s := &restSession{
		place: p, name: "cloud-hypervisor", control: c, look: r.look, count: c.disks,
		keep: c.snapshot, bring: func(ctx context.Context) error { return c.restore(ctx, filepath.Join(p.run, revivedFolder)) },
		button: func(ctx context.Context) error { return c.put(ctx, "vm.power-button", nil) },
		end:    func(e shim.Exit, ready bool, console string) *vmm.Exit { return r.ended(e, ready, console, p) },
	}
	return s.begin(tell)
}

// resets reads what the event monitor has written, and ends a VM whose guest has
// reset itself. One that did so while no daemon looked has been running since,
// and is left alone.
type resets struct {
	path    string
	control cloudControl
	warn    func(msg string, args ...any)

	mu       sync.Mutex
	at       int64 // read so far
	reset    bool
	panicked bool
}

const mostEvents = 1 << 20 // bytes that are read at a time

// skip passes over what was there before anybody looked.
func (r *resets) skip() {
	if st, err := os.Stat(r.path); err == nil {
		r.at = st.Size()
	}
}

func (r *resets) look(ctx context.Context) {
	r.mu.Lock()
	before := r.reset
	r.read()
	reset := r.reset
	r.mu.Unlock()
	if !reset || before && ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, restPatience)
	defer cancel()
	// It may be on its way out already; otherwise it is asked at the next look again.
	if err := r.control.put(ctx, "vmm.shutdown", nil); err != nil && !unheard(err) && !before {
		r.warn("a VM whose guest has reset itself was not ended yet", "events", r.path, "err", err)
	}
}

// read takes the events that are new and whole: objects, one after the other.
func (r *resets) read() {
	f, err := os.Open(r.path)
	if err != nil {
		return
	}
	defer f.Close()
	if _, err := f.Seek(r.at, io.SeekStart); err != nil {
		return
	}
	b, err := io.ReadAll(io.LimitReader(f, mostEvents))
	if err != nil {
		return
	}
	events, from := json.NewDecoder(bytes.NewReader(b)), r.at
	for {
		var e struct {
			Source string `json:"source"`
			Event  string `json:"event"`
		}
		if events.Decode(&e) != nil { // the end, or half of one
			return
		}
		r.at = from + events.InputOffset()
		switch e.Source + " " + e.Event {
		case "guest panic":
			r.panicked = true
		case "vm rebooting":
			r.reset = true
		}
	}
}

func (r *resets) ended(e shim.Exit, ready bool, console string, p place) *vmm.Exit {
	r.mu.Lock()
	r.read()
	reset, panicked := r.reset, r.panicked
	r.mu.Unlock()
	words := lastLines(console, 3, 600)
	if text := tail(filepath.Join(p.run, vmmLog), 3, 600); e.Code != 0 && text != "" {
		words = text + " / " + words
	}
	panicLine := lineWith(console, "Kernel panic")
	switch {
	case panicked || reset && panicLine != "":
		return &vmm.Exit{Code: 1, Reason: Panicked, Message: "the guest's kernel panicked: " + lastLines(panicLine, 1, 300)}
	case reset:
		return &vmm.Exit{Code: 1, Reason: Crashed, Message: "the guest reset itself"}
	case e.Code != 0 && !ready:
		return &vmm.Exit{Code: int32(e.Code), Reason: BootFailed, Message: fmt.Sprintf("cloud-hypervisor ended with exit code %d: %s", e.Code, words)}
	case e.Code != 0:
		return &vmm.Exit{Code: int32(e.Code), Reason: Crashed, Message: fmt.Sprintf("cloud-hypervisor ended with exit code %d: %s", e.Code, words)}
	}
	return &vmm.Exit{Reason: Exited, Message: "the guest powered off"}
}
