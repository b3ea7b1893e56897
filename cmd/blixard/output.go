package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// table is what a command shows to people: wide columns last.
type table struct {
	head, wide []string
	rows       [][]string // head's cells, then wide's
	notes      []string   // lines below
	names      []string   // for -o name
}

// show prints a message as the user asked for it.
func (t *terminal) show(g *Globals, m proto.Message, tab func() table) error {
	switch g.Output {
	case "json", "yaml":
		b, err := marshal(g.Output, m)
		if err != nil {
			return err
		}
		_, err = t.out.Write(b)
		return err
	case "name":
		for _, n := range tab().names {
			fmt.Fprintln(t.out, n)
		}
		return nil
	}
	return tab().print(t.out, g.Output == "wide")
}

// marshal gives the same bytes for the same message, which protojson alone does not.
func marshal(format string, m proto.Message) ([]byte, error) {
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	if format == "yaml" {
		// JSON is YAML: parsing it as such keeps the order of the fields.
		var n yaml.Node
		if err := yaml.Unmarshal(b, &n); err != nil {
			return nil, err
		}
		block(&n)
		var out bytes.Buffer
		e := yaml.NewEncoder(&out)
		e.SetIndent(2)
		if err := e.Encode(&n); err != nil {
			return nil, err
		}
		return out.Bytes(), nil
	}
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// block undoes JSON's braces and needless quotes.
func block(n *yaml.Node) {
	n.Style = 0
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		n.Style = yaml.DoubleQuotedStyle
		if v := (yaml.Node{Kind: yaml.ScalarNode, Value: n.Value}); v.ShortTag() == "!!str" && !strings.ContainsAny(n.Value, "\n\t\"\\") {
			n.Style = 0
		}
	}
	for _, c := range n.Content {
		block(c)
	}
}

