package runner

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/lease"
	"github.com/blixard/blixard/vmm/shim"
)

// leases are this host's lease pages, one for each epoch and length. A page is
// never deleted while its boot lasts: shims have it mapped, and a page made anew
// would not know that its deadline had passed.
type leases struct {
	dir   string
	pages map[string]*lease.Page // by path; touched by the queue's goroutine only
	log   *slog.Logger
}

// page names the page that binds what is ordered by host under a lease of ms
// milliseconds. An unbound instance has none: ms is 0.
func (l *leases) page(host shim.Host, ms uint32) string {
	if ms == 0 {
		return ""
	}
	return filepath.Join(l.dir, shim.PageName(shim.Page{Host: host, Lease: uint64(ms) * 1e6}))
}

// held lists the pages that are there, of this boot and of whatever epoch.
func (l *leases) held() (all []shim.Page, err error) {
	files, err := os.ReadDir(l.dir)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if filepath.Ext(f.Name()) != ".lease" {
			continue
		}
		p, err := lease.Watch(filepath.Join(l.dir, f.Name()))
		if err != nil {
			l.log.Warn("a lease page cannot be read", "page", f.Name(), "err", err)
			continue
		}
		if page, err := p.Load(); err == nil {
			all = append(all, page)
		}
		p.Close()
	}
	return all, nil
}

// extend says whether a page had lapsed: the core need not know it, as after
// the daemon was away for as long as a lease lasts.
func (l *leases) extend(host shim.Host, all []vmm.Lease) (lapsed bool) {
	for _, x := range all {
		path := l.page(host, x.Length)
		err := l.extendOne(path, host, x)
		if errors.Is(err, lease.ErrLapsed) {
			lapsed = true
			l.log.Debug("a lease that has lapsed is not extended", "page", path)
		} else if err != nil {
			l.log.Error("a lease could not be extended: what it binds will end", "page", path, "err", err)
		}
	}
	return lapsed
}

func (l *leases) extendOne(path string, host shim.Host, x vmm.Lease) error {
	if x.Length == 0 || x.Deadline <= 0 {
		return errors.New("a lease without length or deadline")
	}
	p := l.pages[path]
	if p == nil {
		var err error
		p, err = lease.Create(l.dir, shim.Page{Host: host, Lease: uint64(x.Length) * 1e6, Deadline: uint64(x.Deadline)})
		if err != nil {
			return err
		}
		l.pages[path] = p
	}
	return p.Extend(uint64(x.Deadline))
}

func (l *leases) close() {
	for _, p := range l.pages {
		p.Close()
	}
}

// lapsed says whether the page's deadline has passed.
func lapsed(path string) bool {
	p, err := lease.Watch(path)
	if err != nil {
		return false
	}
	defer p.Close()
	page, err := p.Load()
	return err == nil && lease.Now() >= page.Deadline
}
