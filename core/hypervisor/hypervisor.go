// Package hypervisor says, as data, what can be had of each kind of hypervisor.
//
// # The model
//
// A spec wants things of what runs it: a folder that is shared, an interface
// behind a NAT, a machine without KVM. Each is a Capability. One [Table] has an
// [Answer] for every kind and every capability, and everybody reads that one:
//
//	validation   refuses a spec that nothing here can run, and says what could
//	placement    looks for a host with a hypervisor that does what is wanted
//	a host       reports what its own hypervisors do, which may be less
//	the CLI      and docs/hypervisors.md show it
//
// There are two ways not to do something: the hypervisor cannot, and why; or it
// could, and nobody has taught us yet. Both refuse; the words differ.
package hypervisor

import (
	"iter"
	"slices"
	"strings"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Set is some capabilities, a bit for each.
type Set uint64

// Of is a set of these.
func Of(list ...blixardv1.Capability) (s Set) {
	for _, c := range list {
		s |= 1 << uint(c)
	}
	return s
}

// Has says whether all of another set is in this one.
func (s Set) Has(all Set) bool { return s&all == all }

// List is the capabilities in the order of their numbers.
func (s Set) List() (list []blixardv1.Capability) {
	for c := range Capabilities() {
		if s.Has(Of(c)) {
			list = append(list, c)
		}
	}
	return list
}

// Capabilities are all there are.
func Capabilities() iter.Seq[blixardv1.Capability] {
	return func(yield func(blixardv1.Capability) bool) {
		for n := int32(1); n < int32(len(blixardv1.Capability_name)); n++ {
			if !yield(blixardv1.Capability(n)) {
				return
			}
		}
	}
}

// Answer says whether a hypervisor does something.
type Answer uint8

const (
	// No: it cannot.
	No Answer = iota
	// NotYet: it can, and we do not ask it to.
	NotYet
	Yes
)

// Kind is one kind of hypervisor.
type Kind struct {
	Hypervisor blixardv1.Hypervisor
	// Name is as people write it; Program is what is looked for on a host.
	Name, Program string
	MaxVCPUs      uint32
	// Met is the real program that its driver has passed the conformance suite on.
	Met string
	// answers has one for each capability; those that are not there are No.
	answers map[blixardv1.Capability]Answer
	can     Set // those that are Yes
	// why is a clause that follows the name, where the answer is No and somebody
	// may ask for it.
	why map[blixardv1.Capability]string
}

// Answer says whether it does something.
func (k *Kind) Answer(c blixardv1.Capability) Answer { return k.answers[c] }

// Why says, in a sentence without its end, why it does not do something; "" when
// it does.
func (k *Kind) Why(c blixardv1.Capability) string {
	switch why := k.why[c]; {
	case k.answers[c] == Yes:
		return ""
	case k.answers[c] == NotYet:
		return "Blixard has no " + Name(c) + " with " + k.Name + " yet"
	case why != "":
		return k.Name + " " + why
	}
	return k.Name + " has no " + Name(c)
}

// Can is everything that it does.
func (k *Kind) Can() Set { return k.can }

// complete sums up the answers of each.
func complete(table []Kind) []Kind {
	for i := range table {
		for c := range Capabilities() {
			if table[i].answers[c] == Yes {
				table[i].can |= Of(c)
			}
		}
	}
	return table
}

// Name is what people call a capability: user network, say.
func Name(c blixardv1.Capability) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(c.String(), "CAPABILITY_")), "_", " ")
}

// Get is a kind by its number; nil for none, and for the unspecified one.
func Get(h blixardv1.Hypervisor) *Kind {
	i := slices.IndexFunc(Table, func(k Kind) bool { return k.Hypervisor == h })
	if i < 0 {
		return nil
	}
	return &Table[i]
}

// NameOf is a kind's name, also of one that is not known here.
func NameOf(h blixardv1.Hypervisor) string {
	if k := Get(h); k != nil {
		return k.Name
	}
	return h.String()
}

// Able are the kinds that do all of a set, in the order of the table, which is
// the order in which they are preferred.
func Able(all Set) (list []*Kind) {
	for i := range Table {
		if Table[i].Can().Has(all) {
			list = append(list, &Table[i])
		}
	}
	return list
}

// Names joins the names of kinds: a, b or c.
func Names(list []*Kind) string {
	var names []string
	for _, k := range list {
		names = append(names, k.Name)
	}
	if n := len(names); n > 1 {
		return strings.Join(names[:n-1], ", ") + " or " + names[n-1]
	}
	return strings.Join(names, "")
}
