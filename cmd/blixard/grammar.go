package main

import "time"

// CLI is everything that can be typed.
type CLI struct {
	Globals

	Serve    ServeCmd    `cmd:"" help:"Run a node of a cluster on this machine."`
	Up       UpCmd       `cmd:"" help:"Bring up a whole development cluster on this machine."`
	Cluster  ClusterCmd  `cmd:"" help:"Make, grow, shrink and look at a cluster."`
	VM       VMCmd       `cmd:"" name:"vm" help:"Create virtual machines and rule their lives."`
	Node     NodeCmd     `cmd:"" help:"Look at nodes, and say which may take new VMs."`
	Network  NetworkCmd  `cmd:"" help:"Make the networks that VMs are plugged into."`
	Volume   VolumeCmd   `cmd:"" help:"Make the disks that outlive VMs."`
	Snapshot SnapshotCmd `cmd:"" help:"Keep what a VM is at a moment, and go back to it."`
	Events   EventsCmd   `cmd:"" help:"Show what happened: who, what, when and why."`
	Modules  ModulesCmd  `cmd:"" help:"Write our NixOS and flake-parts modules into a folder (-o DIR)."`
	Image    ImageCmd    `cmd:"" help:"Bring kernels, initrds and disks to the cluster."`
	Sim      SimCmd      `cmd:"" help:"Run simulated clusters, each from one seed (executes blixard-sim)."`
	Version  VersionCmd  `cmd:"" help:"Say which version this is."`
}

// Outputs are what -o takes, wherever it names no folder.
var outputs = []string{defaultOutput, "wide", "json", "yaml", "name"}

const defaultOutput = "table"

// Globals are the flags of every command.
type Globals struct {
	Server    []string       `env:"BLIXARD_SERVER" default:"127.0.0.1:7946" placeholder:"HOST:PORT" help:"A node to ask; repeat it to name others to try."`
	TLSCert   string         `name:"tls-cert" env:"BLIXARD_TLS_CERT" placeholder:"FILE" help:"Our certificate (PEM)."`
	TLSKey    string         `name:"tls-key" env:"BLIXARD_TLS_KEY" placeholder:"FILE" help:"Its key (PEM)."`
	TLSCA     string         `name:"tls-ca" env:"BLIXARD_TLS_CA" placeholder:"FILE" help:"Who signed the nodes' certificates (PEM)."`
	Output    string         `short:"o" default:"table" help:"table, wide, json, yaml or name; of vm render and modules, the folder to write."`
	Timeout   *time.Duration `env:"BLIXARD_TIMEOUT" placeholder:"2m" help:"Give up after this long; where Nix builds, an hour is given when you say nothing."`
	RequestID string         `name:"request-id" placeholder:"UUIDv7" help:"Name this change: the same id again returns the first answer."`
	Wait      bool           `negatable:"" default:"true" help:"Wait until it is so, not only accepted."`
	Yes       bool           `short:"y" help:"Do not ask."`
}

type EventsCmd struct {
	Follow bool   `short:"f" help:"Go on as things happen."`
	VM     string `name:"vm" placeholder:"NAME" help:"Only what is about this VM."`
	Since  uint64 `placeholder:"REVISION" help:"Only what came after this revision: the number before an event. All that is kept, when not given."`
}

type ClusterCmd struct {
	Init   ClusterInitCmd   `cmd:"" help:"Make a cluster of one out of a node that is in none."`
	Join   ClusterJoinCmd   `cmd:"" help:"Make a node that is in no cluster a member of one."`
	Status ClusterStatusCmd `cmd:"" help:"Say how the cluster is, as the asked node sees it."`
	Remove ClusterRemoveCmd `cmd:"" help:"Take a node out of the cluster."`
	Pins   ClusterPinsCmd   `cmd:"" help:"Where NixOS VMs get nixpkgs and their other inputs."`

	Backup  ClusterBackupCmd  `cmd:"" help:"Write what the cluster knows of its VMs into a file."`
	Restore ClusterRestoreCmd `cmd:"" help:"Begin a cluster anew from a backup, when its servers are lost for good."`
	Rejoin  ClusterRejoinCmd  `cmd:"" help:"Take a node that outlived its cluster into the restored one."`

	Settings ClusterSettingsCmd `cmd:"" help:"The constants that every node agrees on: leases, overcommit."`
}

