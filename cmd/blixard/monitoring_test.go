package main

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// What the dashboard and the alerts ask for is there to be asked, with the labels that
// it has, and their expressions have as many brackets closed as opened. It is no
// parser of PromQL.
func TestMonitoringAsksForWhatThereIs(t *testing.T) {
	labels := map[string][]string{
		"blixard_request_duration_seconds_bucket": {"method", "code", "le"},
		"blixard_request_duration_seconds_count":  {"method", "code"},
	}
	for _, d := range descriptions {
		// Desc{fqName: "x", help: "...", constLabels: {}, variableLabels: {a,b}}
		m := regexp.MustCompile(`fqName: "([^"]*)".*variableLabels: \{([^}]*)\}`).FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("not understood: %v", d)
		}
		labels[m[1]] = strings.FieldsFunc(m[2], func(r rune) bool { return r == ',' })
	}
	used := map[string]bool{}
	check := func(where, expr string) {
		t.Helper()
		for _, pair := range []string{"()", "{}", "[]"} {
			if strings.Count(expr, pair[:1]) != strings.Count(expr, pair[1:]) {
				t.Errorf("%s: %s: %s do not match", where, expr, pair)
			}
		}
		series := regexp.MustCompile(`(blixard_\w+)(\{[^}]*\})?`).FindAllStringSubmatch(expr, -1)
		if len(series) == 0 {
			t.Errorf("%s asks for nothing of ours: %s", where, expr)
		}
		var known []string
		for _, s := range series {
			names, ok := labels[s[1]]
			if !ok {
				t.Errorf("%s: there is no %s", where, s[1])
			}
			used[s[1]] = true
			known = append(known, names...)
			for _, l := range regexp.MustCompile(`(\w+)\s*(=~|!=|!~|=)`).FindAllStringSubmatch(s[2], -1) {
				if !slices.Contains(names, l[1]) {
					t.Errorf("%s: %s has no label %s", where, s[1], l[1])
				}
			}
		}
		for _, by := range regexp.MustCompile(`by \(([^)]*)\)`).FindAllStringSubmatch(expr, -1) {
			for _, l := range strings.Split(by[1], ",") {
				if l = strings.TrimSpace(l); l != "instance" && !slices.Contains(known, l) {
					t.Errorf("%s: by %s, which nothing in it has", where, l)
				}
			}
		}
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
			check(r.Alert, r.Expr)
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
	if len(used) < 12 {
		t.Errorf("only %d series are used", len(used))
	}
}
