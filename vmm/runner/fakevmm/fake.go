package fakevmm

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/guest/boot"
)

// The names that a program is run under to be one of them.
const (
	CloudHypervisor = "cloud-hypervisor"
	Firecracker     = "firecracker"
)

// CodeViolation is its exit code when it was told what nobody may tell it.
const CodeViolation = 99

// Called says that this process was started to be one of them.
func Called() bool {
	name := filepath.Base(os.Args[0])
	return name == CloudHypervisor || name == Firecracker || name == Jailer
}

// Main is that one's main; it does not return.
func Main() {
	f := &fake{vendor: filepath.Base(os.Args[0]), started: make(chan int, 1)}
	f.calls = calls()[f.vendor]
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Println(map[string]string{CloudHypervisor: "cloud-hypervisor v53.0", Firecracker: "Firecracker v1.16.1\n", Jailer: "Jailer v1.16.1\n"}[f.vendor])
		os.Exit(0)
	}
	if f.vendor == Jailer {
		f.jail(os.Args[1:])
	}
	options := f.options(os.Args[1:])
	if f.vendor == Firecracker {
		f.state = "Not started"
		f.configured(options)
	} else {
		f.commanded(options)
	}
	if f.made {
		f.started <- 0
	}
	l, err := net.Listen("unix", f.socket)
	if err != nil {
		fmt.Fprintf(os.Stderr, "Error creating API server: %v\n", err)
		os.Exit(1)
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-term
		os.Exit(0)
	}()
	go f.run()
	fmt.Fprintln(os.Stderr, http.Serve(l, http.HandlerFunc(f.serve)))
	os.Exit(1)
}

type fake struct {
	vendor, socket string
	calls          map[string]call
	events         *os.File

	mu      sync.Mutex
	made    bool     // there is a machine
	machine machine  // that one
	started chan int // has the tick from which a guest goes on, 0: it boots
	ticks   int      // that the guest has said
	taps    []*os.File
	drives  []*os.File
	state   string
	button  chan struct{}
}

// machine is what a guest sees, and what its snapshot is of.
type machine struct {
	Cmdline   string
	MemoryMib int
	Files     []string // that must be there
	Drives    []drive
	Taps      map[string]string // by id
	Kernel    string
	Initramfs string
	// It has a balloon, which tells, or not, that it holds so much.
	Balloon, Statistics bool
	TakenMib            int
}

type drive struct {
	Path     string `json:"path"`
	Serial   string `json:"serial"`
	ReadOnly bool   `json:"readonly"`
}

// violate ends everything: what was said is said by nobody who knows the vendor.
func (f *fake) violate(format string, args ...any) {
	fmt.Printf("fakevmm: VIOLATION: "+format+"\n", args...)
	os.Exit(CodeViolation)
}

var known = map[string][]string{
	CloudHypervisor: {"api-socket", "event-monitor", "log-file", "seccomp", "cpus", "memory", "serial", "console", "pvpanic", "kernel", "cmdline", "initramfs", "disk", "net", "fs", "balloon"},
	Firecracker:     {"id", "api-sock", "config-file", "log-path", "level", "start-time-us", "start-time-cpu-us", "parent-cpu-time-us"},
}

// options reads a command line: each option once, and of the known ones.
func (f *fake) options(args []string) map[string][]string {
	all := map[string][]string{}
	name := ""
	for _, a := range args {
		if n, is := strings.CutPrefix(a, "--"); is {
			if _, twice := all[n]; twice {
				f.violate("--%s is given twice", n)
			}
			ok := false
			for _, k := range known[f.vendor] {
				ok = ok || k == n
			}
			if !ok {
				f.violate("--%s is no option that we use", n)
			}
			name, all[n] = n, []string{}
			continue
		}
		if name == "" {
			f.violate("%q stands before any option", a)
		}
		all[name] = append(all[name], a)
	}
	return all
}

func (f *fake) one(options map[string][]string, name string) string {
	if len(options[name]) != 1 {
		f.violate("--%s has %d values", name, len(options[name]))
	}
	return options[name][0]
}

var identifier = regexp.MustCompile(`\A[A-Za-z0-9-]{1,64}\z`)

