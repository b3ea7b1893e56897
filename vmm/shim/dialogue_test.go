package shim

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the dialogues in testdata")

// TestDialogues plays what happened ("> SECONDS INPUT ARGS") and compares what
// the machine then wants done. Lines with # are prose.
func TestDialogues(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.txt")
	if len(files) == 0 {
		t.Fatal("no dialogues")
	}
	for _, file := range files {
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var m Machine
		var got strings.Builder
		for _, line := range strings.Split(strings.TrimSuffix(string(want), "\n"), "\n") {
			said, heard := strings.CutPrefix(line, "> ")
			switch {
			case heard:
				fmt.Fprintln(&got, line)
				now, in := parseInput(t, strings.Fields(said))
				for _, out := range m.Step(now, in) {
					fmt.Fprintln(&got, "  "+formatOutput(out))
				}
			case line == "new":
				m = Machine{}
				fallthrough
			case line == "" || line[0] == '#':
				fmt.Fprintln(&got, line)
			}
		}
		if *rewrite {
			os.WriteFile(file, []byte(got.String()), 0o644)
		} else if got.String() != string(want) {
			t.Errorf("%s: got\n%s", file, got.String())
		}
	}
}

func parseInput(t *testing.T, w []string) (now uint64, in Input) {
	ns := func(s string) uint64 {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			t.Fatal(err)
		}
		return uint64(f * float64(second))
	}
	now, in.Kind = ns(w[0]), InputKind(w[1])
	arg := func(i int) string {
		if len(w) > i+2 {
			return w[i+2]
		}
		return ""
	}
	if arg(0) == "fails" {
		in.Err = "no luck"
		return now, in
	}
	switch in.Kind {
	case Locked:
		in.Held = arg(0) == "held"
	case Loaded:
		in.Start, in.Boot = testStart(arg(0)), testBoot
	case Paged:
		in.Path = arg(0)
		if arg(1) == "fails" {
			in.Err = "no luck"
		} else {
			in.Page = Page{Host: testHost, Deadline: ns(arg(1))}
		}
	case Armed:
		in.Deadline = ns(arg(0))
	case Swept:
		in.Status.Code, _ = strconv.Atoi(arg(0))
	case Asked:
		in.Conn, in.Request = 1, Request{V: 1, ID: 1, Type: arg(0)}
		if in.Request.Type == MsgKill {
			in.Request.Signal, _ = strconv.Atoi(arg(1))
		} else {
			in.Request.Page = arg(1)
		}
	}
	return now, in
}

func formatOutput(o Output) string {
	s := func(ns uint64) string { return strconv.FormatFloat(float64(ns)/float64(second), 'f', -1, 64) }
	switch o.Kind {
	case Read:
		if o.At == 0 {
			return "read " + o.Path
		}
		return "read " + o.Path + " at " + s(o.At)
	case Arm:
		return "arm " + s(o.Deadline)
	case Signal:
		return fmt.Sprint("signal ", o.Signal)
	case Record:
		return strings.TrimSpace(fmt.Sprintf("record %s %d %s", o.Exit.Reason, o.Exit.Code, o.Exit.Error))
	case Reply:
		return strings.TrimSpace("reply " + o.Error)
	case End:
		return fmt.Sprint("end ", o.Code)
	}
	return string(o.Kind)
}