func (t table) print(w io.Writer, wide bool) error {
	tw := tabwriter.NewWriter(w, 2, 8, 3, ' ', 0)
	line := func(cells []string) {
		for i, c := range cells {
			if c = oneLine(c); c == "" {
				c = "-"
			}
			if i > 0 {
				fmt.Fprint(tw, "\t")
			}
			fmt.Fprint(tw, c)
		}
		fmt.Fprintln(tw)
	}
	if wide {
		line(slices.Concat(t.head, t.wide))
	} else {
		line(t.head)
	}
	for _, r := range t.rows {
		if !wide {
			r = r[:len(t.head)]
		}
		line(r)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, n := range t.notes {
		if _, err := fmt.Fprintln(w, oneLine(n)); err != nil {
			return err
		}
	}
	return nil
}

// oneLine keeps what a stranger wrote from drawing on our terminal.
func oneLine(s string) string { return strings.ReplaceAll(printable(s), "\n", " ") }

// printable does so too, and leaves its lines.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

func vmTable(vms []*blixardv1.VM, node func(*blixardv1.VM) string, now time.Time) table {
	t := table{
		head: []string{"NAME", "NODE", "PHASE", "HEALTH", "HYPERVISOR", "VCPUS", "MEMORY", "AGE"},
		wide: []string{"UID", "ATTEMPT", "LABELS", "REASON", "MESSAGE"},
	}
	for _, v := range vms {
		t.names = append(t.names, v.GetName())
		t.rows = append(t.rows, []string{
			v.GetName(), node(v), phaseText(v), healthText(v), hypervisorText(v),
			fmt.Sprint(max(v.GetSpec().GetVcpus(), 1)), mib(memoryOf(v)), age(v.GetCreateTime(), now),
			v.GetUid(), fmt.Sprint(v.GetStatus().GetAttempt()), labelText(v.GetSpec().GetLabels()),
			v.GetStatus().GetReason(), firstLine(v.GetStatus().GetMessage()),
		})
	}
	return t
}

// statusNotes are what a VM's status has to say beyond its phase.
func statusNotes(v *blixardv1.VM) []string {
	st := v.GetStatus()
	if v.GetPaused() && st.GetPhase() == blixardv1.Phase_PHASE_PAUSED {
		return []string{"Paused by its user (blixard vm resume " + v.GetName() + ")"}
	}
	var notes []string
	if m := v.GetMigration(); m.GetState() != 0 && m.GetState() != blixardv1.MigrationState_MIGRATION_STATE_DONE {
		notes = append(notes, migrationText(m))
	}
	if st.GetHealth() == blixardv1.HealthState_HEALTH_STATE_UNHEALTHY {
		notes = append(notes, "Unhealthy: "+firstLine(st.GetHealthMessage()))
	}
	if crashLoops(v) {
		notes = append(notes, fmt.Sprintf("CrashLoop: it has failed %d times in a row, the last time %s, and is tried again, later each time (blixard vm logs %s)",
			st.GetFailures(), cluster.LastEnd(st), v.GetName()))
	}
	if f := st.GetLastFailure(); f != nil && st.GetAttempt() > f.GetAttempt() {
		notes = append(notes, fmt.Sprintf("Restarted %s ago, after attempt %d: %s: %s",
			age(f.GetTime(), time.Now()), f.GetAttempt(), f.GetReason(), firstLine(f.GetMessage())))
	}
	if st.GetMessage() == "" {
		return notes
	}
	note := st.GetReason() + ": " + firstLine(st.GetMessage())
	if st.GetReason() == "BuildFailed" && nixBuilt(v) {
		note += " (blixard vm logs --build " + v.GetName() + ")"
	}
	return append(notes, note)
}

// warmNotes say how a VM was started that may start from its saved boot.
func warmNotes(v *blixardv1.VM) []string {
	st := v.GetStatus()
	switch {
	case !v.GetSpec().GetWarm() || st.GetPhase() != blixardv1.Phase_PHASE_RUNNING:
		return nil
	case st.GetWarm():
		return []string{"Started warm: from its saved boot"}
	}
	return []string{"Started cold: it has booted"}
}

func memoryOf(v *blixardv1.VM) uint64 {
	if m := v.GetSpec().GetMemoryMib(); m != 0 {
		return m
	}
	return 512
}

func phaseText(v *blixardv1.VM) string { return camel(v.GetStatus().GetPhase().String(), "PHASE_") }

// healthText is what probes have shown, or that it fails again and again.
func healthText(v *blixardv1.VM) string {
	if crashLoops(v) {
		return "CrashLoop"
	}
	return camel(v.GetStatus().GetHealth().String(), "HEALTH_STATE_")
}

// crashLoops says that a VM ends again and again.
func crashLoops(v *blixardv1.VM) bool {
	return v.GetRun() && v.GetStatus().GetFailures() >= cluster.CrashLoops
}

func hypervisorText(v *blixardv1.VM) string {
	h := v.GetPlacement().GetHypervisor()
	if r := v.GetRunner().GetHypervisor(); r != 0 {
		h = r // as the flake has it
	}
	if h == 0 {
		h = v.GetSpec().GetHypervisor()
	}
	if h == blixardv1.Hypervisor_HYPERVISOR_PROCESS || v.GetSpec().GetProcess() != nil {
		return "process (no isolation)"
	}
	if h == 0 {
		return ""
	}
	return kebab(h.String(), "HYPERVISOR_")
}

func nodeTable(nodes []*blixardv1.Node, now time.Time) table {
	t := table{
		head: []string{"NAME", "STATUS", "SERVER", "HOST", "VMS", "VCPUS", "MEMORY", "AGE"},
		wide: []string{"ID", "ADDRESS", "EPOCH", "DISK", "HYPERVISORS", "LABELS", "VERSION"},
	}
	for _, n := range nodes {
		h := n.GetHost()
		host, vms, vcpus, memory, disk := "no", "", "", "", ""
		if h != nil {
			host = "yes"
			c, a := h.GetFacts().GetCapacity(), h.GetAllocated()
			vms = fmt.Sprint(h.GetInstances())
			vcpus = fmt.Sprintf("%d/%d", a.GetVcpus(), c.GetVcpus())
			memory = mib(a.GetMemoryMib()) + "/" + mib(c.GetMemoryMib())
			disk = mib(a.GetDiskMib()) + "/" + mib(c.GetDiskMib())
		}
		t.names = append(t.names, n.GetName())
		t.rows = append(t.rows, []string{
			n.GetName(), nodeStatus(n), serverText(n), host, vms, vcpus, memory, age(n.GetCreateTime(), now),
			fmt.Sprint(n.GetId()), n.GetAddress(), fmt.Sprint(h.GetEpoch()), disk, factsText(h.GetFacts()),
			labelText(h.GetFacts().GetLabels()), h.GetFacts().GetVersion(),
		})
	}
	return t
}

// serverTable shows the servers that a host was told of.
func serverTable(nodes []*blixardv1.Node) table {
	t := table{head: []string{"NAME", "SERVER", "ADDRESS"}, wide: []string{"ID"}}
	for _, n := range nodes {
		t.names = append(t.names, n.GetName())
		t.rows = append(t.rows, []string{n.GetName(), serverText(n), n.GetAddress(), fmt.Sprint(n.GetId())})
	}
	return t
}

func serverText(n *blixardv1.Node) string {
	if n.GetServer() == 0 {
		return "no"
	}
	return kebab(n.GetServer().String(), "SERVER_STATE_")
}

func nodeStatus(n *blixardv1.Node) string {
	var s []string
	switch h := n.GetHost(); {
	case n.GetServer() == blixardv1.ServerState_SERVER_STATE_LEAVING:
		s = append(s, "Leaving")
	case h == nil:
		s = append(s, "Ready")
	case h.GetEpoch() == 0:
		s = append(s, "Waiting")
	case h.GetEpochState() != blixardv1.EpochState_EPOCH_STATE_ACTIVE:
		s = append(s, "Fenced")
	case h.GetSuspect():
		s = append(s, "Suspect")
	default:
		s = append(s, "Ready")
	}
	switch d := n.GetDrain(); {
	case d.GetDone():
		s = append(s, "Drained")
	case d != nil:
		s = append(s, "Draining")
	case n.GetCordoned():
		s = append(s, "Cordoned")
	}
	return strings.Join(s, ",")
}

func factsText(f *blixardv1.HostFacts) string {
	var s []string
	for _, h := range f.GetHypervisors() {
		name := kebab(h.GetHypervisor().String(), "HYPERVISOR_")
		if h.GetKvm() {
			name += "+kvm"
		}
		s = append(s, name)
	}
	return strings.Join(s, ",")
}

func labelText(m map[string]string) string {
	var s []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		s = append(s, k+"="+m[k])
	}
	return strings.Join(s, ",")
}

