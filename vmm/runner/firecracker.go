package runner

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/vmdir"
	"github.com/blixard/blixard/vmm/shim"
)

// firecracker boots images with Firecracker. All of a VM is in its configuration
// file, so that nothing is left half done when the daemon dies between two
// requests; the API socket is for what comes later.
//
// A guest of it ends its process by a reset only (reboot=k): powered off, it
// would stand still for ever. So a reset is an end as good as any, and its power
// button is Ctrl-Alt-Del.
type firecracker struct {
	images
	program string
	jailer  *jailer // nil: it runs without
}

const configFile = "config.json"

// firecrackerConfig is the part of Firecracker's configuration file that we
// write. Drives must be there, also when there are none.
type firecrackerConfig struct {
	Boot    firecrackerBoot    `json:"boot-source"`
	Machine firecrackerMachine `json:"machine-config"`
	Drives  []firecrackerDrive `json:"drives"`
	Nics    []firecrackerNic   `json:"network-interfaces,omitempty"`
	Balloon firecrackerBalloon `json:"balloon"`
}

// firecrackerBalloon holds nothing at first. Its statistics are the only word of what
// it holds.
type firecrackerBalloon struct {
	MiB          uint64 `json:"amount_mib"`
	DeflateOnOOM bool   `json:"deflate_on_oom"`
	Statistics   int    `json:"stats_polling_interval_s"`
}

type firecrackerNic struct {
	ID  string `json:"iface_id"`
	Tap string `json:"host_dev_name"`
	Mac string `json:"guest_mac"`
}

type firecrackerBoot struct {
	Kernel string `json:"kernel_image_path"`
	Initrd string `json:"initrd_path,omitempty"`
	Args   string `json:"boot_args"`
}

type firecrackerMachine struct {
	Vcpus     uint32 `json:"vcpu_count"`
	MemoryMib uint64 `json:"mem_size_mib"`
}

type firecrackerDrive struct {
	ID       string `json:"drive_id"`
	Path     string `json:"path_on_host"`
	Root     bool   `json:"is_root_device"`
	ReadOnly bool   `json:"is_read_only"`

	Limiter *firecrackerLimiter `json:"rate_limiter,omitempty"`
}

// firecrackerLimiter has a bucket of tokens for bytes, and one for operations.
type firecrackerLimiter struct {
	Bandwidth *firecrackerBucket `json:"bandwidth,omitempty"`
	Ops       *firecrackerBucket `json:"ops,omitempty"`
}

type firecrackerBucket struct {
	Size   uint64 `json:"size"`
	Refill uint64 `json:"refill_time"` // ms
}

func (d disk) limiter() *firecrackerLimiter {
	if d.rate == 0 && d.ops == 0 {
		return nil
	}
	l := new(firecrackerLimiter)
	if d.rate > 0 {
		l.Bandwidth = &firecrackerBucket{d.rate, refillMs}
	}
	if d.ops > 0 {
		l.Ops = &firecrackerBucket{d.ops, refillMs}
	}
	return l
}

func (d *firecracker) prepare(ctx context.Context, p place, a *blixardv1.Assignment, i shim.Instance) (command, error) {
	b, err := d.elfFiles(ctx, p, a, i)
	if err != nil {
		return command{}, err
	}
	j := d.jail(p)
	if j != nil {
		b = j.of(b)
	}
	c, err := d.config(b)
	if err != nil {
		return command{}, err
	}
	return d.command(b, j, configFile, c, "--config-file")
}

// jail is a VM's, nil for none.
func (d *firecracker) jail(p place) *jail {
	if d.jailer == nil || p.user == nil {
		return nil
	}
	return &jail{place: p}
}

// command writes down what it is to be told, and says how to start it. It is started
// in the VM's own directory, so that a snapshot, which has the paths of its disks in
// it for good, names them as every VM does. The option is followed by the file's path.
func (d *firecracker) command(b boot, j *jail, file string, told any, option ...string) (command, error) {
	p := b.place
	if err := clean(p.run, apiSocket, vmmLog); err != nil {
		return command{}, err
	}
	if err := vmdir.WriteJSON(p.run, file, told); err != nil {
		return command{}, err
	}
	in := func(name string) string { return filepath.Join(p.run, name) }
	// Its serial console is its standard output, which is the VM's console log.
	c := command{env: []string{"PATH=/usr/bin:/bin"}, dir: p.state, output: p.console, balloon: b.balloon()}
	if j == nil {
		words := []string{d.program, "--id", jailedVM, "--api-sock", p.socket(apiSocket), "--log-path", in(vmmLog), "--level", "Warning"}
		for _, o := range option {
			words = append(words, o, in(file))
		}
		c.argv = words
		return c, nil
	}
	j.show(in(hypervisorDir), "run", false)
	j.show(filepath.Join(p.state, savedFolder), savedFolder, false)
	words := []string{"--api-sock", "/run/" + apiSocket, "--log-path", j.show(in(vmmLog), vmmLog, false), "--level", "Warning"}
	for _, o := range option {
		words = append(words, o, j.show(in(file), file, true))
	}
	var err error
	c.argv, err = d.jailer.argv(j, d.program, words...)
	c.jailed, c.pidNamespace, c.steps = true, true, new(shim.Steps)
	return c, err
}

