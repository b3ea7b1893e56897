package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/rpc"
)

// UpCmd brings up a development cluster: a few serve processes of this very
// program, each with private directories, on loopback.
type UpCmd struct {
	Nodes     int           `default:"3" help:"How many nodes."`
	Dir       string        `placeholder:"DIR" help:"Where everything is kept (a temporary folder). One that was kept is brought up again."`
	Keep      bool          `help:"Leave the folder there at the end."`
	Lease     time.Duration `placeholder:"15s" help:"The lease; shorter: lost VMs come back sooner (3s is the least of use)."`
	AllowPath []string      `placeholder:"DIR" help:"A folder of this machine in which VMs' shares may be (none): vm create --share. May be repeated."`
	ServeFlag []string      `name:"serve-flag" sep:"none" hidden:"" help:"Given to every serve as it is."`
}

// upState is DIR/up.json: what a script needs to know of the cluster.
type upState struct {
	Lease string   `json:"lease,omitempty"`
	Keep  bool     `json:"keep,omitempty"`
	Nodes []upNode `json:"nodes"`
}

type upNode struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	PID     int    `json:"pid"`
	Data    string `json:"data"`
	Run     string `json:"run"`
	Log     string `json:"log"`

	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended
	said  bool          // and the user was told
}

type upCluster struct {
	*UpCmd
	g     *Globals
	t     *terminal
	dir   string
	made  bool // DIR was not there before
	ours  bool // and now we hold it
	lock  *os.File
	state upState
}

func (c *UpCmd) Run(g *Globals, t *terminal, ctx *runContext) (err error) {
	if c.Nodes < 1 || c.Nodes > 32 {
		return usagef("--nodes %d: want 1 to 32", c.Nodes)
	}
	for i, p := range c.AllowPath {
		var err error
		if c.AllowPath[i], err = filepath.Abs(p); err != nil {
			return err
		}
	}
	if c.Lease != 0 && (c.Lease < time.Second || c.Lease > time.Hour) {
		return usagef("--lease %s: want 1s to 1h", c.Lease)
	}
	runtime.LockOSThread() // the nodes die with the thread that starts them
	u := &upCluster{UpCmd: c, g: g, t: t}
	defer func() { err = errors.Join(err, u.down()) }()
	if err := u.prepare(); err != nil {
		return err
	}
	if err := u.start(ctx); err != nil {
		return u.withLogs(err)
	}
	for ctx.Err() == nil {
		u.watch(ctx)
	}
	return nil
}

// prepare makes the folders, or takes up those that were kept.
func (u *upCluster) prepare() (err error) {
	if u.Dir == "" {
		u.dir, err = os.MkdirTemp("", upPrefix)
	} else if u.dir, err = filepath.Abs(u.Dir); err == nil {
		err = u.enterable()
	}
	if err == nil {
		err = u.hold()
	}
	if err != nil {
		return err
	}
	u.Keep = u.Keep || u.Dir != "" && exists(u.file())
	u.ours = true
	u.sweepLeft()
	u.state.Keep = u.Keep || u.Dir != ""
	if b, err := os.ReadFile(u.file()); err == nil {
		if err := json.Unmarshal(b, &u.state); err != nil {
			return fmt.Errorf("%s: %w; remove the folder, or name another with --dir", u.file(), err)
		}
		return nil
	}
	for i := range u.Nodes {
		name := "n" + strconv.Itoa(i+1)
		address, err := freeAddress()
		if err != nil {
			return err
		}
		run, err := os.MkdirTemp(runBase(), runPrefix)
		if err != nil {
			return err
		}
		dir := filepath.Join(u.dir, name)
		u.state.Nodes = append(u.state.Nodes, upNode{Name: name, Address: address,
			Data: filepath.Join(dir, "data"), Run: run, Log: filepath.Join(dir, "log")})
	}
	return nil
}

// enterable makes the folder that was named, or sees to it that nothing but a
// cluster of blixard up is in it: at the end it may be emptied.
func (u *upCluster) enterable() error {
	entries, err := os.ReadDir(u.dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		u.made = true
		return os.MkdirAll(u.dir, 0o700)
	case err != nil:
		return &failure{code: exitUsage, what: "cannot use --dir " + u.Dir, why: err.Error(), next: "name a folder that is empty, or not yet there"}
	case len(entries) > 0 && !exists(u.file()) && !exists(filepath.Join(u.dir, upLock)):
		return &failure{code: exitUsage, what: "cannot use --dir " + u.Dir,
			why: fmt.Sprintf("it holds other things, such as %s, and no cluster of blixard up", entries[0].Name()), next: "name a folder that is empty, or not yet there"}
	}
	return nil
}

