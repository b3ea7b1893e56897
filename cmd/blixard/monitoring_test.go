package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	promql "github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

// What the dashboard and the alerts ask for is PromQL, as Prometheus itself reads it;
// what it asks for is there to be asked, with the labels that it has, and an alert's
// words name labels that what it asks for leaves.
func TestMonitoringAsksForWhatThereIs(t *testing.T) {
	series := map[string][]string{}
	read := func(d *prometheus.Desc) (name string, labels []string) {
		// Desc{fqName: "x", help: "...", constLabels: {}, variableLabels: {a,b}}
		m := regexp.MustCompile(`fqName: "([^"]*)".*variableLabels: \{([^}]*)\}`).FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("not understood: %v", d)
		}
		return m[1], strings.FieldsFunc(m[2], func(r rune) bool { return r == ',' })
	}
	for _, d := range descriptions {
		name, labels := read(d)
		series[name] = labels
	}
	for _, c := range newCounted().all() {
		about := make(chan *prometheus.Desc, 1)
		c.Describe(about)
		name, labels := read(<-about)
		if !strings.HasSuffix(name, "_seconds") {
			series[name] = labels
			continue
		}
		for suffix, more := range map[string][]string{"_bucket": {"le"}, "_count": nil, "_sum": nil} {
			series[name+suffix] = slices.Concat(labels, more)
		}
	}
	used := map[string]bool{}
	// check says which labels an expression leaves.
	check := func(where, text string) []string {
		t.Helper()
		expr, err := promql.ParseExpr(text)
		if err != nil {
			t.Errorf("%s: %s: %v", where, text, err)
			return nil
		}
		left, err := leaves(expr, series, used)
		if err != nil {
			t.Errorf("%s: %s: %v", where, text, err)
		}
		return left
	}

	b, err := os.ReadFile("../../docs/monitoring/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	strict := yaml.NewDecoder(bytes.NewReader(b))
	strict.KnownFields(true)
	if err := strict.Decode(&rules); err != nil {
		t.Fatal(err)
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			left := check(r.Alert, r.Expr)
			if _, err := model.ParseDuration(r.For); err != nil {
				t.Errorf("%s: for: %v", r.Alert, err)
			}
			for _, text := range slices.Concat(slices.Collect(maps.Values(r.Annotations)), slices.Collect(maps.Values(r.Labels))) {
				if err := says(text, left); err != nil {
					t.Errorf("%s: %q: %v", r.Alert, text, err)
				}
			}
			if r.Alert == "" || r.For == "" || r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s lacks something: %+v", r.Alert, r)
			}
		}
	}

	b, err = os.ReadFile("../../docs/monitoring/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			ID      int
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(b, &board); err != nil {
		t.Fatal(err)
	}
	ids := map[int]bool{}
	for _, p := range board.Panels {
		if ids[p.ID] || len(p.Targets) == 0 {
			t.Errorf("panel %d, %s: its id is used twice, or it shows nothing", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, q := range p.Targets {
			check(p.Title, q.Expr)
		}
	}
	for _, wrong := range []string{
		"blixard_nothing", "sum by (nobody) (blixard_vms)", `blixard_vms{color="red"}`, "sum(rate(blixard_vms)", "rate(blixard_vms)",
		"sum by (phase) (blixard_vms) * on (node) sum by (phase) (blixard_vms)", "histogram_quantile(0.9, blixard_vms)",
	} {
		expr, err := promql.ParseExpr(wrong)
		if err == nil {
			_, err = leaves(expr, series, map[string]bool{})
		}
		if err == nil {
			t.Errorf("nothing is wrong with %s", wrong)
		}
	}
	if len(used) < 24 {
		t.Errorf("only %d series are used", len(used))
	}
}

// leaves says which labels the result of an expression has: of every series the target's
// instance, and its own.
func leaves(e promql.Expr, series map[string][]string, used map[string]bool) ([]string, error) {
	of := func(e promql.Expr) ([]string, error) { return leaves(e, series, used) }
	need := func(have []string, want ...string) error {
		for _, l := range want {
			if !slices.Contains(have, l) {
				return fmt.Errorf("there is no label %s; there are %q", l, have)
			}
		}
		return nil
	}
	switch e := e.(type) {
	case *promql.NumberLiteral, *promql.StringLiteral:
		return nil, nil
	case *promql.ParenExpr:
		return of(e.Expr)
	case *promql.UnaryExpr:
		return of(e.Expr)
	case *promql.SubqueryExpr:
		return of(e.Expr)
	case *promql.MatrixSelector:
		return of(e.VectorSelector)
	case *promql.VectorSelector:
		own, ok := series[e.Name]
		if !ok {
			return nil, fmt.Errorf("there is no series %s", e.Name)
		}
		used[e.Name] = true
		have := append([]string{"instance", "job"}, own...)
		for _, m := range e.LabelMatchers {
			if m.Name == "__name__" {
				continue
			}
			if err := need(have, m.Name); err != nil {
				return nil, fmt.Errorf("%s: %w", e.Name, err)
			}
		}
		return have, nil
	case *promql.AggregateExpr:
		have, err := of(e.Expr)
		if err == nil {
			err = need(have, e.Grouping...)
		}
		if e.Without {
			return slices.DeleteFunc(have, func(l string) bool { return slices.Contains(e.Grouping, l) }), err
		}
		return e.Grouping, err
	case *promql.BinaryExpr:
		left, err := of(e.LHS)
		if err != nil {
			return nil, err
		}
		right, err := of(e.RHS)
		if err != nil {
			return nil, err
		}
		m := e.VectorMatching
		if m == nil || len(left) == 0 || len(right) == 0 {
			return append(left, right...), nil
		}
		if m.On {
			if err := errors.Join(need(left, m.MatchingLabels...), need(right, m.MatchingLabels...)); err != nil {
				return nil, err
			}
			if m.Card == promql.CardOneToOne && !e.Op.IsComparisonOperator() && !e.Op.IsSetOperator() {
				return m.MatchingLabels, nil
			}
		}
		if m.Card == promql.CardOneToMany {
			return append(right, m.Include...), nil
		}
		return append(left, m.Include...), nil
	case *promql.Call:
		var have []string
		for _, a := range e.Args {
			of, err := of(a)
			if err != nil {
				return nil, err
			}
			have = append(have, of...)
		}
		if e.Func.Name == "histogram_quantile" {
			if err := need(have, "le"); err != nil {
				return nil, err
			}
			have = slices.DeleteFunc(have, func(l string) bool { return l == "le" })
		}
		return have, nil
	}
	return nil, fmt.Errorf("nobody has thought of a %T", e)
}

// says reads the words of an alert as Prometheus does, and fails for a label that it
// would have nothing to say of.
func says(text string, labels []string) error {
	words, err := template.New("").Option("missingkey=error").Parse("{{ $labels := .Labels }}{{ $value := .Value }}" + text)
	if err != nil {
		return err
	}
	have := map[string]string{}
	for _, l := range labels {
		have[l] = l
	}
	return words.Execute(io.Discard, map[string]any{"Labels": have, "Value": 1.0})
}