type ClusterBackupCmd struct {
	File  string `arg:"" help:"The file to write, or - for the standard output. -y overwrites one that is there."`
	Stale bool   `help:"From the asked server's own copy: also where there is no quorum any more."`
}

type ClusterRestoreCmd struct {
	File     string `arg:"" help:"What 'cluster backup' has written."`
	HostsOff bool   `help:"Nothing of the old cluster is alive on any machine: do not wait for its leases to end. Asks first."`
}

type ClusterRejoinCmd struct {
	To string `arg:"" name:"server" help:"host:port of any server of the restored cluster."`
}

type ClusterInitCmd struct {
	SettingsFlags
}

type ClusterSettingsCmd struct {
	Show ClusterSettingsShowCmd `cmd:"" default:"1" help:"Show them, and how soon the VMs of a lost host run elsewhere."`
	Set  ClusterSettingsSetCmd  `cmd:"" help:"Change them, while VMs run."`
}

type ClusterSettingsShowCmd struct{}

type ClusterSettingsSetCmd struct {
	SettingsFlags
}

// SettingsFlags say what of the settings is not left as it is.
type SettingsFlags struct {
	Lease      *time.Duration `placeholder:"15s" help:"How long a host may run a VM after its last renewal."`
	Renew      *time.Duration `placeholder:"3s" help:"How often hosts renew."`
	LongLease  *time.Duration `placeholder:"1h" help:"The lease of VMs that wait for their host."`
	Overcommit *float64       `placeholder:"4" help:"Vcpus that may be placed on one."`
}

type ClusterJoinCmd struct {
	To string `arg:"" name:"server" help:"host:port of any server of the cluster to join."`
}

type ClusterStatusCmd struct{}

type ClusterRemoveCmd struct {
	Name string `arg:"" help:"The node."`
	Lost bool   `help:"Its machine is off and will never return: give up what only it has. Asks first."`
}

type ClusterPinsCmd struct {
	Show ClusterPinsShowCmd `cmd:"" default:"1" help:"Show them."`
	Set  ClusterPinsSetCmd  `cmd:"" help:"Change them, for VMs that are created or updated from now on."`
}

type ClusterPinsShowCmd struct {
	Stale bool `help:"From the asked server's own copy, which may lag."`
}

// ClusterPinsSetCmd changes what is given; an empty reference is the default again.
type ClusterPinsSetCmd struct {
	File           string  `short:"f" placeholder:"FILE" help:"All of them as YAML: nixpkgs, flake_parts, microvm, modules, lock; what is not there has its default again."`
	Nixpkgs        *string `placeholder:"FLAKE" help:"Where nixpkgs is (its unstable branch)."`
	FlakeParts     *string `placeholder:"FLAKE" help:"Where flake-parts is."`
	Microvm        *string `placeholder:"FLAKE" help:"Where microvm.nix is."`
	BlixardModules *string `placeholder:"FLAKE" help:"Where our modules are (those of the daemon that builds)."`
	Lock           *string `placeholder:"FILE" help:"A flake.lock with just these inputs, as nix flake lock makes it of what vm render writes; empty: the first build of a VM locks them."`
}

type NetworkCmd struct {
	Create NetworkCreateCmd `cmd:"" help:"Make a network: a bridge on each host, and one pool of addresses."`
	Get    NetworkGetCmd    `cmd:"" help:"Show one network, and which VM has which address."`
	List   NetworkListCmd   `cmd:"" aliases:"ls" help:"List networks."`
	Delete NetworkDeleteCmd `cmd:"" aliases:"rm" help:"Remove networks of which no VM has an address."`
}

type NetworkCreateCmd struct {
	Name    string   `arg:"" help:"Its name."`
	CIDR    string   `arg:"" name:"cidr" help:"Its addresses: 10.1.0.0/24."`
	Gateway string   `placeholder:"ADDRESS" help:"The hosts' own address on it (the first)."`
	Bridge  string   `placeholder:"NAME" help:"The bridge on every host; one that is there is used as it is (one that we make)."`
	DNS     []string `name:"dns" placeholder:"ADDRESS" help:"A name server for its guests. May be repeated."`
}

