package vmdir

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A test program that is told so ends its first thread, and goes on in others.
const headless = "BLIXARD_TEST_HEADLESS"

func init() {
	if os.Getenv(headless) == "" {
		return
	}
	runtime.LockOSThread() // the first thread runs this
	go func() {
		time.Sleep(time.Minute)
		os.Exit(0)
	}()
	for {
		unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
	}
}

// A process whose first thread has ended looks like a zombie, and lives as long as it
// has others.
func TestAProcessWithoutItsFirstThread(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{headless + "=1"}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	p := Identify(cmd.Process.Pid)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		now, err := stat(p.PID)
		if err == nil && now.state == 'Z' && now.threads > 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("its first thread does not end: %+v %v", now, err)
		}
	}
	if !Alive(p) {
		t.Error("it counts as dead while it runs")
	}
	if err := unix.Kill(p.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); Alive(p); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("killed, it counts as alive")
		}
	}
	if now, err := stat(p.PID); err != nil || now.state != 'Z' { // not reaped yet
		t.Errorf("%+v %v", now, err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Error(err)
	}
}

// A process that has the number of one that is gone, and began at another time, is a
// stranger: it is not taken for it, and not killed in its place.
func TestAPIDThatIsAnothersNow(t *testing.T) {
	cmd := exec.Command("sleep", "300")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	is := Identify(cmd.Process.Pid)
	for _, start := range []uint64{0, is.Start - 1, is.Start + 1} {
		was := is
		was.Start = start
		if Alive(was) {
			t.Errorf("a process that began at %d is taken for one of %d", is.Start, start)
		}
		if err := KillProcess(was); err != nil {
			t.Error(err)
		}
	}
	select {
	case err := <-ended:
		t.Fatal("the stranger was killed:", err)
	case <-time.After(50 * time.Millisecond):
	}
	if !Alive(is) {
		t.Fatal("it counts as dead")
	}
	if err := KillProcess(is); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || Alive(is) {
		t.Error("it lives:", err)
	}
}
