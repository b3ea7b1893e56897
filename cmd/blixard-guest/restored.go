//go:build linux && amd64

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/guest/agent"
)

// identity is who this guest is: what it was told at its boot, or since, when it
// goes on from a snapshot.
type identity struct {
	out *console

	mu        sync.Mutex
	name, uid string
	attempt   uint64
}

func (i *identity) is() (name, uid string, attempt uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.name, i.uid, i.attempt
}

func (i *identity) become(r agent.RestoredRequest, step time.Duration) {
	i.mu.Lock()
	i.name, i.uid, i.attempt = r.Name, r.UID, r.Attempt
	i.mu.Unlock()
	i.out.say("restored name=%s uid=%s attempt=%d clock=%+.3fs", r.Name, r.UID, r.Attempt, step.Seconds())
}

// refresh takes the seed, the time and the name. One that fails keeps no other back.
func refresh(r agent.RestoredRequest) (step time.Duration, err error) {
	err = reseed(r.Seed)
	now, before := unix.NsecToTimespec(r.UnixNS), time.Now()
	if clockErr := unix.ClockSettime(unix.CLOCK_REALTIME, &now); clockErr != nil {
		err = errors.Join(err, fmt.Errorf("set the clock: %w", clockErr))
	} else {
		step = time.Unix(0, r.UnixNS).Sub(before.Round(0))
	}
	return step, errors.Join(err, setHostname(r.Name))
}

func setHostname(name string) error {
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("set the host's name: %w", err)
	}
	return nil
}

// reseed has the kernel draw from a seed that no other has, and at once: until it does
// that by itself, a minute may pass.
func reseed(seed []byte) error {
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("reseed: %w", err)
	}
	defer f.Close()
	// struct rand_pool_info: bits of entropy, bytes, and those.
	info := make([]byte, 8+(len(seed)+3)&^3)
	binary.LittleEndian.PutUint32(info, uint32(len(seed)*8))
	binary.LittleEndian.PutUint32(info[4:], uint32(len(seed)))
	copy(info[8:], seed)
	if _, _, no := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info[0]))); no != 0 {
		return fmt.Errorf("reseed: RNDADDENTROPY: %w", no)
	}
	if _, _, no := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDRESEEDCRNG, 0); no != 0 {
		return fmt.Errorf("reseed: RNDRESEEDCRNG: %w", no)
	}
	return nil
}
