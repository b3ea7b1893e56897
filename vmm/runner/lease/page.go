package lease

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/shim"
)

// ErrLapsed says that a page's deadline has passed: it is never extended again,
// and the host needs another epoch.
var ErrLapsed = errors.New("lease has lapsed")

// Page is one mapped lease page.
type Page struct {
	path string
	mem  []byte
}

// Create makes the page's file in dir, or opens the one that is there for the
// same host and lease. It is there at once and whole, or not at all. The
// deadline of a page that exists is left as it is.
func Create(dir string, p shim.Page) (*Page, error) {
	b, err := shim.EncodePage(p)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("lease page: %w", err)
	}
	path := filepath.Join(dir, shim.PageName(p))
	f, err := os.CreateTemp(dir, ".lease-*")
	if err != nil {
		return nil, fmt.Errorf("lease page: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return nil, fmt.Errorf("lease page %s: %w", path, err)
	}
	// Not rename: shims may have mapped the file that is there.
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("lease page: %w", err)
	}
	return Open(path)
}

// Open maps a page to extend it.
func Open(path string) (*Page, error) { return open(path, unix.O_RDWR, unix.PROT_READ|unix.PROT_WRITE) }

// Watch maps a page to read it: a shim's side.
func Watch(path string) (*Page, error) { return open(path, unix.O_RDONLY, unix.PROT_READ) }

func open(path string, flags, prot int) (*Page, error) {
	// A FIFO must not block us, and no link may lead us elsewhere.
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("lease page %s: %w", path, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("lease page %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != shim.PageSize {
		return nil, fmt.Errorf("%w: %s is no file of %d bytes", shim.ErrPage, path, shim.PageSize)
	}
	mem, err := unix.Mmap(fd, 0, shim.PageSize, prot, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("lease page %s: %w", path, err)
	}
	p := &Page{path, mem}
	if _, err := p.Load(); err != nil {
		p.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// Path is the file's.
func (p *Page) Path() string { return p.path }

// Load reads the page as it is now. Whoever cuts the file short under us gets a
// SIGBUS in us, and so, in a shim, the end of the VM: the safe side.
func (p *Page) Load() (shim.Page, error) {
	var b [shim.PageSize]byte
	copy(b[:], p.mem)
	binary.NativeEndian.PutUint64(b[shim.DeadlineAt:], atomic.LoadUint64(p.word()))
	return shim.DecodePage(b[:])
}

// Extend moves the deadline up to at least deadline. It never moves down, and
// never once it has passed: then ErrLapsed, for ever.
func (p *Page) Extend(deadline uint64) error {
	for {
		raw := atomic.LoadUint64(p.word())
		old := swap(raw)
		if Now() >= old {
			return ErrLapsed
		}
		if deadline <= old {
			return nil
		}
		if !atomic.CompareAndSwapUint64(p.word(), raw, swap(deadline)) {
			continue
		}
		// We may have been stopped between the look and the store. What the shims
		// had armed has ended their VMs; this page must start no others. (One that
		// did start meanwhile ends at deadline, which was granted: safe.)
		if Now() >= old {
			atomic.CompareAndSwapUint64(p.word(), swap(deadline), raw)
			return ErrLapsed
		}
		return nil
	}
}

// Close unmaps the page. The file stays.
func (p *Page) Close() error {
	mem := p.mem
	p.mem = nil
	if mem == nil {
		return nil
	}
	return unix.Munmap(mem)
}

func (p *Page) word() *uint64 { return (*uint64)(unsafe.Pointer(&p.mem[shim.DeadlineAt])) }

// swap turns the page's little-endian word into the machine's, and back.
func swap(v uint64) uint64 {
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], v)
	return binary.LittleEndian.Uint64(b[:])
}