type NetworkGetCmd struct {
	Name  string `arg:"" help:"The network."`
	Stale bool   `help:"From the asked server's own copy, which may lag."`
}

type NetworkListCmd struct {
	Stale bool `help:"From the asked server's own copy, which may lag."`
}

type NetworkDeleteCmd struct {
	Names []string `arg:"" name:"name" help:"Networks."`
}

type VolumeCmd struct {
	Create VolumeCreateCmd `cmd:"" help:"Make a volume, on the host of the first VM that uses it or on the one that you name."`
	Get    VolumeGetCmd    `cmd:"" help:"Show one volume, and which VMs have it."`
	List   VolumeListCmd   `cmd:"" aliases:"ls" help:"List volumes, and those on hosts that the cluster does not know."`
	Grow   VolumeGrowCmd   `cmd:"" help:"Make a volume larger; a VM that has it open sees that at its next start."`
	Delete VolumeDeleteCmd `cmd:"" aliases:"rm" help:"Remove volumes that no VM has, and all that they hold."`
}

type VolumeCreateCmd struct {
	Name   string `arg:"" help:"Its name."`
	Size   uint64 `required:"" placeholder:"MIB" help:"How large it is, in MiB."`
	Format string `placeholder:"FORMAT" help:"raw (the default) or qcow2."`
	Host   string `placeholder:"NODE" help:"Where it is (where its first VM is placed)."`
}

type VolumeGetCmd struct {
	Name  string `arg:"" help:"The volume."`
	Stale bool   `help:"From the asked server's own copy, which may lag."`
}

type VolumeListCmd struct {
	Stale bool `help:"From the asked server's own copy, which may lag."`
}

type VolumeGrowCmd struct {
	Name string `arg:"" help:"The volume."`
	Size uint64 `required:"" placeholder:"MIB" help:"How large it is to be, in MiB."`
}

type VolumeDeleteCmd struct {
	Names []string `arg:"" name:"name" help:"Volumes."`
}

type SnapshotCmd struct {
	Create  SnapshotCreateCmd  `cmd:"" help:"Take a snapshot of a VM, memory and disks; it stands still meanwhile."`
	Get     SnapshotGetCmd     `cmd:"" help:"Show one snapshot."`
	List    SnapshotListCmd    `cmd:"" aliases:"ls" help:"List snapshots."`
	Restore SnapshotRestoreCmd `cmd:"" aliases:"revert" help:"Have its VM go on from a snapshot: what has happened since is gone."`
	Delete  SnapshotDeleteCmd  `cmd:"" aliases:"rm" help:"Remove snapshots."`
}

type SnapshotCreateCmd struct {
	VM   string `arg:"" name:"vm" help:"The VM."`
	Name string `arg:"" optional:"" help:"The snapshot's name (the VM's, and the time)."`
}

type SnapshotGetCmd struct {
	Name  string `arg:"" help:"The snapshot."`
	Stale bool   `help:"From the asked server's own copy, which may lag."`
}

type SnapshotListCmd struct {
	VM    string `arg:"" name:"vm" optional:"" help:"Only those of this VM."`
	Stale bool   `help:"From the asked server's own copy, which may lag."`
}

type SnapshotRestoreCmd struct {
	Name string `arg:"" help:"The snapshot."`
}

type SnapshotDeleteCmd struct {
	Names []string `arg:"" name:"name" help:"Snapshots."`
}

type VMCloneCmd struct {
	Snapshot string `arg:"" help:"The snapshot that it is made of."`
	Name     string `arg:"" help:"The new VM's name."`
	Memory   bool   `help:"It goes on with the memory, too, instead of booting from copies of the disks."`
}

