package shim

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

var testPage = Page{Host: testHost, Lease: 15 * second, Deadline: 123 * second}

// The layout is frozen: a shim of an older release reads it. If this test
// fails, the change is wrong, not the test.
func TestPageLayout(t *testing.T) {
	b, err := EncodePage(testPage)
	if err != nil {
		t.Fatal(err)
	}
	want := "424c584c45415345" + "01000000" + "00000000" + // magic, version
		"0300000000000000" + "0700000000000000" + // generation, epoch
		"6e62c347663341278433" + "8d72daad827e" + // boot id
		"02" + "6831" + strings.Repeat("00", 61) + // host id
		"00d6117e03000000" + "00000000" // L
	if got := hex.EncodeToString(b[:pageCRC]); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := hex.EncodeToString(b[pageCRC:136]); got != "386e33bc"+"000e5fa31c000000" {
		t.Errorf("checksum and deadline: %s", got)
	}
	if len(bytes.Trim(b[136:], "\x00")) != 0 || len(b) != 4096 {
		t.Error("tail is not zero")
	}
	if p, err := DecodePage(b); err != nil || p != testPage {
		t.Errorf("decoded %+v, %v", p, err)
	}
	if name := PageName(testPage); name != "g3-"+testBoot+"-e7-15000000000ns.lease" {
		t.Error(name)
	}
}

// Any flipped bit before the deadline is refused.
func TestPageBitRot(t *testing.T) {
	b, _ := EncodePage(testPage)
	for i := range DeadlineAt * 8 {
		b[i/8] ^= 1 << (i % 8)
		if _, err := DecodePage(b); !errors.Is(err, ErrPage) {
			t.Fatalf("bit %d flipped: %v", i, err)
		}
		b[i/8] ^= 1 << (i % 8)
	}
	if _, err := DecodePage(b[:PageSize-1]); !errors.Is(err, ErrPage) {
		t.Error("a short page passed")
	}
}

func FuzzPage(f *testing.F) {
	b, _ := EncodePage(testPage)
	f.Add(b[:136])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, head []byte) {
		b := make([]byte, PageSize)
		copy(b, head)
		p, err := DecodePage(b)
		if err != nil {
			if !errors.Is(err, ErrPage) || p != (Page{}) {
				t.Fatalf("%+v, %v", p, err)
			}
			return
		}
		again, err := EncodePage(p)
		if err != nil || !bytes.Equal(again[:136], b[:136]) {
			t.Fatalf("%+v does not encode as it was: %v", p, err)
		}
	})
}

func FuzzStart(f *testing.F) {
	f.Add([]byte(`{"version":1,"instance":{"uid":"u"},"host":{"id":"h","boot":"` + testBoot + `"},"argv":["/bin/vm"]}`))
	f.Add([]byte(`{"version":1`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeStart(b)
		if err == nil {
			err = s.Validate()
		} else if !errors.Is(err, ErrStart) {
			t.Fatal(err)
		} else {
			err = nil
		}
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestStartIsStrict(t *testing.T) {
	good := `{"version":1,"instance":{"uid":"u"},"host":{"id":"h","boot":"` + testBoot + `"},"argv":["/bin/vm"]}`
	if _, err := DecodeStart([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"half written":  good[:len(good)-1],
		"two objects":   good + good,
		"unknown field": strings.Replace(good, "{", `{"holdIt":true,`, 1),
		"newer version": strings.Replace(good, `"version":1`, `"version":2`, 1),
		"no uid":        strings.Replace(good, `"u"`, `""`, 1),
		"no program":    strings.Replace(good, `["/bin/vm"]`, `[]`, 1),
		"relative":      strings.Replace(good, `/bin/vm`, `vm`, 1),
		"NUL":           strings.Replace(good, `/bin/vm`, `/bin/vm\u0000`, 1),
		"boot":          strings.Replace(good, testBoot, strings.ToUpper(testBoot), 1),
		"page":          strings.Replace(good, "{", `{"page":"a.lease",`, 1),
		"env":           strings.Replace(good, "{", `{"env":["=x"],`, 1),
		"empty":         "",
		"null":          "null",
		"huge":          strings.Repeat(" ", MaxStart) + good,
	} {
		if _, err := DecodeStart([]byte(bad)); !errors.Is(err, ErrStart) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"v":1,"id":7,"type":"kill","signal":15}`))
	f.Add([]byte(`{"v":1,"id":8,"type":"rebind","page":"/a"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := DecodeRequest(line)
		if err != nil {
			if !errors.Is(err, ErrMessage) {
				t.Fatal(err)
			}
			return
		}
		// Whatever a daemon asks, a running machine answers it or does it.
		m := Machine{Phase: Running, Path: "/p", Host: testHost, Deadline: 200 * second}
		if out := m.Step(100*second, Input{Kind: Asked, Conn: 1, Request: r}); len(out) == 0 {
			t.Fatalf("no answer to %+v", r)
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"type":"hello","min":1,"max":1,"state":{"phase":"running"}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := DecodeMessage(line)
		if err != nil {
			return
		}
		again, err := DecodeMessage(EncodeLine(m))
		if len(EncodeLine(m)) <= MaxLine && (err != nil || !reflect.DeepEqual(m, again)) {
			t.Fatalf("%+v became %+v, %v", m, again, err)
		}
	})
}

func TestNegotiate(t *testing.T) {
	for _, c := range []struct{ min, max, want int }{{1, 1, 1}, {1, 9, 1}, {2, 3, 0}} {
		v, err := Negotiate(Message{Min: c.min, Max: c.max})
		if v != c.want || (err == nil) != (c.want > 0) {
			t.Errorf("%+v: %d, %v", c, v, err)
		}
	}
}

// What one program alone is written as is what shims before lists of them read.
func TestPrograms(t *testing.T) {
	for text, p := range map[string]Programs{
		`{"beside":["/a","b"]}`:          {{"/a", "b"}},
		`{"beside":[["/a","b"],["/c"]]}`: {{"/a", "b"}, {"/c"}},
		`{}`:                             nil,
	} {
		b, err := json.Marshal(Steps{Beside: p})
		if err != nil || string(b) != text {
			t.Errorf("%v is %s, not %s (%v)", p, b, text, err)
		}
		var s Steps
		if err := json.Unmarshal([]byte(text), &s); err != nil || !reflect.DeepEqual(s.Beside, p) {
			t.Errorf("%s is %v (%v)", text, s.Beside, err)
		}
	}
	if err := json.Unmarshal([]byte(`{"beside":"/a"}`), new(Steps)); err == nil {
		t.Error("a word alone is a list of programs")
	}
}
