//go:build linux && amd64

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/guest/agent"
)

// What needs a machine of its own is tested by the boots in vmm/guest.

// TestMain lets the test program be the applets too, so that an exec has
// something to run whose behaviour we know.
func TestMain(m *testing.M) {
	if name := filepath.Base(os.Args[0]); applets[name] != nil {
		os.Exit(applet(name, os.Args[1:]))
	}
	os.Exit(m.Run())
}

// appletPath is the path of an applet by that name.
func appletPath(t *testing.T, name string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	return link
}

func event(kind, code uint16, value uint32) []byte {
	e := make([]byte, 16, inputEventSize)
	e = binary.LittleEndian.AppendUint16(e, kind)
	e = binary.LittleEndian.AppendUint16(e, code)
	return binary.LittleEndian.AppendUint32(e, value)
}

func TestPowerPresses(t *testing.T) {
	press, release, sync := event(1, 116, 1), event(1, 116, 0), event(0, 0, 0)
	for name, c := range map[string]struct {
		events [][]byte
		want   int
	}{
		"nothing":      {nil, 0},
		"one press":    {[][]byte{press, sync, release, sync}, 1},
		"two":          {[][]byte{press, release, press}, 2},
		"release only": {[][]byte{release}, 0},
		"another key":  {[][]byte{event(1, 30, 1)}, 0},
		"not a key":    {[][]byte{event(2, 116, 1)}, 0},
		"half a press": {[][]byte{press[:20]}, 0},
	} {
		if got := powerPresses(bytes.Join(c.events, nil)); got != c.want {
			t.Errorf("%s: %d presses, want %d", name, got, c.want)
		}
	}
}