// configured takes Firecracker's file.
func (f *fake) configured(options map[string][]string) {
	if id := f.one(options, "id"); !identifier.MatchString(id) {
		f.violate("--id %s", id)
	}
	f.jailed(options)
	f.socket = f.one(options, "api-sock")
	if _, there := options["config-file"]; !there {
		return // it waits for a snapshot
	}
	fail := func(err error) {
		log, _ := os.OpenFile(f.one(options, "log-path"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		fmt.Fprintf(log, "Configuration for VMM from one single json failed: %v\n", err)
		os.Exit(152)
	}
	b, err := os.ReadFile(f.one(options, "config-file"))
	if err != nil {
		fail(err)
	}
	if err := f.calls["config-file"].check(b); err != nil {
		f.violate("the configuration file: %v", err)
	}
	var c struct {
		Boot struct {
			Kernel string `json:"kernel_image_path"`
			Initrd string `json:"initrd_path"`
			Args   string `json:"boot_args"`
		} `json:"boot-source"`
		Machine struct {
			Vcpus  int `json:"vcpu_count"`
			Memory int `json:"mem_size_mib"`
		} `json:"machine-config"`
		Drives []struct {
			ID       string `json:"drive_id"`
			Path     string `json:"path_on_host"`
			ReadOnly bool   `json:"is_read_only"`
		} `json:"drives"`
		Nics []struct {
			ID  string `json:"iface_id"`
			Tap string `json:"host_dev_name"`
			Mac string `json:"guest_mac"`
		} `json:"network-interfaces"`
		Balloon *struct {
			Statistics int `json:"stats_polling_interval_s"`
		} `json:"balloon"`
	}
	if err := json.Unmarshal(b, &c); err != nil {
		fail(err)
	}
	if c.Machine.Vcpus < 1 || c.Machine.Vcpus > 32 || c.Machine.Memory < 1 {
		fail(fmt.Errorf("machine %+v", c.Machine))
	}
	m := machine{Cmdline: c.Boot.Args, MemoryMib: c.Machine.Memory, Taps: map[string]string{}, Balloon: c.Balloon != nil}
	m.Statistics = m.Balloon && c.Balloon.Statistics > 0
	for _, d := range c.Drives {
		if regexp.MustCompile(`[^A-Za-z0-9_]`).MatchString(d.ID) {
			f.violate("drive_id %q", d.ID)
		}
		m.Drives = append(m.Drives, drive{Path: d.Path, ReadOnly: d.ReadOnly})
	}
	for _, n := range c.Nics {
		if !regexp.MustCompile(`\A[A-Za-z0-9_]+\z`).MatchString(n.ID) || !hardware.MatchString(n.Mac) {
			f.violate("network interface %+v", n)
		}
		m.Taps[n.ID] = n.Tap
	}
	if err := elf(c.Boot.Kernel); err != nil {
		fail(err)
	}
	if c.Boot.Initrd != "" {
		if _, err := os.Stat(c.Boot.Initrd); err != nil {
			fail(err)
		}
	}
	if !strings.Contains(" "+m.Cmdline+" ", " reboot=k ") {
		f.violate("without reboot=k no guest of Firecracker ends it")
	}
	if err := f.make(m); err != nil {
		fail(err)
	}
}

// make makes the machine, with all that it has of its host.
func (f *fake) make(m machine) error {
	for _, path := range m.Files {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("open a file: %w", err)
		}
	}
	for _, d := range m.Drives {
		how := os.O_RDWR
		if d.ReadOnly {
			how = os.O_RDONLY
		}
		file, err := os.OpenFile(d.Path, how, 0)
		if err != nil {
			return fmt.Errorf("open a drive: %w", err)
		}
		f.drives = append(f.drives, file)
	}
	for _, tap := range m.Taps {
		if err := f.open(tap); err != nil {
			return err
		}
	}
	f.machine, f.made = m, true
	return nil
}

// commanded takes cloud-hypervisor's command line.
func (f *fake) commanded(options map[string][]string) {
	path := func(name string) string {
		p, ok := strings.CutPrefix(f.one(options, name), "path=")
		if !ok {
			f.violate("--%s has no path", name)
		}
		return p
	}
	exact := func(name, pattern string) {
		if v := f.one(options, name); !regexp.MustCompile(`\A(?:` + pattern + `)\z`).MatchString(v) {
			f.violate("--%s %q", name, v)
		}
	}
	f.socket = path("api-socket")
	exact("seccomp", "true")
	if _, there := options["kernel"]; !there {
		for _, name := range []string{"cpus", "memory", "serial", "console", "pvpanic", "cmdline", "initramfs", "disk", "net", "fs", "balloon"} {
			if _, there := options[name]; there {
				f.violate("--%s is given, and no kernel", name)
			}
		}
		f.monitored(path("event-monitor"), nil)
		return // it waits for a snapshot
	}
	exact("cpus", `boot=[1-9][0-9]*`)
	shared := ""
	if len(options["fs"]) > 0 {
		shared = ",shared=on" // or the server of the folder sees nothing
	}
	exact("memory", `size=[1-9][0-9]*M`+shared)
	for _, s := range options["fs"] {
		if !regexp.MustCompile(`\Atag=[A-Za-z0-9_-]{1,36},socket=([^,"]+|"[^"]+"),num_queues=1,queue_size=1024\z`).MatchString(s) {
			f.violate("--fs %q", s)
		}
	}
	balloon := len(options["balloon"]) > 0
	if balloon {
		exact("balloon", `size=0,deflate_on_oom=on`)
	}
	exact("serial", "tty")
	exact("console", "off")
	if v, there := options["pvpanic"]; !there || len(v) != 0 {
		f.violate("--pvpanic %v", v)
	}
	m := machine{Cmdline: f.one(options, "cmdline"), Kernel: f.one(options, "kernel"), Taps: map[string]string{}, Balloon: balloon}
	fmt.Sscanf(f.one(options, "memory"), "size=%dM", &m.MemoryMib)
	if i := options["initramfs"]; len(i) > 0 {
		m.Initramfs = i[0]
		m.Files = append(m.Files, i...)
	}
	for _, d := range options["disk"] {
		w := regexp.MustCompile(`\Apath=([^,"]+|"[^"]+"),image_type=(?:raw|qcow2),serial=([a-z0-9-]{1,20})(,readonly=on)?(?:,bw_size=\d+,bw_refill_time=\d+)?(?:,ops_size=\d+,ops_refill_time=\d+)?\z`).FindStringSubmatch(d)
		if w == nil {
			f.violate("--disk %q", d)
		}
		m.Drives = append(m.Drives, drive{strings.Trim(w[1], `"`), w[2], w[3] != ""})
	}
	for i, n := range options["net"] {
		w := regexp.MustCompile(`\Atap=([A-Za-z0-9]{1,15}),mac=(.*)\z`).FindStringSubmatch(n)
		if w == nil || !hardware.MatchString(w[2]) {
			f.violate("--net %q", n)
		}
		m.Taps[fmt.Sprintf("_net%d", i)] = w[1]
	}
	err := elf(m.Kernel)
	if err == nil {
		err = f.make(m)
	}
	f.monitored(path("event-monitor"), err)
}

// monitored opens the event monitor's file, unless something has failed before.
func (f *fake) monitored(path string, err error) {
	if err == nil {
		f.events, err = os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "Error booting VM: %v\n", err)
		os.Exit(1)
	}
}

