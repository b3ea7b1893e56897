package fakevmm

import (
	"encoding/json"
	"fmt"
	"io"
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
	return name == CloudHypervisor || name == Firecracker
}

// Main is that one's main; it does not return.
func Main() {
	f := &fake{vendor: filepath.Base(os.Args[0]), state: "Created"}
	f.calls = calls()[f.vendor]
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Println(map[string]string{CloudHypervisor: "cloud-hypervisor v53.0", Firecracker: "Firecracker v1.16.1\n"}[f.vendor])
		os.Exit(0)
	}
	options := f.options(os.Args[1:])
	if f.vendor == Firecracker {
		f.state = "Not started"
		f.configured(options)
	} else {
		f.commanded(options)
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
	cmdline        string
	events         *os.File
	taps           []*os.File

	mu     sync.Mutex
	state  string
	button chan struct{}
}

// violate ends everything: what was said is said by nobody who knows the vendor.
func (f *fake) violate(format string, args ...any) {
	fmt.Printf("fakevmm: VIOLATION: "+format+"\n", args...)
	os.Exit(CodeViolation)
}

var known = map[string][]string{
	CloudHypervisor: {"api-socket", "event-monitor", "log-file", "seccomp", "cpus", "memory", "serial", "console", "pvpanic", "kernel", "cmdline", "initramfs", "disk", "net"},
	Firecracker:     {"id", "api-sock", "config-file", "log-path", "level"},
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
	f.socket = f.one(options, "api-sock")
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
			ID   string `json:"drive_id"`
			Path string `json:"path_on_host"`
		} `json:"drives"`
		Nics []struct {
			ID  string `json:"iface_id"`
			Tap string `json:"host_dev_name"`
			Mac string `json:"guest_mac"`
		} `json:"network-interfaces"`
	}
	if err := json.Unmarshal(b, &c); err != nil {
		fail(err)
	}
	if c.Machine.Vcpus < 1 || c.Machine.Vcpus > 32 || c.Machine.Memory < 1 {
		fail(fmt.Errorf("machine %+v", c.Machine))
	}
	files := []string{c.Boot.Initrd}
	for _, d := range c.Drives {
		if regexp.MustCompile(`[^A-Za-z0-9_]`).MatchString(d.ID) {
			f.violate("drive_id %q", d.ID)
		}
		files = append(files, d.Path)
	}
	for _, n := range c.Nics {
		if !regexp.MustCompile(`\A[A-Za-z0-9_]+\z`).MatchString(n.ID) || !hardware.MatchString(n.Mac) {
			f.violate("network interface %+v", n)
		}
		if err := f.open(n.Tap); err != nil {
			fail(err)
		}
	}
	if err := elf(c.Boot.Kernel); err != nil {
		fail(err)
	}
	for _, path := range files {
		if _, err := os.Stat(path); path != "" && err != nil {
			fail(err)
		}
	}
	f.cmdline = c.Boot.Args
	if !strings.Contains(" "+f.cmdline+" ", " reboot=k ") {
		f.violate("without reboot=k no guest of Firecracker ends it")
	}
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
	exact("cpus", `boot=[1-9][0-9]*`)
	exact("memory", `size=[1-9][0-9]*M`)
	exact("serial", "tty")
	exact("console", "off")
	if v, there := options["pvpanic"]; !there || len(v) != 0 {
		f.violate("--pvpanic %v", v)
	}
	files := options["initramfs"]
	for _, d := range options["disk"] {
		m := regexp.MustCompile(`\Apath=([^,"]+|"[^"]+"),image_type=(?:raw|qcow2),serial=[a-z0-9-]{1,20}(,readonly=on)?\z`).FindStringSubmatch(d)
		if m == nil {
			f.violate("--disk %q", d)
		}
		files = append(files, strings.Trim(m[1], `"`))
	}
	err := elf(f.one(options, "kernel"))
	for _, n := range options["net"] {
		m := regexp.MustCompile(`\Atap=([A-Za-z0-9]{1,15}),mac=(.*)\z`).FindStringSubmatch(n)
		if m == nil || !hardware.MatchString(m[2]) {
			f.violate("--net %q", n)
		}
		if openErr := f.open(m[1]); err == nil {
			err = openErr
		}
	}
	for _, p := range files {
		if _, statErr := os.Stat(p); err == nil {
			err = statErr
		}
	}
	if err == nil {
		f.events, err = os.OpenFile(path("event-monitor"), os.O_CREATE|os.O_WRONLY, 0o600)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "Error booting VM: %v\n", err)
		os.Exit(1)
	}
	f.cmdline = f.one(options, "cmdline")
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
	for _, w := range strings.Fields(f.cmdline) {
		if v, ok := strings.CutPrefix(w, "fake."+name+"="); ok {
			n, _ := strconv.Atoi(v)
			return n, true
		}
	}
	return 0, false
}

// run is the guest's life, and that of those after it where it resets itself.
func (f *fake) run() {
	if code, early := f.word("early"); early {
		fmt.Fprintln(os.Stderr, "fake: it ends before its guest is up")
		os.Exit(code)
	}
	time.Sleep(100 * time.Millisecond)
	for {
		f.mu.Lock()
		f.state, f.button = "Running", make(chan struct{}, 1)
		f.mu.Unlock()
		f.told("vm", "booted")
		f.guest()
		if f.vendor == Firecracker {
			f.told("vm", "shutdown")
			os.Exit(0) // by a reset, the only end that it knows
		}
		f.told("vm", "rebooting")
		f.told("vm", "rebooted")
	}
}

// guest is our guest. It returns when it resets its machine.
func (f *fake) guest() {
	p, err := boot.Parse(f.cmdline)
	if err != nil {
		fmt.Printf("blixard-guest: %v\n", err)
	}
	button := "power button"
	if f.vendor == Firecracker {
		button = "ctrl-alt-del"
	}
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
		return
	case boot.Panic:
		fmt.Println("Kernel panic - not syncing: as it was told")
		f.told("guest", "panic")
		return
	case boot.Reboot:
		return
	}
	for n := 1; ; n++ {
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
		for f.is() == "Paused" {
			time.Sleep(5 * time.Millisecond)
		}
		fmt.Printf("tick %d \n", n)
	}
}

// off is the guest's power off: for Firecracker our guest makes a reset of it.
func (f *fake) off() {
	if f.vendor == CloudHypervisor {
		f.told("vm", "shutdown")
		os.Exit(0)
	}
}

func (f *fake) is() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
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
		json.NewEncoder(w).Encode(map[string]any{"config": map[string]any{"payload": map[string]any{}}, "state": f.state})
		return
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
	case "PUT /api/v1/vmm.shutdown":
		defer func() {
			go func() {
				time.Sleep(20 * time.Millisecond)
				os.Exit(0)
			}()
		}()
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

// move changes the guest's state, or says why not.
func (f *fake) move(to string) string {
	from := map[string]string{"Paused": "Running", "Running": "Paused"}[to]
	if f.state != from {
		return fmt.Sprintf("InvalidStateTransition(%s, %s)", f.state, to)
	}
	f.state = to
	return ""
}
