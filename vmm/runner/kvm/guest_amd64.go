package kvm

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The parts of linux/kvm.h that one counting guest needs.
const (
	getAPIVersion       = 0xae00
	createVM            = 0xae01
	getVCPUMmapSize     = 0xae04
	createVCPU          = 0xae41
	setUserMemoryRegion = 0x4020ae46
	run                 = 0xae80
	setRegs             = 0x4090ae82
	getSregs            = 0x8138ae83
	setSregs            = 0x4138ae84

	exitHLT      = 5
	exitReasonAt = 8 // in struct kvm_run
)

type memoryRegion struct {
	slot, flags            uint32
	guest, size, userspace uint64
}

type regs struct {
	rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp uint64
	r8, r9, r10, r11, r12, r13, r14, r15   uint64
	rip, rflags                            uint64
}

type segment struct {
	base                           uint64
	limit                          uint32
	selector                       uint16
	typ, present, dpl, db, s, l, g uint8
	avl, unusable, _               uint8
}

type table struct {
	base  uint64
	limit uint16
	_     [3]uint16
}

type sregs struct {
	cs, ds, es, fs, gs, ss, tr, ldt segment
	gdt, idt                        table
	cr0, cr2, cr3, cr4, cr8         uint64
	efer, apic                      uint64
	interrupts                      [4]uint64
}

// code counts rcx down from a million and halts.
var code = []byte{
	0x48, 0xc7, 0xc1, 0x40, 0x42, 0x0f, 0x00, // mov rcx, 1000000
	0x48, 0xff, 0xc9, // dec rcx
	0x75, 0xfb, // jnz back
	0xf4, // hlt
}

// Guest-physical addresses. The first 2 MiB are mapped onto themselves.
const (
	memory  = 1 << 21
	pml4    = 0x1000
	pdpt    = 0x2000
	pd      = 0x3000
	program = 0x4000
)

// count runs the guest in long mode and says how long it took.
func count() (time.Duration, error) {
	runtime.LockOSThread() // a vCPU belongs to its thread
	kvm, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", device, err)
	}
	if v, err := ioctl(kvm, getAPIVersion, nil, 0); err != nil || v != 12 {
		return 0, fmt.Errorf("KVM's API has version %d (%v), not 12", v, err)
	}
	vm, err := ioctl(kvm, createVM, nil, 0)
	if err != nil {
		return 0, fmt.Errorf("make a VM: %w", err)
	}
	mem, err := unix.Mmap(-1, 0, memory, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0, err
	}
	const present, large = 3, 0x80
	binary.LittleEndian.PutUint64(mem[pml4:], pdpt|present)
	binary.LittleEndian.PutUint64(mem[pdpt:], pd|present)
	binary.LittleEndian.PutUint64(mem[pd:], present|large)
	copy(mem[program:], code)
	region := memoryRegion{size: memory, userspace: uint64(uintptr(unsafe.Pointer(&mem[0])))}
	if _, err := ioctl(vm, setUserMemoryRegion, unsafe.Pointer(&region), 0); err != nil {
		return 0, fmt.Errorf("give it memory: %w", err)
	}
	vcpu, err := ioctl(vm, createVCPU, nil, 0)
	if err != nil {
		return 0, fmt.Errorf("give it a processor: %w", err)
	}
	size, err := ioctl(kvm, getVCPUMmapSize, nil, 0)
	if err != nil {
		return 0, err
	}
	state, err := unix.Mmap(vcpu, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return 0, fmt.Errorf("see the processor's state: %w", err)
	}
	if err := longMode(vcpu); err != nil {
		return 0, err
	}
	begin := time.Now()
	if _, err := ioctl(vcpu, run, nil, 0); err != nil {
		return 0, fmt.Errorf("run: %w", err)
	}
	took := time.Since(begin)
	if reason := binary.LittleEndian.Uint32(state[exitReasonAt:]); reason != exitHLT {
		return 0, fmt.Errorf("the guest ended for reason %d, not at its HLT", reason)
	}
	return took, nil
}

func longMode(vcpu int) error {
	var s sregs
	if _, err := ioctl(vcpu, getSregs, unsafe.Pointer(&s), 0); err != nil {
		return fmt.Errorf("read the processor's registers: %w", err)
	}
	s.cr3, s.cr4, s.cr0, s.efer = pml4, 1<<5, 1<<31|1<<0, 1<<10|1<<8 // PAE; PG, PE; LMA, LME
	flat := segment{limit: 0xffffffff, selector: 8, typ: 11, present: 1, s: 1, l: 1, g: 1}
	s.cs = flat
	flat.typ, flat.selector, flat.l, flat.db = 3, 16, 0, 1
	s.ds, s.es, s.fs, s.gs, s.ss = flat, flat, flat, flat, flat
	if _, err := ioctl(vcpu, setSregs, unsafe.Pointer(&s), 0); err != nil {
		return fmt.Errorf("enter long mode: %w", err)
	}
	r := regs{rip: program, rflags: 2}
	if _, err := ioctl(vcpu, setRegs, unsafe.Pointer(&r), 0); err != nil {
		return fmt.Errorf("set the processor's registers: %w", err)
	}
	return nil
}

// ioctl passes a pointer, or when that is nil a number.
func ioctl(fd int, request uintptr, p unsafe.Pointer, n uintptr) (int, error) {
	if p != nil {
		n = uintptr(p)
	}
	for {
		v, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, n)
		if e == 0 {
			return int(v), nil
		}
		if e != unix.EINTR {
			return int(v), e
		}
	}
}