type VMCmd struct {
	Create   VMCreateCmd   `cmd:"" help:"Create a VM; it is placed and starts by itself."`
	Get      VMGetCmd      `cmd:"" help:"Show one VM."`
	List     VMListCmd     `cmd:"" aliases:"ls" help:"List VMs."`
	Start    VMStartCmd    `cmd:"" help:"Start VMs that were stopped."`
	Stop     VMStopCmd     `cmd:"" help:"Press the power button, and kill after the grace time."`
	Restart  VMRestartCmd  `cmd:"" help:"Stop and start VMs where they are, with their newest spec."`
	Pause    VMPauseCmd    `cmd:"" help:"Stop VMs where they are, until they are resumed, stopped or restarted."`
	Resume   VMResumeCmd   `cmd:"" help:"Let paused VMs go on."`
	Resize   VMResizeCmd   `cmd:"" help:"Give a VM more or less: memory at once where its balloon can, all else from its next start."`
	Migrate  VMMigrateCmd  `cmd:"" aliases:"move" help:"Move VMs to another host while they run, or stopped here and started there."`
	Update   VMUpdateCmd   `cmd:"" help:"Give a VM another spec; it is built while the VM runs, and counts from its next start."`
	Rollback VMRollbackCmd `cmd:"" help:"Give a VM one of its earlier specs again, with what was built for it."`
	Build    VMBuildCmd    `cmd:"" help:"Wait until what Nix makes of a VM is built; build it anew, or hold it ready on more hosts."`
	History  VMHistoryCmd  `cmd:"" help:"Show the specs that a VM had, and what was built for them."`
	Clone    VMCloneCmd    `cmd:"" help:"Make a new VM of a snapshot, with copies of its disks and other addresses."`
	Delete   VMDeleteCmd   `cmd:"" aliases:"rm" help:"End VMs and everything they own; volumes are nobody's own."`
	Backup   VMBackupCmd   `cmd:"" help:"Write a VM into a file: its spec, what it boots, and its disks."`
	Restore  VMRestoreCmd  `cmd:"" help:"Make a VM of such a file, on this cluster or another."`
	Logs     VMLogsCmd     `cmd:"" help:"Show the console of a VM, or the log of its build."`
	Console  VMConsoleCmd  `cmd:"" help:"Read and type on the console of a VM, beside whoever else does; Ctrl-] leaves it."`
	Top      VMTopCmd      `cmd:"" help:"Show what VMs take: CPU, memory, disk, network; on a terminal, again and again."`
	Exec     VMExecCmd     `cmd:"" help:"Run a program in a VM, by the agent there: vm exec web -- uname -a. Its exit code is ours."`
	Copy     VMCopyCmd     `cmd:"" aliases:"cp" help:"Copy a file into a VM or out of one, by the agent there: vm copy FILE web:/etc/FILE."`
	Explain  VMExplainCmd  `cmd:"" help:"Say why a VM is where it is, and why not elsewhere."`
	Render   VMRenderCmd   `cmd:"" help:"Write the flake that a VM would be built from (-o DIR); asks no cluster."`
}

type VMCreateCmd struct {
	Name string   `arg:"" optional:"" help:"Its name; in a file, the name there."`
	Argv []string `arg:"" optional:"" help:"With --process: the program and its arguments, after --."`

	File         []string `short:"f" sep:"none" placeholder:"FILE" help:"Specs as YAML, one or more documents; - is standard input. May be repeated."`
	ValidateOnly bool     `help:"Check everything and change nothing."`

	SpecFlags
	Restart string `aliases:"restart-policy" placeholder:"POLICY" help:"always (the default), on-failure or never."`
}

