package sim

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A Film is a run as a picture can show it: in which state everything was from
// when to when, which messages went from where to where, and what happened in
// words. It watches and changes nothing: a run that is filmed has the same trace
// hash.
type Film struct {
	Result  Result          `json:"result"`
	Commit  string          `json:"commit"`
	Command string          `json:"command"`
	Healed  int64           `json:"healed,omitempty"`
	End     int64           `json:"end"`
	Nodes   []FilmNode      `json:"nodes"`
	VMs     []FilmVM        `json:"vms"`
	Spans   []FilmSpan      `json:"spans"`
	Faults  []FilmFault     `json:"faults"`
	Asks    []FilmAsk       `json:"asks"`
	Letters []FilmLetter    `json:"letters"`
	Lines   []FilmLine      `json:"lines"`
	Picture string          `json:"-"` // porcupine's page
	open    map[spanKey]int // spans that have not ended, by their index
	letters map[*packet][]int
}

// FilmNode is a machine.
type FilmNode struct {
	Name   string `json:"name"`
	Server bool   `json:"server,omitempty"`
}

// FilmVM is what a uid was called.
type FilmVM struct {
	UID  string `json:"uid"`
	Name string `json:"name"`
}

// FilmSpan is a state: Row is daemon, leader, lease, or the uid of a VM.
type FilmSpan struct {
	Node  int    `json:"n"`
	Row   string `json:"row"`
	State string `json:"state"`
	Label string `json:"label,omitempty"`
	From  int64  `json:"from"`
	To    int64  `json:"to"` // -1: to the end
}

// FilmFault is a fault, and whom it touches; nobody in particular: all of them.
type FilmFault struct {
	Label string `json:"label"`
	From  int64  `json:"from"`
	To    int64  `json:"to"`
	Nodes []int  `json:"nodes,omitempty"`
	Small bool   `json:"small,omitempty"` // a mishap
}

// FilmAsk is an operation of a client.
type FilmAsk struct {
	Client int    `json:"c"`
	Label  string `json:"label"`
	From   int64  `json:"from"`
	To     int64  `json:"to"` // -1: nobody heard an answer
	Bad    bool   `json:"bad,omitempty"`
}

// FilmLetter is a message. Lost says why it came to nothing.
type FilmLetter struct {
	From  int    `json:"a"`
	To    int    `json:"b"`
	Sent  int64  `json:"s"`
	Due   int64  `json:"t"`
	Kind  string `json:"k"`
	Label string `json:"w"`
	Lost  string `json:"x,omitempty"`
}

// FilmLine is something that happened, in words.
type FilmLine struct {
	At   int64  `json:"at"`
	Who  string `json:"who,omitempty"`
	Text string `json:"text"`
}

type spanKey struct {
	node int
	row  string
}

func newFilm() *Film {
	return &Film{open: map[spanKey]int{}, letters: map[*packet][]int{}}
}

// How much a page can show. What is older is left out.
const (
	mostLetters    = 30_000
	mostHeartbeats = 3_000
	mostLines      = 10_000
)

// state of a row from now on; an empty one: none.
func (f *Film) state(now int64, node int, row, state, label string) {
	k := spanKey{node, row}
	if i, ok := f.open[k]; ok {
		if s := &f.Spans[i]; s.State == state && s.Label == label {
			return
		}
		f.Spans[i].To = now
		delete(f.open, k)
	}
	if state != "" {
		f.open[k] = len(f.Spans)
		f.Spans = append(f.Spans, FilmSpan{Node: node, Row: row, State: state, Label: label, From: now, To: -1})
	}
}

// look sees what has become of whom an event was for.
func (f *Film) look(w *World, m *Machine) {
	if f == nil {
		return
	}
	if m != nil {
		f.machine(w.now, m)
		return
	}
	for _, m := range w.machines {
		f.machine(w.now, m)
	}
}

func (f *Film) machine(now int64, m *Machine) {
	daemon, leader, lease := "up", "", ""
	var term, epoch uint64
	switch d := m.daemon; {
	case !m.on:
		daemon = "off"
	case d == nil:
		daemon = "down"
	default:
		if d.paused {
			daemon = "paused"
		}
		st := d.node.Status()
		if st.Leading {
			leader, term = "leads", st.Term
		}
		if st.Granted {
			lease, epoch = "granted", st.Epoch
		}
	}
	f.state(now, m.Index, "daemon", daemon, "")
	f.state(now, m.Index, "leader", leader, numbered("term", term))
	f.state(now, m.Index, "lease", lease, numbered("epoch", epoch))
	m.dirs.Scan(func(uid string, d *vmDir) bool {
		f.vm(now, m.Index, uid, d)
		return true
	})
	for k := range f.open { // any order: each ends at the same moment
		if d, ok := m.dirs.Get(k.row); k.node == m.Index && isUID(k.row) && (!ok || !d.alive()) {
			f.state(now, k.node, k.row, "", "")
		}
	}
}

// isUID tells a VM's row from the others.
func isUID(row string) bool { return strings.Contains(row, "-") }

func numbered(word string, n uint64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%s %d", word, n)
}

func (f *Film) vm(now int64, node int, uid string, d *vmDir) {
	state := ""
	switch g := d.guest; {
	case g == nil && d.shim == nil:
	case g == nil:
		state = "shim"
	case g.dying:
		state = "dying"
	case d.shim != nil && d.shim.paused:
		state = "shim stopped"
	case g.ready:
		state = "ready"
	default:
		state = "boots"
	}
	label := ""
	if d.guest != nil {
		label = d.guest.instance.String()
	}
	f.state(now, node, uid, state, label)
}