func TestFindPort(t *testing.T) {
	class := t.TempDir()
	for port, name := range map[string]string{"vport0p1": "org.qemu.guest_agent.0\n", "vport1p1": agent.Port + "\n"} {
		if err := os.Mkdir(filepath.Join(class, port), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(class, port, "name"), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := findPort(class, agent.Port); got != "/dev/vport1p1" {
		t.Errorf("got %q", got)
	}
	if got := findPort(class, "org.blixard"); got != "" {
		t.Errorf("a name that no port has: %q", got)
	}
}

// ask has the agent handle a line and waits for the response.
func ask(t *testing.T, s *agentState, line string) agent.Response {
	t.Helper()
	responses := make(chan agent.Response, 1)
	s.handle([]byte(line), func(r agent.Response) { responses <- r })
	select {
	case r := <-responses:
		return r
	case <-time.After(time.Minute):
		t.Fatalf("no response to %s", line)
		panic("unreachable")
	}
}

func TestEveryRequestIsAnswered(t *testing.T) {
	asked := make(chan struct{}, 1)
	s := &agentState{who: &identity{name: "web", uid: "u-1", attempt: 2}, shutdown: asked}
	if r := ask(t, s, `{"id":1,"op":"ping"}`); r.ID != 1 || !r.OK || r.Name != "web" {
		t.Errorf("ping: %+v", r)
	}
	if r := ask(t, s, `{"id":2,"op":"info"}`); !r.OK || r.Info == nil || r.Info.UID != "u-1" || r.Info.Attempt != 2 || r.Info.MemTotalBytes == 0 {
		t.Errorf("info: %+v", r)
	}
	if r := ask(t, s, `{"id":3,"op":"dance"}`); r.ID != 3 || r.OK || !strings.Contains(r.Error, "unknown op") {
		t.Errorf("unknown op: %+v", r)
	}
	if r := ask(t, s, `rubbish`); r.OK || r.Error == "" {
		t.Errorf("rubbish: %+v", r)
	}
	for range 2 { // asked twice is asked once
		if r := ask(t, s, `{"id":4,"op":"shutdown"}`); !r.OK {
			t.Errorf("shutdown: %+v", r)
		}
	}
	if len(asked) != 1 {
		t.Errorf("asked to shut down %d times", len(asked))
	}
}

// One that goes on from a snapshot becomes who it is told to be; what did not work is
// said, and it is that one all the same.
func TestARestoredGuestIsTold(t *testing.T) {
	said, err := os.Create(filepath.Join(t.TempDir(), "console"))
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	var got agent.RestoredRequest
	var fails error
	s := &agentState{who: &identity{out: &console{said}, name: "web", uid: "u-1", attempt: 2}, refresh: func(r agent.RestoredRequest) (time.Duration, error) {
		got = r
		return 90500 * time.Millisecond, fails
	}}
	line := func(seed int, name string) string {
		b, err := agent.Encode(agent.Request{ID: 5, Op: agent.Restored, Restored: &agent.RestoredRequest{UnixNS: 7, Seed: make([]byte, seed), Name: name, UID: "u-2", Attempt: 1}})
		if err != nil {
			t.Fatal(err)
		}
		return string(bytes.TrimSpace(b))
	}
	if r := ask(t, s, line(agent.MinSeed-1, "copy")); r.OK || !strings.Contains(r.Error, "restored.seed is 31 bytes") || got.UnixNS != 0 {
		t.Errorf("%+v", r)
	}
	if r := ask(t, s, line(agent.MinSeed, "copy")); !r.OK || r.Name != "copy" || r.Restored == nil || r.Restored.StepMS != 90500 || got.UnixNS != 7 {
		t.Errorf("%+v", r)
	}
	if r := ask(t, s, `{"id":2,"op":"info"}`); r.Info == nil || r.Info.UID != "u-2" || r.Info.Attempt != 1 {
		t.Errorf("%+v", r.Info)
	}
	fails = errors.New("no clock")
	if r := ask(t, s, line(agent.MinSeed, "again")); r.OK || r.Error != "no clock" {
		t.Errorf("%+v", r)
	}
	if name, _, _ := s.who.is(); name != "again" {
		t.Error(name)
	}
	if b, _ := os.ReadFile(said.Name()); !strings.Contains(string(b), "blixard-guest: restored name=copy uid=u-2 attempt=1 clock=+90.500s\n") {
		t.Errorf("%s", b)
	}
}

func TestTooManyProgramsAreRefused(t *testing.T) {
	s := &agentState{who: new(identity)}
	for range maxPrograms {
		s.running.enter(maxPrograms)
	}
	line := `{"id":1,"op":"exec","exec":{"argv":["true"]}}`
	if r := ask(t, s, line); r.OK || !strings.Contains(r.Error, "busy") {
		t.Errorf("one too many: %+v", r)
	}
	s.running.leave()
	if r := ask(t, s, line); strings.Contains(r.Error, "busy") {
		t.Errorf("once one has ended: %+v", r)
	}
}

func TestUname(t *testing.T) {
	u := &unix.Utsname{}
	copy(u.Sysname[:], "Linux")
	copy(u.Nodename[:], "web")
	copy(u.Release[:], "6.1")
	copy(u.Version[:], "#1 SMP")
	copy(u.Machine[:], "x86_64")
	for args, want := range map[string]string{
		"": "Linux", "-n": "web", "-r": "6.1", "-m -n": "web x86_64", "-sr": "Linux 6.1", "-a": "Linux web 6.1 #1 SMP x86_64",
	} {
		if got, err := unameLine(u, strings.Fields(args)); got != want || err != nil {
			t.Errorf("uname %s: %q %v, want %q", args, got, err, want)
		}
	}
	for _, bad := range []string{"-x", "n", "-"} {
		if got, err := unameLine(u, []string{bad}); err == nil {
			t.Errorf("uname %s: %q", bad, got)
		}
	}
}

// What is not there is named, with what is.
func TestRunNothing(t *testing.T) {
	for _, name := range []string{"no-such-program", "/none"} {
		if _, err := run(agent.ExecRequest{Argv: []string{name}}); err == nil || !strings.Contains(err.Error(), "run "+name+": there is no such program in this guest; its own are cat, date, echo") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRun(t *testing.T) {
	r, err := run(agent.ExecRequest{Argv: []string{appletPath(t, "cat")}, Stdin: bytes.Repeat([]byte("x"), agent.MaxOutput+1)})
	if err != nil || r.Exit != 0 || len(r.Stdout) != agent.MaxOutput || !r.Bounded {
		t.Errorf("too much output: %v, %d bytes", err, len(r.Stdout))
	}
	r, err = run(agent.ExecRequest{Argv: []string{appletPath(t, "env")}, Env: []string{"BLIXARD_TEST=yes"}})
	if err != nil || !strings.Contains(string(r.Stdout), "BLIXARD_TEST=yes\n") || r.Bounded {
		t.Errorf("environment: %v, %+v", err, r)
	}
	r, err = run(agent.ExecRequest{Argv: []string{appletPath(t, "false")}})
	if err != nil || r.Exit != 1 {
		t.Errorf("a program that fails: %v, %+v", err, r)
	}
	r, err = run(agent.ExecRequest{Argv: []string{appletPath(t, "sleep"), "1h"}, TimeoutMS: 50})
	if err != nil || !r.TimedOut || r.Exit != 128+9 {
		t.Errorf("a program that takes too long: %v, %+v", err, r)
	}
	if r, err = run(agent.ExecRequest{Argv: []string{"/no/such/program"}}); err == nil {
		t.Errorf("no such program: %+v", r)
	}
}

func TestWhereAResetEndsTheMachine(t *testing.T) {
	for cmdline, want := range map[string]bool{
		"console=ttyS0 reboot=k panic=-1": true, "reboot=k reboot=t": false, "reboot=t": false, "": false, "xreboot=k": false, "reboot=kx": false,
	} {
		if endsByReset(cmdline) != want {
			t.Errorf("%q", cmdline)
		}
	}
}

// A file travels in pieces; what is no file is refused.
func TestFilesInPieces(t *testing.T) {
	s := &agentState{who: new(identity)}
	dir := t.TempDir()
	path := dir + "/file"
	say := func(r agent.Request) agent.Response {
		t.Helper()
		r.ID = 1
		line, err := agent.Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		return ask(t, s, string(bytes.TrimSpace(line)))
	}
	whole := bytes.Repeat([]byte("0123456789"), agent.MaxOutput/5)
	for at := 0; at < len(whole); at += agent.MaxOutput {
		piece := whole[at:min(at+agent.MaxOutput, len(whole))]
		if r := say(agent.Request{Op: agent.Write, Write: &agent.WriteRequest{Path: path, Offset: int64(at), Mode: 0o640, Data: piece}}); !r.OK {
			t.Fatal(r.Error)
		}
	}
	var got []byte
	for end := false; !end; {
		r := say(agent.Request{Op: agent.Read, Read: &agent.ReadRequest{Path: path, Offset: int64(len(got))}})
		if !r.OK || r.Read.Mode != 0o640 {
			t.Fatalf("%+v", r)
		}
		got, end = append(got, r.Read.Data...), r.Read.End
	}
	if !bytes.Equal(got, whole) {
		t.Errorf("%d bytes came back of %d", len(got), len(whole))
	}
	// Written again, it is cut first.
	say(agent.Request{Op: agent.Write, Write: &agent.WriteRequest{Path: path, Data: []byte("short")}})
	if r := say(agent.Request{Op: agent.Read, Read: &agent.ReadRequest{Path: path}}); string(r.Read.Data) != "short" || !r.Read.End {
		t.Errorf("%+v", r.Read)
	}
	for want, r := range map[string]agent.Request{
		"is a directory":   {Op: agent.Read, Read: &agent.ReadRequest{Path: dir}},
		"no regular file":  {Op: agent.Read, Read: &agent.ReadRequest{Path: "/dev/zero"}},
		"no such file":     {Op: agent.Write, Write: &agent.WriteRequest{Path: dir + "/none", Offset: 5}},
		"no absolute path": {Op: agent.Write, Write: &agent.WriteRequest{Path: "x"}},
		"needs read.path":  {Op: agent.Read},
	} {
		if a := say(r); a.OK || !strings.Contains(a.Error, want) {
			t.Errorf("want %q: %+v", want, a)
		}
	}
}