// SpecFlags say what a VM is. What is not given is left out, and in an update
// left as it is.
type SpecFlags struct {
	Flake      string            `placeholder:"REF[#ATTR]" help:"A flake with a VM in it: a folder of yours (./infra#web), which is packed, or what every host can reach (github:me/infra#web)."`
	Hypervisor string            `placeholder:"NAME" help:"qemu, cloud-hypervisor, firecracker or process; any that fits when not given."`
	Machine    string            `placeholder:"TYPE" help:"Of an image under QEMU: microvm, which boots fastest, or q35, a PC with PCI (the one with devices)."`
	Warm       *bool             `negatable:"" help:"Start it from its saved boot, once it has booted on its host: of an image with the agent, and without disks that it writes."`
	Health     string            `placeholder:"PROBE" help:"How it is seen to be well: agent, tcp://HOST:PORT, http://HOST:PORT/PATH or process, which asks nothing; one that is not well is restarted. A file can say more."`
	Kernel     string            `placeholder:"WHAT" help:"A file, sha256:DIGEST, or a name given by image push."`
	Initrd     string            `placeholder:"WHAT" help:"Likewise."`
	Cmdline    *string           `placeholder:"TEXT" help:"Kernel arguments, appended to those that the runner needs."`
	Disk       []string          `sep:"none" placeholder:"name=N,source=WHAT,size=MIB" help:"A disk of its own: name=N[,source=WHAT][,size=MIB][,ro]. May be repeated."`
	Network    []string          `sep:"none" placeholder:"NAME[,ADDRESS]" help:"A network of the cluster that it is plugged into, or user: behind the hypervisor's own NAT. May be repeated; in an update, all of them."`
	Port       []string          `short:"p" sep:"none" placeholder:"[ADDRESS:]HOST:GUEST[/udp]" help:"A port of its host that leads to one of the guest, by the user network. May be repeated; in an update, all of them."`
	Volume     []string          `sep:"none" placeholder:"NAME[:ro]" help:"A volume of the cluster as a disk. May be repeated."`
	Device     []string          `placeholder:"KIND[=COUNT]" help:"PCI devices of its host that it has to itself. May be repeated; in an update, all of them; none for none."`
	Share      []string          `sep:"none" placeholder:"TAG=/FOLDER[:ro]" help:"Of an image: a folder of its host that the guest sees live (mount -t virtiofs TAG DIR). May be repeated; in an update, all of them; none for none."`
	Process    bool              `help:"Run a program without any isolation: vm create NAME --process -- /bin/sleep 1000."`
	Env        map[string]string `mapsep:"none" placeholder:"NAME=VALUE" help:"Environment of --process. May be repeated."`
	Vcpus      *uint32           `placeholder:"N" help:"Virtual processors (1)."`
	Memory     *uint64           `placeholder:"MIB" help:"Memory in MiB (512)."`
	OnHostLoss string            `placeholder:"WHAT" help:"replace (the default without a disk) or wait."`
	OnUpdate   string            `placeholder:"WHAT" help:"next-start (the default): an update counts from the VM's next start; restart: it is restarted once that is built."`
	Prebuild   *uint32           `placeholder:"N" help:"Hosts, besides its own, that hold ready what Nix built for it (0)."`
	Label      map[string]string `mapsep:"none" placeholder:"KEY=VALUE" help:"A label of the VM. May be repeated."`
	Require    map[string]string `mapsep:"none" placeholder:"KEY=VALUE" help:"A label that its host must have. May be repeated."`
	Lease      *time.Duration    `placeholder:"TIME" help:"Its own short lease."`
	StopGrace  *time.Duration    `placeholder:"TIME" help:"Between the power button and the kill (20s)."`
	Priority   *int32            `placeholder:"N" help:"-1000 to 1000; higher is placed first after a loss."`
}

type VMUpdateCmd struct {
	Name string   `arg:"" optional:"" help:"The VM; in a file, the name there."`
	Argv []string `arg:"" optional:"" help:"With --process: the program and its arguments, after --."`

	File         []string `short:"f" sep:"none" placeholder:"FILE" help:"The whole new specs as YAML; - is standard input. May be repeated. Without it, flags change the spec that there is."`
	ValidateOnly bool     `help:"Check everything and change nothing."`
	Restart      bool     `help:"Restart it once the new spec is built."`

	SpecFlags
	RestartPolicy string   `placeholder:"POLICY" help:"always, on-failure or never."`
	Detach        []string `sep:"none" placeholder:"VOLUME" help:"Take a volume out of the spec. May be repeated."`
}

type VMResizeCmd struct {
	Name         string  `arg:"" help:"The VM."`
	Memory       *uint64 `placeholder:"MIB" help:"Memory in MiB. Up to what it was started with it has it at once."`
	Cpus         *uint32 `aliases:"vcpus" placeholder:"N" help:"Virtual processors, from its next start."`
	Restart      bool    `help:"Restart it with that now."`
	ValidateOnly bool    `help:"Check everything and change nothing."`
}