// letter is a message on its way. lost says why it will not arrive.
func (f *Film) letter(now int64, from, to *Machine, p *packet, due int64, lost string) {
	if f == nil {
		return
	}
	kind, label := p.describe()
	if lost == "" {
		f.letters[p] = append(f.letters[p], len(f.Letters))
	}
	f.Letters = append(f.Letters, FilmLetter{from.Index, to.Index, now, due, kind, label, lost})
}

// arrived says whether a message that was due now found anybody.
func (f *Film) arrived(now int64, to *Machine, p *packet, lost string) {
	if f == nil {
		return
	}
	for i, n := range f.letters[p] {
		if l := &f.Letters[n]; l.To == to.Index && l.Due == now {
			l.Lost = lost
			f.letters[p] = slices.Delete(f.letters[p], i, i+1)
			break
		}
	}
	if len(f.letters[p]) == 0 {
		delete(f.letters, p)
	}
}

func (p *packet) describe() (kind, label string) {
	if p.msg == nil {
		env := &blixardv1.Envelope{}
		if proto.Unmarshal(p.encoded, env) != nil {
			return "other", "an envelope that does not decode"
		}
		switch env.GetBody().(type) {
		case *blixardv1.Envelope_Sync:
			kind = "sync"
		case *blixardv1.Envelope_Grant:
			kind = "grant"
		default:
			kind = "other"
		}
		return kind, describeEnvelope(env)
	}
	m := p.msg.Raft
	name := strings.TrimPrefix(m.GetType().String(), "Msg")
	label = fmt.Sprintf("%s, term %d, index %d, commit %d", name, m.GetTerm(), m.GetIndex(), m.GetCommit())
	if n := len(m.Entries); n > 0 {
		label += fmt.Sprintf(", %d entries", n)
	}
	if m.GetReject() {
		label += ", rejects"
	}
	switch {
	case strings.HasPrefix(name, "Heartbeat"):
		kind = "heartbeat"
	case strings.HasPrefix(name, "App"), strings.HasPrefix(name, "Snap"):
		kind = "log"
	case strings.Contains(name, "Vote"):
		kind = "vote"
	default:
		kind = "other"
	}
	return kind, label
}

func (f *Film) line(l line) {
	f.Lines = append(f.Lines, FilmLine{l.at, l.who, describe(l.what)})
	if len(f.Lines) >= 2*mostLines {
		f.Lines = slices.Delete(f.Lines, 0, mostLines)
	}
}

// finish is what is known at the end only.
func (f *Film) finish(w *World) {
	f.Result, f.End, f.Healed = w.Result(), w.now, w.healedAt
	f.Command = f.Result.Command()
	f.Result.Struck = nil // they are shown as faults
	for _, m := range w.machines {
		f.Nodes = append(f.Nodes, FilmNode{m.Name, m.Server})
	}
	for _, s := range w.struck {
		if _, ask := s.Fault.(Ask); !ask {
			fault := filmFault(s)
			if w.healedAt > 0 {
				fault.To = min(fault.To, w.healedAt)
			}
			f.Faults = append(f.Faults, fault)
		}
	}
	names := map[string]string{}
	for _, op := range w.history {
		f.Asks = append(f.Asks, filmAsk(op))
		if op.VM != nil {
			names[op.VM.Uid] = op.Name
		}
	}
	if v := w.View(); v != nil {
		v.VMs("", func(vm *blixardv1.VM) bool {
			names[vm.Uid] = vm.Name
			return true
		})
	}
	for _, s := range f.Spans {
		if isUID(s.Row) && !slices.ContainsFunc(f.VMs, func(v FilmVM) bool { return v.UID == s.Row }) {
			f.VMs = append(f.VMs, FilmVM{s.Row, names[s.Row]})
		}
	}
	f.Picture = w.picture()
	f.trim()
}

func filmAsk(op *Operation) FilmAsk {
	a := FilmAsk{Client: op.Client, Label: op.String(), From: op.Call, To: op.Return, Bad: op.Error != nil}
	if op.Return == 0 {
		a.To = -1
	}
	return a
}

func filmFault(s Strike) FilmFault {
	f := FilmFault{Label: FaultString(s.Fault), From: int64(s.At), To: int64(s.At)}
	v := reflect.ValueOf(s.Fault)
	for i := range v.NumField() {
		switch x := v.Field(i).Interface().(type) {
		case N:
			if v.Type().Field(i).Name != "VM" {
				f.Nodes = append(f.Nodes, int(x))
			}
		case place:
			f.Nodes = append(f.Nodes, int(x.From))
			if x.To != 0 {
				f.Nodes = append(f.Nodes, int(x.To))
			}
		case time.Duration:
			if v.Type().Field(i).Name == "For" {
				f.To += int64(x)
			}
		}
	}
	_, f.Small = s.Fault.(Mishap)
	return f
}

// trim leaves out what a page cannot show: the oldest, and first heartbeats.
func (f *Film) trim() {
	beats := 0
	for _, l := range f.Letters {
		if l.Kind == "heartbeat" {
			beats++
		}
	}
	f.Letters = slices.DeleteFunc(f.Letters, func(l FilmLetter) bool {
		if l.Kind != "heartbeat" {
			return false
		}
		beats--
		return beats >= mostHeartbeats
	})
	f.Letters = f.Letters[max(0, len(f.Letters)-mostLetters):]
	f.Lines = f.Lines[max(0, len(f.Lines)-mostLines):]
}

// Shoot runs a world and films it.
func Shoot(cfg Config) *Film {
	cfg.Record = true
	w := New(cfg)
	defer w.Close()
	w.film = newFilm()
	w.run()
	w.film.finish(w)
	return w.film
}
