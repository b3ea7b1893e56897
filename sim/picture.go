package sim

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// mostPictured is how many operations porcupine's picture shows at most.
const mostPictured = 500

// picture is porcupine's page about the histories of all clients, a part for
// each VM's name, the one that the failure is about first; "" when there is
// nothing to show.
func (w *World) picture() string {
	byName := w.operations()
	names := slices.Sorted(maps.Keys(byName))
	if w.failure != nil {
		slices.SortStableFunc(names, func(a, b string) int { return about(w.failure, b) - about(w.failure, a) })
	}
	var parts [][]porcupine.Operation
	var all []porcupine.Operation
	for i, name := range names {
		if w.failure != nil && i > 0 && about(w.failure, names[0]) > about(w.failure, name) {
			break // it is about the first
		}
		if len(all) > 0 && len(all)+len(byName[name]) > mostPictured {
			continue
		}
		parts, all = append(parts, byName[name]), append(all, byName[name]...)
	}
	if len(all) == 0 {
		return ""
	}
	model := vmModel
	model.DescribeOperation = func(input, _ any) string {
		_, what, _ := strings.Cut(input.(*Operation).String(), ": ")
		return what
	}
	model.Partition = func([]porcupine.Operation) [][]porcupine.Operation { return parts }
	_, info := porcupine.CheckOperationsVerbose(model, all, 5*time.Second)
	var notes []porcupine.Annotation
	for _, s := range w.struck {
		if f := filmFault(s); strikeName(s.Fault) != "" {
			notes = append(notes, porcupine.Annotation{Tag: "faults", Start: f.From, End: f.To, Description: f.Label})
		}
	}
	info.AddAnnotations(notes)
	var b bytes.Buffer
	if err := porcupine.Visualize(model, info, &b); err != nil {
		return ""
	}
	return b.String()
}

// about is 1 when a failure speaks of a VM.
func about(f *Failure, name string) int {
	if strings.Contains(f.Text, fmt.Sprintf("VM %s:", name)) || strings.Contains(f.Text, fmt.Sprintf("VM %s ", name)) {
		return 1
	}
	return 0
}
