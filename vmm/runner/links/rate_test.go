package links

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds hold for what passes between two taps of a bridge, each in its direction and
// on its tap alone.
func TestRatesHold(t *testing.T) {
	namespace(t)
	l := New(t.TempDir(), "me")
	const rate, burst = 400_000, 64 << 10
	vms := map[string]Plug{
		"free":     {Bridge: "lan", Address: "10.1.0.1/24"},
		"free2":    {Bridge: "lan", Address: "10.1.0.1/24"},
		"sends":    {Bridge: "lan", Address: "10.1.0.1/24", Send: Rate{BytesPerSecond: rate, BurstBytes: burst}},
		"receives": {Bridge: "lan", Address: "10.1.0.1/24", Receive: Rate{BytesPerSecond: rate, BurstBytes: burst}},
	}
	taps := map[string]int{}
	for uid, p := range vms {
		if err := l.Plug(uid, []Plug{p}, nil); err != nil {
			t.Fatal(err)
		}
		taps[uid] = openTap(t, l.Tap(uid, 0))
	}
	const seconds = 1.0
	for _, c := range []struct {
		from, to string
		bound    bool
	}{
		{"free", "free2", false}, {"sends", "free", true}, {"free", "sends", false}, {"free", "receives", true}, {"receives", "free", false},
	} {
		drain(taps[c.to])
		got := float64(send(t, taps[c.from], taps[c.to], seconds*float64(time.Second)))
		most := rate*seconds + burst + 1600
		t.Logf("from %s to %s: %.0f kB in %v s", c.from, c.to, got/1000, seconds)
		switch {
		case c.bound && (got > most*1.05 || got < rate*seconds/2):
			t.Errorf("from %s to %s: %.0f bytes, with a bound of %.0f", c.from, c.to, got, most)
		case !c.bound && got < 2*most: // it sends 8 times the bound
			t.Errorf("from %s to %s: %.0f bytes, although nothing bounds it", c.from, c.to, got)
		}
		time.Sleep(200 * time.Millisecond) // for what still waits in a queue
	}
}

// openTap is what a hypervisor does with a tap.
func openTap(t *testing.T, name string) int {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		t.Fatal(err)
	}
	return fd
}

const vnetHeader = 10

// send sends frames, in even steps and many more than the bounds let through, and
// counts the bytes that come out at the other end meanwhile.
func send(t *testing.T, from, to int, d float64) (bytes int) {
	t.Helper()
	frame := make([]byte, vnetHeader+1400)
	copy(frame[vnetHeader:], []byte{
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0xb1, 0, 0, 0, 9, 0x88, 0xb5, // to all, of a kind for experiments
	})
	buf := make([]byte, 1<<16)
	for begin, sent := time.Now(), 0; ; {
		gone := float64(time.Since(begin))
		if gone > d {
			return bytes
		}
		for float64(sent*1400) < 8*400_000*gone/float64(time.Second) {
			if _, err := unix.Write(from, frame); err != nil {
				break
			}
			sent++
		}
		for {
			n, err := unix.Read(to, buf)
			if err != nil {
				break
			}
			if n == len(frame) {
				bytes += n - vnetHeader
			}
		}
		time.Sleep(time.Millisecond)
	}
}

func drain(tap int) {
	buf := make([]byte, 1<<16)
	for {
		if _, err := unix.Read(tap, buf); err != nil {
			return
		}
	}
}