type VMRollbackCmd struct {
	Name    string `arg:"" help:"The VM."`
	To      uint32 `placeholder:"GENERATION" help:"As vm history numbers them (the one before)."`
	Restart bool   `help:"Restart it with that spec."`
}

type VMBuildCmd struct {
	Names    []string `arg:"" name:"name" help:"VMs."`
	Refresh  bool     `help:"Build again, from the newest of what the spec and the cluster's pins refer to."`
	Prebuild *uint32  `placeholder:"N" help:"Hosts, besides its own, that hold it ready."`
	Restart  bool     `help:"Restart it with what --refresh builds."`
}

type VMHistoryCmd struct {
	Name string `arg:"" help:"The VM."`
}

type VMGetCmd struct {
	Name  string `arg:"" help:"The VM."`
	Stale bool   `help:"From the asked server's own copy, which may lag."`
}

type VMListCmd struct {
	Label map[string]string `short:"l" mapsep:"none" placeholder:"KEY=VALUE" help:"Only VMs with this label. May be repeated."`
	Stale bool              `help:"From the asked server's own copy, which may lag."`
	Watch bool              `short:"w" help:"Go on: a line for every VM that changes."`
}

type VMStartCmd struct {
	Names []string `arg:"" name:"name" help:"VMs."`
}

type VMStopCmd struct {
	Names []string `arg:"" name:"name" help:"VMs."`
}

type VMRestartCmd struct {
	Names []string `arg:"" name:"name" help:"VMs."`
}

type VMPauseCmd struct {
	Names []string `arg:"" name:"name" help:"VMs."`
}

type VMResumeCmd struct {
	Names []string `arg:"" name:"name" help:"VMs."`
}

type VMMigrateCmd struct {
	Names   []string      `arg:"" name:"name" help:"VMs."`
	To      string        `placeholder:"NODE" help:"The host to move to (the one with most left)."`
	Offline bool          `help:"Stop it here, and start it there."`
	Cancel  bool          `help:"End a move before the VM has left: it runs on where it is."`
	Within  time.Duration `placeholder:"TIME" help:"How long a live move may take (10m)."`
}

type VMDeleteCmd struct {
	Names []string `arg:"" name:"name" help:"VMs."`
	UID   string   `name:"uid" help:"Only this incarnation of the name."`

	Volumes bool `help:"Delete their volumes, too, but for those that another VM has; else they are kept."`
}

type VMBackupCmd struct {
	Name  string `arg:"" help:"The VM; one that runs is refused, unless --pause."`
	File  string `arg:"" help:"The file to write."`
	Pause bool   `xor:"how" help:"Pause it for as long as its disks are copied, and let it go on: they are as after a loss of power."`

	Memory   bool   `xor:"how" help:"With the memory of a VM that runs: it takes a snapshot, writes that, and deletes it."`
	Snapshot string `xor:"how" placeholder:"NAME" help:"Of the moment of this snapshot of it, with the memory."`
}

type VMRestoreCmd struct {
	File string `arg:"" help:"What 'vm backup' has written."`
	Name string `placeholder:"NAME" help:"Call it so (as it was called)."`
	Host string `placeholder:"NODE" help:"Where its disks are made, as volumes, and it runs (where there is room)."`

	Memory bool `negatable:"" default:"true" help:"Go on with the memory, if it is in the backup; --no-memory boots from the disks."`
}

type VMLogsCmd struct {
	Name   string `arg:"" help:"The VM."`
	Follow bool   `short:"f" help:"Stay and show what comes; of a build, until it has ended."`
	Tail   uint64 `placeholder:"BYTES" help:"Only the last bytes."`
	Build  bool   `help:"What its newest build said, instead of its console."`
}

type VMConsoleCmd struct {
	Name     string `arg:"" help:"The VM."`
	ReadOnly bool   `short:"r" help:"Type nothing."`
	Tail     uint64 `default:"4096" placeholder:"BYTES" help:"Begin so far back."`
}

type VMTopCmd struct {
	Names    []string      `arg:"" optional:"" name:"name" help:"Only these VMs."`
	Interval time.Duration `default:"2s" placeholder:"2s" help:"Between two looks."`
	Sort     string        `enum:"name,cpu,memory" default:"name" placeholder:"WHAT" help:"name (the default), cpu or memory."`
	Once     bool          `help:"Show it once, also on a terminal."`
}