// clear removes what we put into the folder, and the folder if we made it and
// nobody else has put something there.
func (u *upCluster) clear() error {
	var errs []error
	for _, n := range u.state.Nodes {
		errs = append(errs, os.RemoveAll(filepath.Join(u.dir, n.Name)))
	}
	for _, name := range []string{upFile, upLock} {
		if err := os.Remove(filepath.Join(u.dir, name)); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if u.made || u.Dir == "" {
		if err := os.Remove(u.dir); !errors.Is(err, unix.ENOTEMPTY) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Names that the next blixard up knows again.
const (
	upPrefix  = "blixard-up-"
	upFile    = "up.json"
	runPrefix = "bx-"
)

func (u *upCluster) file() string { return filepath.Join(u.dir, upFile) }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// runBase is where run directories are made: in memory, with a short path.
func runBase() string {
	if unix.Access("/dev/shm", unix.W_OK) == nil {
		return "/dev/shm"
	}
	return "/tmp"
}

func (u *upCluster) start(ctx context.Context) error {
	share := u.share()
	for i := range u.state.Nodes {
		if err := u.spawn(&u.state.Nodes[i], share); err != nil {
			return err
		}
	}
	b, _ := json.MarshalIndent(u.state, "", "  ")
	if err := os.WriteFile(u.file(), append(b, '\n'), 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, u.g.timeout())
	defer cancel()
	p := u.t.progress()
	defer p.done()
	for i := range u.state.Nodes {
		p.say("starting %s", u.state.Nodes[i].Name)
		if err := u.enter(ctx, i); err != nil {
			return err
		}
	}
	p.say("waiting until every node is ready")
	nodes, err := u.ready(ctx)
	if err != nil {
		return err
	}
	p.done()
	return u.introduce(nodes)
}

// share is what each node offers: the machine, divided.
func (u *upCluster) share() []string {
	n := uint64(len(u.state.Nodes))
	vcpus := (uint64(runtime.NumCPU()) + n - 1) / n
	args := []string{"--vcpus", fmt.Sprint(vcpus)}
	var memory unix.Sysinfo_t
	if unix.Sysinfo(&memory) == nil {
		total := memory.Totalram * uint64(memory.Unit) >> 20
		args = append(args, "--memory", fmt.Sprint(max(256, total*8/10/n)))
	}
	var fs unix.Statfs_t
	if unix.Statfs(u.dir, &fs) == nil {
		args = append(args, "--disk", fmt.Sprint(max(256, fs.Bavail*uint64(fs.Bsize)>>20*8/10/n)))
	}
	return args
}

func (u *upCluster) spawn(n *upNode, share []string) error {
	for _, d := range []string{n.Data, n.Run} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	log, err := os.OpenFile(n.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := append([]string{"serve", "--name", n.Name, "--data-dir", n.Data, "--run-dir", n.Run, "--listen", n.Address}, share...)
	for _, p := range u.AllowPath {
		args = append(args, "--allow-path", p)
	}
	n.cmd = exec.Command(self, append(args, u.ServeFlag...)...)
	n.cmd.Env = slices.DeleteFunc(os.Environ(), func(e string) bool {
		// What is meant for us or for another serve must not reach these.
		return strings.HasPrefix(e, "BLIXARD_") && !strings.HasPrefix(e, "BLIXARD_LOG_") &&
			!strings.HasPrefix(e, "BLIXARD_SHIM=") && !strings.HasPrefix(e, "BLIXARD_NIX") && !strings.HasPrefix(e, "BLIXARD_TLS_") || strings.HasPrefix(e, "NOTIFY_SOCKET=")
	})
	n.cmd.Stdout, n.cmd.Stderr = log, log
	// A Ctrl-C is for us; and if we are killed, they are told to stop.
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := n.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", n.Name, err)
	}
	n.PID, n.ended = n.cmd.Process.Pid, make(chan struct{})
	go func() { n.cmd.Wait(); close(n.ended) }()
	return nil
}

// enter waits for a node and brings it into the cluster, unless it is in one.
func (u *upCluster) enter(ctx context.Context, i int) error {
	n := &u.state.Nodes[i]
	tls, err := rpc.LoadTLS(u.g.TLSCert, u.g.TLSKey, u.g.TLSCA)
	if err != nil {
		return err
	}
	c := rpc.Dial([]string{n.Address}, tls)
	defer c.Close()
	status, err := u.answer(ctx, c, n)
	if err != nil || status.GetClusterId() != "" {
		return err
	}
	if i == 0 {
		// Vcpus are shared on one machine, whatever they are accounted as.
		s := &blixardv1.Settings{VcpuOvercommitMilli: 4000, LeaseMs: uint32(u.Lease.Milliseconds()), RenewMs: uint32(u.Lease.Milliseconds() / 5)}
		_, err = c.Cluster.Init(ctx, connect.NewRequest(&blixardv1.InitRequest{Settings: s}))
		if err != nil {
			return fmt.Errorf("init %s: %w", n.Name, err)
		}
		return nil
	}
	_, err = c.Cluster.Join(ctx, connect.NewRequest(&blixardv1.JoinRequest{Server: u.state.Nodes[0].Address}))
	if err != nil {
		return fmt.Errorf("join %s: %w", n.Name, err)
	}
	return nil
}

func (u *upCluster) answer(ctx context.Context, c *rpc.Client, n *upNode) (*blixardv1.StatusResponse, error) {
	for {
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		r, err := c.Cluster.Status(try, connect.NewRequest(&blixardv1.StatusRequest{}))
		cancel()
		if err == nil {
			return r.Msg, nil
		}
		select {
		case <-n.ended:
			return nil, fmt.Errorf("node %s ended: %s", n.Name, n.cmd.ProcessState)
		case <-ctx.Done():
			return nil, fmt.Errorf("node %s does not answer: %w", n.Name, err)
		case <-time.After(30 * time.Millisecond):
		}
	}
}

// ready waits until every node is a voter and a host with a lease.
func (u *upCluster) ready(ctx context.Context) ([]*blixardv1.Node, error) {
	tls, err := rpc.LoadTLS(u.g.TLSCert, u.g.TLSKey, u.g.TLSCA)
	if err != nil {
		return nil, err
	}
	c := rpc.Dial(u.addresses(), tls)
	defer c.Close()
	for {
		r, err := c.Node.List(ctx, connect.NewRequest(&blixardv1.NodeServiceListRequest{}))
		waits := "no answer"
		if err == nil {
			waits = ""
			for _, n := range r.Msg.GetNodes() {
				if n.GetServer() != blixardv1.ServerState_SERVER_STATE_VOTER || nodeStatus(n) != "Ready" {
					waits = fmt.Sprintf("%s is %s, server: %s", n.GetName(), nodeStatus(n), serverText(n))
				}
			}
			if waits == "" && len(r.Msg.GetNodes()) >= len(u.state.Nodes) {
				return r.Msg.GetNodes(), nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, &failure{code: exitTimeout, what: "the cluster did not come up within " + u.g.timeout().String(), why: waits}
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (u *upCluster) addresses() []string {
	var a []string
	for _, n := range u.state.Nodes {
		a = append(a, n.Address)
	}
	return a
}

func (u *upCluster) introduce(nodes []*blixardv1.Node) error {
	t := table{head: []string{"NODE", "ADDRESS", "PID", "VCPUS", "MEMORY", "HYPERVISORS"}}
	for _, n := range u.state.Nodes {
		for _, m := range nodes {
			if m.GetName() == n.Name {
				f := m.GetHost().GetFacts()
				t.rows = append(t.rows, []string{n.Name, n.Address, fmt.Sprint(n.PID),
					fmt.Sprint(f.GetCapacity().GetVcpus()), mib(f.GetCapacity().GetMemoryMib()), factsText(f)})
			}
		}
	}
	if err := t.print(u.t.out, false); err != nil {
		return err
	}
	fmt.Fprintf(u.t.out, `
Talk to it from another terminal:
  export BLIXARD_SERVER=%s
  blixard vm create hello --process -- /bin/sh -c 'while :; do date; sleep 1; done'
  blixard vm logs -f hello
Logs and data: %s%s
Ctrl-C ends everything, VMs included.
`, strings.Join(u.addresses(), ","), u.dir, map[bool]string{false: ", removed at the end (--keep leaves them)"}[u.Keep])
	return nil
}

// watch says when a node ends by itself, once for each.
func (u *upCluster) watch(ctx context.Context) {
	for i := range u.state.Nodes {
		n := &u.state.Nodes[i]
		if n.said {
			continue
		}
		select {
		case <-n.ended:
			n.said = true
			fmt.Fprintf(u.t.err, "node %s ended: %s (log: %s)\n", n.Name, n.cmd.ProcessState, n.Log)
		default:
		}
	}
	select {
	case <-ctx.Done():
	case <-time.After(200 * time.Millisecond):
	}
}

// down ends the nodes, then their VMs, and removes the folders.
func (u *upCluster) down() error {
	for _, n := range u.state.Nodes {
		if n.cmd != nil && n.cmd.Process != nil {
			n.cmd.Process.Signal(syscall.SIGTERM)
		}
	}
	deadline := time.After(15 * time.Second)
	for _, n := range u.state.Nodes {
		if n.ended == nil {
			continue
		}
		select {
		case <-n.ended:
		case <-deadline:
			n.cmd.Process.Kill()
			<-n.ended
		}
	}
	var errs []error
	for _, n := range u.state.Nodes {
		_, err := n.sweep()
		errs = append(errs, err)
	}
	if u.ours && !u.Keep {
		errs = append(errs, u.clear())
	}
	return errors.Join(errs...)
}

// withLogs adds the end of every node's log to an error.
func (u *upCluster) withLogs(err error) error {
	for _, n := range u.state.Nodes {
		fmt.Fprintf(u.t.err, "--- the end of %s\n%s\n", n.Log, tail(n.Log, 2000))
	}
	return err
}

func tail(path string, most int64) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if end, err := f.Seek(0, io.SeekEnd); err == nil {
		f.Seek(max(0, end-most), io.SeekStart)
	}
	b, _ := io.ReadAll(io.LimitReader(f, most))
	return strings.TrimSpace(string(b))
}