var hardware = regexp.MustCompile(`\A[0-9a-f]{2}(:[0-9a-f]{2}){5}\z`)

// open holds a tap open, which must be there: that it would be made does not
// follow from what the vendors say.
func (f *fake) open(tap string) error {
	if _, err := net.InterfaceByName(tap); err != nil {
		return fmt.Errorf("open tap device %s: %w", tap, err)
	}
	file, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	r, err := unix.NewIfreq(tap)
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(int(file.Fd()), unix.TUNSETIFF, r); err != nil {
		return fmt.Errorf("open tap device %s: %w", tap, err)
	}
	f.taps = append(f.taps, file)
	return nil
}

func elf(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	head := make([]byte, 4)
	if _, err := io.ReadFull(file, head); err != nil || string(head) != "\x7fELF" {
		return fmt.Errorf("kernel %s: Invalid Elf magic number", path)
	}
	return nil
}

// told writes an event as the event monitor does: indented, and a blank line.
func (f *fake) told(source, event string) {
	if f.events == nil {
		return
	}
	b, _ := json.MarshalIndent(map[string]any{
		"timestamp": map[string]int{"secs": 1, "nanos": 2}, "source": source, "event": event, "properties": nil,
	}, "", "  ")
	f.events.Write(append(b, "\n\n"...))
}

