package agent

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestWireFormat(t *testing.T) {
	// The wire is frozen: a host must understand a guest of another release.
	for _, c := range []struct {
		v    any
		want string
	}{
		{Request{ID: 1, Op: Ping}, `{"id":1,"op":"ping"}`},
		{
			Request{ID: 2, Op: Exec, Exec: &ExecRequest{Argv: []string{"echo", "hi"}, Env: []string{"A=1"}, Stdin: []byte("in"), TimeoutMS: 50}},
			`{"id":2,"op":"exec","exec":{"argv":["echo","hi"],"env":["A=1"],"stdin_b64":"aW4=","timeout_ms":50}}`,
		},
		{Response{ID: 1, OK: true, Name: "web", UptimeMS: 4210}, `{"id":1,"ok":true,"name":"web","uptime_ms":4210}`},
		{
			Response{ID: 2, OK: true, Exec: &ExecResponse{Exit: 7, Stdout: []byte("out"), Bounded: true}},
			`{"id":2,"ok":true,"exec":{"exit":7,"stdout_b64":"b3V0","stderr_b64":null,"bounded":true}}`,
		},
		{Request{ID: 4, Op: Read, Read: &ReadRequest{Path: "/a", Offset: 5}}, `{"id":4,"op":"read","read":{"path":"/a","offset":5}}`},
		{Request{ID: 5, Op: Write, Write: &WriteRequest{Path: "/a", Mode: 384, Data: []byte("in")}}, `{"id":5,"op":"write","write":{"path":"/a","mode":384,"data_b64":"aW4="}}`},
		{Response{ID: 4, OK: true, Read: &ReadResponse{Data: []byte("out"), Mode: 420, End: true}}, `{"id":4,"ok":true,"read":{"data_b64":"b3V0","mode":420,"end":true}}`},
		{Response{ID: 3, Error: "no"}, `{"id":3,"ok":false,"error":"no"}`},
	} {
		got, err := Encode(c.v)
		if err != nil || string(got) != c.want+"\n" {
			t.Errorf("Encode(%+v)\n got %s, %v\nwant %s", c.v, got, err, c.want)
		}
	}
}

func TestDecodeRequestSaysWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		line, want string
		id         uint64
	}{
		{`{"id":7,"op":"fly"}`, `unknown op "fly"`, 7},
		{`{"id":7}`, "no op", 7},
		{`{"id":7,"op":"exec"}`, "needs exec.argv", 7},
		{`{"id":7,"op":"exec","exec":{"argv":[""]}}`, "needs exec.argv", 7},
		{`{"id":7,"op":"exec","exec":{"argv":["a"],"timeout_ms":-1}}`, "negative", 7},
		{`{"id":7,"op":5}`, "cannot unmarshal", 7},
		{`{"id":-7,"op":"ping"}`, "cannot unmarshal", 0},
		{`nonsense`, "invalid character", 0},
	} {
		r, err := DecodeRequest([]byte(c.line))
		if err == nil || !strings.Contains(err.Error(), c.want) || r.ID != c.id {
			t.Errorf("DecodeRequest(%s) = %+v, %v; want id %d and an error with %q", c.line, r, err, c.id, c.want)
		}
	}
}

func TestTheLongestResponseFitsALine(t *testing.T) {
	out := bytes.Repeat([]byte{0xff}, MaxOutput)
	line, err := Encode(Response{ID: 1<<64 - 1, OK: true, Exec: &ExecResponse{Exit: 255, Stdout: out, Stderr: out, Bounded: true, TimedOut: true}})
	if err != nil || len(line) > MaxLine {
		t.Fatalf("%d bytes, %v", len(line), err)
	}
	if _, err := Encode(Request{Op: Exec, Exec: &ExecRequest{Argv: []string{strings.Repeat("x", MaxLine)}}}); !errors.Is(err, ErrLineTooLong) {
		t.Fatalf("a message beyond MaxLine: %v", err)
	}
}

// However a stream is cut into reads, the same lines come out.
func TestLinesDoNotDependOnReads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		stream := rapid.StringMatching(`[ab\n]{0,60}`).Draw(t, "stream")
		var want []string
		whole := strings.Split(stream, "\n")
		for _, line := range whole[:len(whole)-1] {
			if line != "" {
				want = append(want, line)
			}
		}
		var got []string
		var l Lines
		for rest := stream; rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "read")
			if err := l.Feed([]byte(rest[:n]), func(line []byte) { got = append(got, string(line)) }); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}

func TestATooLongLineIsDroppedAndTheNextIsRead(t *testing.T) {
	var l Lines
	var got []string
	yield := func(line []byte) { got = append(got, string(line)) }
	chunk := bytes.Repeat([]byte{'x'}, MaxLine/2+1)
	if err := l.Feed(chunk, yield); err != nil {
		t.Fatal(err)
	}
	if err := l.Feed(chunk, yield); !errors.Is(err, ErrLineTooLong) {
		t.Fatalf("got %v", err)
	}
	if len(l.pending) != 0 {
		t.Fatalf("%d bytes kept of a dropped line", len(l.pending))
	}
	if err := l.Feed([]byte("tail\nnext\r\n"), yield); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, []string{"next"}) {
		t.Fatalf("got %q", got)
	}
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add([]byte(`{"id":1,"op":"ping"}`))
	f.Add([]byte(`{"id":2,"op":"exec","exec":{"argv":["a"],"stdin_b64":"aW4="}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := DecodeRequest(line)
		if err != nil {
			return
		}
		again, err := Encode(r)
		if err != nil {
			return // longer when escaped
		}
		back, err := DecodeRequest(bytes.TrimSpace(again))
		if err != nil || back.ID != r.ID || back.Op != r.Op {
			t.Fatalf("%q decoded to %+v, which came back as %+v, %v", line, r, back, err)
		}
	})
}
