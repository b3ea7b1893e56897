package kvm

import (
	"testing"
	"time"
	"unsafe"
)

func TestTheKernelsStructs(t *testing.T) {
	if a, b, c := unsafe.Sizeof(regs{}), unsafe.Sizeof(sregs{}), unsafe.Sizeof(memoryRegion{}); a != 144 || b != 312 || c != 32 {
		t.Fatal(a, b, c)
	}
}

func TestTheProbeAlwaysEnds(t *testing.T) {
	dir := t.TempDir()
	begin := time.Now()
	a := Usable(dir, "this boot")
	took := time.Since(begin)
	t.Logf("usable %v after %v: %s", a.Usable, took, a.Why)
	if took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	begin = time.Now()
	if again := Usable(dir, "this boot"); again != a {
		t.Errorf("then %+v", again)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("the kept answer took %v", took)
	}
}