// word is a fake.NAME=N of the command line.
func (f *fake) word(name string) (int, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.machine.word(name)
}

func (m machine) word(name string) (int, bool) {
	for _, w := range strings.Fields(m.Cmdline) {
		if v, ok := strings.CutPrefix(w, "fake."+name+"="); ok {
			n, _ := strconv.Atoi(v)
			return n, true
		}
	}
	return 0, false
}

// run is the guest's life, and that of those after it where it resets itself.
func (f *fake) run() {
	ticks := <-f.started
	if ticks == 0 {
		if code, early := f.word("early"); early {
			fmt.Fprintln(os.Stderr, "fake: it ends before its guest is up")
			os.Exit(code)
		}
		time.Sleep(100 * time.Millisecond)
	}
	for ; ; ticks = 0 {
		f.mu.Lock()
		f.button, f.ticks = make(chan struct{}, 1), ticks
		if ticks == 0 {
			f.state = "Running"
		}
		p, err := boot.Parse(f.machine.Cmdline)
		f.mu.Unlock()
		if err != nil {
			fmt.Printf("blixard-guest: %v\n", err)
		}
		if ticks == 0 {
			f.told("vm", "booted")
		}
		if ticks > 0 || f.boots(p) {
			f.live(p)
		}
		if f.vendor == Firecracker {
			f.told("vm", "shutdown")
			os.Exit(0) // by a reset, the only end that it knows
		}
		f.told("vm", "rebooting")
		f.told("vm", "rebooted")
	}
}

// boots is how our guest comes up, and says whether it stays. It returns when the guest
// resets its machine.
func (f *fake) boots(p boot.Params) bool {
	time.Sleep(50 * time.Millisecond)
	for _, n := range p.Nets.List() {
		fmt.Printf("blixard-guest: net %s %s\n", n.Device, n.Addr)
	}
	fmt.Printf("blixard-guest: up name=%s uid=%s attempt=%d\n", p.Name, p.UID, p.Attempt)
	if code, ends := f.word("exit"); ends {
		time.Sleep(300 * time.Millisecond)
		os.Exit(code)
	}
	switch p.Behave.Kind {
	case boot.Exit:
		f.off()
		return false
	case boot.Panic:
		fmt.Println("Kernel panic - not syncing: as it was told")
		f.told("guest", "panic")
		return false
	case boot.Reboot:
		return false
	}
	return true
}

// live is what it does then: it counts, as long as it is not paused, until it is told
// to shut down.
func (f *fake) live(p boot.Params) {
	button := "power button"
	if f.vendor == Firecracker {
		button = "ctrl-alt-del"
	}
	for {
		select {
		case <-f.button:
			if p.Behave.Kind == boot.Deaf {
				fmt.Printf("blixard-guest: %s, ignored\n", button)
				continue
			}
			fmt.Printf("blixard-guest: %s, shutting down\n", button)
			f.off()
			return
		case <-time.After(p.Tick):
		}
		f.mu.Lock()
		if f.state == "Running" {
			f.ticks++
			fmt.Printf("tick %d \n", f.ticks)
		}
		f.mu.Unlock()
	}
}

