package boot

import (
	"fmt"
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
		{line: "blixard.work=64", want: Params{Tick: DefaultTick, Work: 64}},
		{line: "blixard.work=many", want: Params{Tick: DefaultTick}, err: "blixard.work=many"},
		{line: "blixard.name=a=b", want: Params{Name: "a=b", Tick: DefaultTick}},
		{line: "blixard.name=a -- blixard.name=b", want: Params{Name: "a", Tick: DefaultTick}},
		{line: "blixard.count=data", want: Params{Tick: DefaultTick, Count: "data"}},
		{line: "blixard.behave=exit=3", want: Params{Tick: DefaultTick, Behave: Behaviour{Kind: Exit, Code: 3}}},
		{line: "blixard.behave=crash-after=5s", want: Params{Tick: DefaultTick, Behave: Behaviour{Kind: CrashAfter, After: 5 * time.Second}}},
		{
			line: "ip=10.0.0.2::10.0.0.1:255.255.255.0:web:eth0:off:10.0.0.9 ifname=eth0:02:00:00:00:00:0A ip=dhcp ip=10.9.0.7:::255.0.0.0::eth1:none",
			want: Params{Tick: DefaultTick, Nets: Nets{
				{Device: "eth0", MAC: "02:00:00:00:00:0a", Addr: netip.MustParsePrefix("10.0.0.2/24"), Gateway: netip.MustParseAddr("10.0.0.1"), DNS: [2]netip.Addr{netip.MustParseAddr("10.0.0.9")}},
				{Device: "eth1", Addr: netip.MustParsePrefix("10.9.0.7/8")},
			}},
		},
		// What is wrong is named, what is right still counts.
		{line: "blixard.tick=0s blixard.name=a", want: Params{Name: "a", Tick: DefaultTick}, err: "blixard.tick=0s: want at least"},
		{line: "blixard.tick=soon", want: Params{Tick: DefaultTick}, err: "want a duration"},
		{line: "blixard.attempt=-1", want: Params{Tick: DefaultTick}, err: "blixard.attempt=-1"},
		{line: "blixard.behave=exit=2", want: Params{Tick: DefaultTick}, err: "odd"},
		{line: "blixard.behave=sing", want: Params{Tick: DefaultTick}, err: "want normal, deaf"},
		{line: "blixard.behave=crash-after", want: Params{Tick: DefaultTick}, err: "want a duration"},
		{line: "ip=10.0.0.2:::255.0.255.0::eth0:off", want: Params{Tick: DefaultTick}, err: "netmask"},
		{line: "ip=10.0.0.2::x:255.0.0.0::eth0:off", want: Params{Tick: DefaultTick}, err: "gateway"},
		{line: "ip=:::255.0.0.0::eth0:off", want: Params{Tick: DefaultTick}, err: "IPv4"},
		{line: "ifname=eth0:02", want: Params{Tick: DefaultTick}, err: "DEVICE:MAC"},
		{line: "blixard.dial=nowhere", want: Params{Tick: DefaultTick}, err: "blixard.dial"},
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
		for i := range rapid.IntRange(0, MaxNets).Draw(t, "nets") {
			octet := func(name string) byte { return rapid.Byte().Draw(t, name) }
			p.Nets[i] = Net{
				Device: fmt.Sprint("eth", i), Addr: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, octet("a"), octet("b")}), rapid.IntRange(1, 32).Draw(t, "bits")),
			}
			if rapid.Bool().Draw(t, "more") {
				p.Nets[i].MAC = fmt.Sprintf("02:00:00:00:00:%02x", octet("mac"))
				p.Nets[i].Gateway = netip.AddrFrom4([4]byte{10, 0, 0, octet("gateway")})
				p.Nets[i].DNS[rapid.IntRange(0, 1).Draw(t, "dns")] = netip.AddrFrom4([4]byte{10, 0, 0, octet("server")})
			}
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