type VMExecCmd struct {
	Name  string            `arg:"" help:"The VM."`
	Argv  []string          `arg:"" help:"After --: the program, and its arguments."`
	Env   map[string]string `mapsep:"none" placeholder:"NAME=VALUE" help:"Of its environment. May be repeated."`
	Stdin bool              `short:"i" help:"Give it our standard input, at most 512 KiB."`
}

type VMCopyCmd struct {
	From string `arg:"" help:"A file of ours, or VM:/PATH."`
	To   string `arg:"" help:"The other one. A directory of ours, or VM:/DIR/, keeps the name."`
}

type VMExplainCmd struct {
	Name  string `arg:"" help:"The VM."`
	Stale bool   `help:"From the asked server's own copy, which may lag."`
}

type VMRenderCmd struct {
	File           string `short:"f" required:"" placeholder:"FILE" help:"Specs as YAML; several VMs go to DIR/NAME each; - is standard input."`
	UID            string `name:"uid" help:"The uid that addresses are derived from (the name)."`
	ClusterID      string `name:"cluster-id" help:"The cluster's id, likewise (none)."`
	Nixpkgs        string `placeholder:"FLAKE" help:"Where nixpkgs is (its unstable branch)."`
	FlakeParts     string `placeholder:"FLAKE" help:"Where flake-parts is."`
	Microvm        string `placeholder:"FLAKE" help:"Where microvm.nix is."`
	BlixardModules string `placeholder:"FLAKE" help:"Where our modules are (written beside the flake)."`
	Lock           string `placeholder:"FILE" help:"A flake.lock to go with it."`
	Nix            string `env:"BLIXARD_NIX" placeholder:"FILE" help:"The nix that parses inline modules (the one in PATH, if any)."`
}

type ModulesCmd struct{}

type NodeCmd struct {
	List     NodeListCmd     `cmd:"" aliases:"ls" help:"List nodes."`
	Get      NodeGetCmd      `cmd:"" help:"Show one node."`
	Cordon   NodeCordonCmd   `cmd:"" help:"Keep new VMs off nodes; those on them stay."`
	Uncordon NodeUncordonCmd `cmd:"" help:"Let nodes take new VMs again."`
	Drain    NodeDrainCmd    `cmd:"" help:"Move the VMs of nodes to others, and keep new ones off; it goes on without this command."`
	Restore  NodeRestoreCmd  `cmd:"" help:"End a drain: nodes take VMs again, and what it stopped starts. Nothing is moved back."`
}

type NodeListCmd struct {
	Stale bool `help:"From the asked server's own copy, which may lag."`
}

type NodeGetCmd struct {
	Name  string `arg:"" help:"The node."`
	Stale bool   `help:"From the asked server's own copy, which may lag."`
}

type NodeCordonCmd struct {
	Names []string `arg:"" name:"name" help:"Nodes."`
}

type NodeUncordonCmd struct {
	Names []string `arg:"" name:"name" help:"Nodes."`
}

type NodeDrainCmd struct {
	Names     []string `arg:"" name:"name" help:"Nodes."`
	Parallel  *uint32  `placeholder:"2" help:"VMs of a node that are under way at a time."`
	StopLocal bool     `help:"Stop, until restore, VMs that wait for their host because of what their disks hold there; they are not moved."`
	DryRun    bool     `help:"Change nothing, and say which VM would go where, or why not."`
}

type NodeRestoreCmd struct {
	Names []string `arg:"" name:"name" help:"Nodes."`
}

type ImageCmd struct {
	Push ImagePushCmd `cmd:"" help:"Upload a file, and name it."`
	List ImageListCmd `cmd:"" aliases:"ls" help:"List what the cluster holds."`
}

type ImagePushCmd struct {
	File string `arg:"" help:"A kernel, an initrd or a raw disk."`
	Name string `arg:"" optional:"" help:"Its name; the file's own when not given."`
}

type ImageListCmd struct {
	Stale bool `help:"From the asked server's own copy, which may lag."`
}

type VersionCmd struct{}
