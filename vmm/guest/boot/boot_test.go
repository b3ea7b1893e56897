package boot

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		line string
		want Params
		err  string // part of the error; "" for none
	}{
		{line: "", want: Params{Tick: DefaultTick}},
		{line: "console=ttyS0 quiet panic=-1\n", want: Params{Tick: DefaultTick}},
		{
			line: "quiet blixard.name=web blixard.uid=u-1 blixard.attempt=3 blixard.tick=250ms blixard.behave=deaf",
			want: Params{Name: "web", UID: "u-1", Attempt: 3, Tick: 250 * time.Millisecond, Behave: Behaviour{Kind: Deaf}},
		},
		{line: `blixard.name="two words" x="blixard.uid=no"`, want: Params{Name: "two words", Tick: DefaultTick}},
		{line: `"blixard.name=quoted whole"`, want: Params{Name: "quoted whole", Tick: DefaultTick}},
		{line: "blixard.name=a blixard.name=b", want: Params{Name: "b", Tick: DefaultTick}},
		{line: "blixard.name=a=b", want: Params{Name: "a=b", Tick: DefaultTick}},
		{line: "blixard.name=a -- blixard.name=b", want: Params{Name: "a", Tick: DefaultTick}},
		{line: "blixard.behave=exit=3", want: Params{Tick: DefaultTick, Behave: Behaviour{Kind: Exit, Code: 3}}},
		{line: "blixard.behave=crash-after=5s", want: Params{Tick: DefaultTick, Behave: Behaviour{Kind: CrashAfter, After: 5 * time.Second}}},
		{
			line: "blixard.ip=10.0.0.2/24,10.0.0.1",
			want: Params{Tick: DefaultTick, Net: Net{Addr: netip.MustParsePrefix("10.0.0.2/24"), Gateway: netip.MustParseAddr("10.0.0.1")}},
		},
		// What is wrong is named, what is right still counts.
		{line: "blixard.tick=0s blixard.name=a", want: Params{Name: "a", Tick: DefaultTick}, err: "blixard.tick=0s: want at least"},
		{line: "blixard.tick=soon", want: Params{Tick: DefaultTick}, err: "want a duration"},
		{line: "blixard.attempt=-1", want: Params{Tick: DefaultTick}, err: "blixard.attempt=-1"},
		{line: "blixard.behave=exit=2", want: Params{Tick: DefaultTick}, err: "odd"},
		{line: "blixard.behave=sing", want: Params{Tick: DefaultTick}, err: "want normal, deaf"},
		{line: "blixard.behave=crash-after", want: Params{Tick: DefaultTick}, err: "want a duration"},
		{line: "blixard.ip=fe80::1/64", want: Params{Tick: DefaultTick}, err: "IPv4"},
		{line: "blixard.ip=10.0.0.2/24,", want: Params{Tick: DefaultTick}, err: "gateway"},
		{line: "blixard.nmae=a", want: Params{Tick: DefaultTick}, err: "no such parameter"},
	} {
		got, err := Parse(c.line)
		if got != c.want {
			t.Errorf("Parse(%q)\n got %+v\nwant %+v", c.line, got, c.want)
		}
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("Parse(%q): error %v, want %q", c.line, err, c.err)
		}
	}
}

func TestWhatACommandLineCannotCarryIsRefused(t *testing.T) {
	for _, name := range []string{"a\"b", "a\nb", "a\x00b", "\t", "\x7f"} {
		if line, err := (Params{Name: name}).Cmdline(); err == nil {
			t.Errorf("name %q became %q", name, line)
		}
	}
}

// Parse undoes Cmdline, for every Params, whatever a name tries: no value can
// become a word of its own.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[a-z=,. -]{0,20}`)
		p := Params{
			Name:    text.Draw(t, "name"),
			UID:     text.Draw(t, "uid"),
			Attempt: rapid.Uint64().Draw(t, "attempt"),
			Tick:    time.Duration(rapid.Int64Range(int64(minTick), int64(time.Hour)).Draw(t, "tick")),
			Behave: rapid.SampledFrom([]Behaviour{
				{}, {Kind: Deaf}, {Kind: Exit}, {Kind: Exit, Code: 7}, {Kind: Panic},
				{Kind: Reboot}, {Kind: Hang}, {Kind: CrashAfter, After: 1500 * time.Millisecond},
			}).Draw(t, "behave"),
		}
		line, err := p.Cmdline()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse("console=ttyS0 " + line + " quiet\n")
		if err != nil || got != p {
			t.Fatalf("%q parsed as %+v, %v; want %+v", line, got, err, p)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add("console=ttyS0 blixard.name=\"a b\" blixard.behave=exit=3 -- x")
	f.Fuzz(func(t *testing.T, line string) {
		p, _ := Parse(line)
		again, err := p.Cmdline()
		if err != nil {
			return // a name the kernel would have split differently
		}
		if back, err := Parse(again); err != nil || back != p {
			t.Fatalf("%q: %+v came back as %+v, %v", line, p, back, err)
		}
	})
}