// ownPath is a disk of the VM's own, in its directory.
func (b boot) ownPath(d disk) (string, bool) {
	own, err := filepath.Rel(b.place.state, d.path)
	return own, err == nil && filepath.IsLocal(own)
}

func (d *firecracker) config(b boot) (firecrackerConfig, error) {
	args, err := b.commandLine("console=ttyS0", "quiet", "panic=-1", "reboot=k", "pci=off")
	if err != nil {
		return firecrackerConfig{}, err
	}
	c := firecrackerConfig{
		Boot:    firecrackerBoot{b.kernel, b.initrd, args},
		Machine: firecrackerMachine{b.vcpus, b.memoryMib},
		Drives:  []firecrackerDrive{},
		Balloon: firecrackerBalloon{DeflateOnOOM: true, Statistics: 1},
	}
	for _, disk := range b.disks {
		if disk.format != "raw" {
			return firecrackerConfig{}, fmt.Errorf("disk %s is %s, and Firecracker reads raw disks only", disk.name, disk.format)
		}
		path := disk.path
		if own, ok := b.ownPath(disk); ok {
			path = own
		}
		// Its ids have no '-'. The guest sees no serial: drives come in their order.
		c.Drives = append(c.Drives, firecrackerDrive{strings.ReplaceAll(disk.name, "-", "_"), path, false, disk.readOnly, disk.limiter()})
	}
	for i, n := range b.nics {
		c.Nics = append(c.Nics, firecrackerNic{nicID(i), n.tap, n.mac})
	}
	for i := range c.Drives {
		for j := range i {
			if c.Drives[i].ID == c.Drives[j].ID {
				return c, fmt.Errorf("the disks %s and %s have the same name for Firecracker, which knows no '-': rename one", b.disks[i].name, b.disks[j].name)
			}
		}
	}
	return c, nil
}

func nicID(i int) string { return fmt.Sprintf("eth%d", i) }

func (d *firecracker) follow(p place, tell func(guestState)) session {
	c := firecrackerControl{rest{filepath.Join(p.run, apiSocket)}}
	s := &restSession{
		place: p, name: "Firecracker", control: c,
		keep: c.snapshot, bring: func(ctx context.Context) error { return c.load(ctx, filepath.Join(p.run, loadFile)) },
		button: func(ctx context.Context) error {
			return c.call(ctx, http.MethodPut, "/actions", map[string]string{"action_type": "SendCtrlAltDel"}, nil)
		},
		end: func(e shim.Exit, ready bool, console string) *vmm.Exit {
			log := tail(filepath.Join(p.run, vmmLog), 3, 600)
			if what := p.jailEnd(e, log); what != "" && !ready {
				return &vmm.Exit{Code: int32(e.Code), Reason: BootFailed, Message: fmt.Sprintf("Firecracker was not started: exit code %d, %s: %s", e.Code, what, lastLines(console, 3, 600))}
			}
			return firecrackerEnd(e, ready, console, log)
		},
	}
	return s.begin(tell)
}

// firecrackerCodes are what its exit codes mean.
var firecrackerCodes = map[int]string{
	1: "an error of its own", 2: "an error of its own",
	148: "a system call that it may not make (seccomp)", 149: "SIGBUS: the memory or a file behind it is gone",
	150: "SIGSEGV", 151: "a file that grew beyond its limit (SIGXFSZ)", 152: "a bad configuration", 153: "bad arguments",
	154: "more processor time than it may have (SIGXCPU)", 155: "SIGPIPE", 156: "SIGHUP", 157: "SIGILL",
}

func firecrackerEnd(e shim.Exit, ready bool, console, log string) *vmm.Exit {
	words := strings.Trim(log+" / "+lastLines(console, 3, 600), " /")
	meaning := firecrackerCodes[e.Code]
	if meaning == "" {
		meaning = "which means nothing to us"
	}
	panicLine := lineWith(console, "Kernel panic")
	switch {
	case e.Code == 0 && panicLine != "":
		return &vmm.Exit{Code: 1, Reason: Panicked, Message: "the guest's kernel panicked: " + lastLines(panicLine, 1, 300)}
	case e.Code == 0:
		return &vmm.Exit{Reason: Exited, Message: "the guest ended"}
	case !ready || e.Code == 152 || e.Code == 153:
		return &vmm.Exit{Code: int32(e.Code), Reason: BootFailed, Message: fmt.Sprintf("Firecracker ended with exit code %d, %s: %s", e.Code, meaning, words)}
	}
	return &vmm.Exit{Code: int32(e.Code), Reason: Crashed, Message: fmt.Sprintf("Firecracker ended with exit code %d, %s: %s", e.Code, meaning, words)}
}
