package sim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Ask is a client's wish. It is no fault, but it is a decision like the others:
// a value that prints and parses back, and that a story can leave out. A client
// that is busy takes it up when it is done.
type Ask struct {
	Client int
	Verb   Verb
	Name   string
	Spec   *blixardv1.VMSpec
}

// plainVM is what a wish is compared with: only what differs is said.
func plainVM() *blixardv1.VMSpec {
	return &blixardv1.VMSpec{
		Vcpus: 1, MemoryMib: 256, Hypervisor: blixardv1.Hypervisor_HYPERVISOR_PROCESS,
		Source: &blixardv1.VMSpec_Process{Process: &blixardv1.Process{Argv: []string{"/bin/vm"}}},
	}
}

func (a Ask) String() string {
	words := []string{"Ask", fmt.Sprintf("c%d", a.Client), a.Verb.String(), a.Name}
	if a.Spec != nil {
		words = append(words, messageWords(a.Spec, plainVM())...)
	}
	return "(" + strings.Join(words, " ") + ")"
}

func parseAsk(words []string) (Fault, error) {
	if len(words) < 4 {
		return nil, fmt.Errorf("want (Ask c1 Verb name ...)")
	}
	client, err := strconv.Atoi(strings.TrimPrefix(words[1], "c"))
	if err != nil {
		return nil, err
	}
	verb := slices.Index(verbNames[:], words[2])
	if verb < int(Create) {
		return nil, fmt.Errorf("there is no verb %s", words[2])
	}
	a := Ask{Client: client, Verb: Verb(verb), Name: words[3]}
	if a.Verb == Create || a.Verb == Update {
		a.Spec = plainVM()
		return a, setMessage(a.Spec, words[4:])
	}
	if len(words) > 4 {
		return nil, fmt.Errorf("%s takes no spec", a.Verb)
	}
	return a, nil
}

func (a Ask) strike(w *World) bool {
	if a.Client < 1 || a.Client >= len(w.clients) {
		return false
	}
	c := w.clients[a.Client]
	if c.op != nil {
		c.wishes = append(c.wishes, a)
		return false
	}
	op := &Operation{Verb: a.Verb, Name: a.Name}
	if a.Spec != nil {
		op.Spec = proto.CloneOf(a.Spec)
	}
	w.decided(a)
	c.begin(op, nil)
	return true
}

// simpler wishes: for a plain VM, or for one that differs from it in a word less.
// What makes an Update's spec unlike all others stays, if in fewer digits: one
// that changes nothing is another story.
func (a Ask) simpler() (list []Fault) {
	if a.Spec == nil {
		return nil
	}
	const mark, digits = "labels.revision=", 3
	words, kept := messageWords(a.Spec, plainVM()), []string(nil)
	if i := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, mark) }); i >= 0 && a.Verb == Update {
		kept = []string{words[i]}
		words = slices.Delete(words, i, i+1)
	}
	with := func(words []string, more ...string) {
		b := a
		b.Spec = plainVM()
		if setMessage(b.Spec, append(words, more...)) == nil {
			list = append(list, b)
		}
	}
	if len(words) > 0 {
		with(nil, kept...)
	}
	if len(kept) > 0 && len(kept[0]) > len(mark)+digits {
		with(slices.Clone(words), mark+kept[0][len(kept[0])-digits:])
	}
	for i := range words {
		if len(words) > 1 {
			with(slices.Delete(slices.Clone(words), i, i+1), kept...)
		}
	}
	return list
}