// camel makes RoadRunner of PREFIX_ROAD_RUNNER.
func camel(s, prefix string) string {
	s = strings.TrimPrefix(s, prefix)
	if s == "UNSPECIFIED" {
		return ""
	}
	var b strings.Builder
	for p := range strings.SplitSeq(s, "_") {
		b.WriteString(p[:1] + strings.ToLower(p[1:]))
	}
	return b.String()
}

// kebab makes road-runner of PREFIX_ROAD_RUNNER.
func kebab(s, prefix string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(s, prefix)), "_", "-")
}

func mib(n uint64) string {
	switch {
	case n == 0:
		return "0"
	case n%(1<<20) == 0:
		return fmt.Sprintf("%dTi", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%.0fGi", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%dMi", n)
}

// howMany is 1 disk, 2 disks.
func howMany(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func bytesText(n uint64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

func age(t *timestamppb.Timestamp, now time.Time) string {
	if t == nil {
		return ""
	}
	d := max(now.Sub(t.AsTime()), 0)
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

func verdictTable(verdicts []*blixardv1.Verdict) table {
	t := table{head: []string{"NODE", "VERDICT", "LOAD", "WHY NOT"}}
	for _, v := range verdicts {
		verdict := "does not fit"
		switch {
		case v.GetChosen():
			verdict = "chosen"
		case v.GetFits():
			verdict = "fits"
		}
		t.names = append(t.names, v.GetNode())
		t.rows = append(t.rows, []string{v.GetNode(), verdict,
			fmt.Sprintf("%.1f%%", float64(v.GetLoad())/1e4), strings.Join(v.GetReasons(), "; ")})
	}
	return t
}

func artifactTable(artifacts []*blixardv1.ArtifactRecord, now time.Time) table {
	t := table{head: []string{"NAME", "DIGEST", "SIZE", "NODES", "VMS", "AGE"}}
	for _, a := range artifacts {
		id := "sha256:" + a.GetDigest()
		t.names = append(t.names, or(a.GetName(), id))
		t.rows = append(t.rows, []string{a.GetName(), id, bytesText(a.GetSize()),
			fmt.Sprint(len(a.GetNodes())), fmt.Sprint(a.GetReferences()), age(a.GetCreateTime(), now)})
	}
	return t
}