// off is the guest's power off: for Firecracker our guest makes a reset of it.
func (f *fake) off() {
	if f.vendor == CloudHypervisor {
		f.told("vm", "shutdown")
		os.Exit(0)
	}
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	name := r.Method + " " + r.URL.Path
	c, ok := f.calls[name]
	if !ok {
		f.violate("%s: %v", name, errUnknown)
	}
	if err := c.check(body); err != nil {
		f.violate("%s: %v", name, err)
	}
	if _, mute := f.word("mute"); mute {
		select {}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	refused := ""
	switch name {
	case "GET /":
		json.NewEncoder(w).Encode(map[string]string{"app_name": "Firecracker", "id": "vm", "state": f.state, "vmm_version": "1.16.1"})
		return
	case "GET /api/v1/vm.info":
		if !f.made {
			refused = "The VM is not created"
			break
		}
		json.NewEncoder(w).Encode(map[string]any{"config": map[string]any{"payload": map[string]any{}}, "state": f.state, "memory_actual_size": (f.machine.MemoryMib - f.machine.TakenMib) << 20})
		return
	case "PATCH /balloon":
		refused = f.inflate(body)
	case "PUT /api/v1/vm.resize":
		refused = f.inflate(body)
	case "GET /balloon/statistics":
		if taken := f.machine.TakenMib; f.machine.Statistics {
			json.NewEncoder(w).Encode(map[string]int{"target_pages": taken << 8, "actual_pages": taken << 8, "target_mib": taken, "actual_mib": taken})
			return
		}
		refused = "Statistics for the balloon device are not enabled."
	case "PATCH /vm":
		refused = f.move(map[bool]string{true: "Paused", false: "Running"}[strings.Contains(string(body), "Paused")])
	case "PUT /api/v1/vm.pause":
		refused = f.move("Paused")
	case "PUT /api/v1/vm.resume":
		refused = f.move("Running")
	case "PUT /actions", "PUT /api/v1/vm.power-button":
		select {
		case f.button <- struct{}{}:
		default:
		}
	case "GET /api/v1/vm.counters":
		// One whose guest has written as many blocks as it has ticks.
		all := map[string]map[string]uint64{"_net0": {"tx_bytes": 1}}
		for i := range f.machine.Drives {
			all[fmt.Sprintf("_disk%d", i)] = map[string]uint64{
				"read_bytes": 512, "write_bytes": 512 * uint64(f.ticks), "read_ops": 1, "write_ops": uint64(f.ticks),
				"write_latency_min": math.MaxUint64, // until there was one, of some releases
			}
		}
		json.NewEncoder(w).Encode(all)
		return
	case "PUT /snapshot/create", "PUT /api/v1/vm.snapshot":
		refused = f.save(body)
	case "PUT /snapshot/load", "PUT /api/v1/vm.restore":
		if refused = f.load(body); refused != "" && f.vendor == Firecracker && f.state == "Not started" {
			defer f.ends(1) // it may be in any state
		}
	case "PUT /api/v1/vmm.shutdown":
		defer f.ends(0)
	}
	switch {
	case refused == "":
		w.WriteHeader(http.StatusNoContent)
	case f.vendor == Firecracker:
		w.WriteHeader(http.StatusBadRequest)
		json.NewEncoder(w).Encode(map[string]string{"fault_message": refused})
	default:
		w.WriteHeader(http.StatusInternalServerError)
		json.NewEncoder(w).Encode([]string{"Error from API", refused})
	}
}

// ends has it end when it has answered.
func (f *fake) ends(code int) {
	time.AfterFunc(20*time.Millisecond, func() { os.Exit(code) })
}

// inflate has the guest's driver do at once what it is asked. With fake.greedy=1 it
// has none.
func (f *fake) inflate(body []byte) string {
	var to struct {
		MiB   int `json:"amount_mib"`
		Bytes int `json:"desired_balloon"`
	}
	_ = json.Unmarshal(body, &to) // it was checked
	to.MiB += to.Bytes >> 20
	switch _, greedy := f.machine.word("greedy"); {
	case !f.machine.Balloon:
		return "There is no balloon device"
	case to.MiB >= f.machine.MemoryMib:
		return "The balloon is larger than the guest"
	case !greedy:
		f.machine.TakenMib = to.MiB
	}
	return ""
}

// move changes the guest's state, or says why not.
func (f *fake) move(to string) string {
	from := map[string]string{"Paused": "Running", "Running": "Paused"}[to]
	if f.state != from {
		return fmt.Sprintf("InvalidStateTransition(%s, %s)", f.state, to)
	}
	f.state = to
	return ""
}
