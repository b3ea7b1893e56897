package shim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Page is what a lease page says: whose lease it is, and until when.
//
// The layout is frozen: a shim reads it for as long as its VM lives, through
// upgrades of the daemon. Integers are little-endian.
//
//	offset size
//	     0    8  magic "BLXLEASE"
//	     8    4  version, 1
//	    12    4  zero
//	    16    8  generation of the cluster
//	    24    8  epoch of the host
//	    32   16  boot id, as bytes
//	    48    1  length of the host id, 1 to 63
//	    49   63  host id, padded with zeros
//	   112    8  L, the length of the lease, in ns
//	   120    4  zero
//	   124    4  CRC-32C of bytes 0 to 123
//	   128    8  deadline, CLOCK_BOOTTIME in ns; the only bytes that ever change,
//	             by one atomic 8-byte store
//	   136 3960  zero; a reader ignores them
//
// A deadline of 0 has passed: it means that nothing was ever granted.
type Page struct {
	Host     Host   `json:"host"`
	Lease    uint64 `json:"leaseNs"`
	Deadline uint64 `json:"deadlineNs"`
}

const (
	PageSize     = 4096
	PageVersion  = 1
	DeadlineAt   = 128 // offset of the deadline
	pageMagic    = "BLXLEASE"
	pageCRC      = 124
	pageHostAt   = 48
	pageHostSize = 1 + maxHostID
)

// ErrPage says that some bytes are not a lease page this shim can trust.
var ErrPage = errors.New("bad lease page")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// EncodePage gives the bytes of a page.
func EncodePage(p Page) ([]byte, error) {
	if err := p.Host.validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPage, err)
	}
	boot, err := parseBoot(p.Host.Boot)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPage, err)
	}
	b := make([]byte, PageSize)
	le := binary.LittleEndian
	copy(b, pageMagic)
	le.PutUint32(b[8:], PageVersion)
	le.PutUint64(b[16:], p.Host.Generation)
	le.PutUint64(b[24:], p.Host.Epoch)
	copy(b[32:], boot[:])
	b[pageHostAt] = byte(len(p.Host.ID))
	copy(b[pageHostAt+1:], p.Host.ID)
	le.PutUint64(b[112:], p.Lease)
	le.PutUint32(b[pageCRC:], crc32.Checksum(b[:pageCRC], castagnoli))
	le.PutUint64(b[DeadlineAt:], p.Deadline)
	return b, nil
}

// DecodePage reads a page, and refuses whatever EncodePage cannot have written.
func DecodePage(b []byte) (Page, error) {
	bad := func(why string) (Page, error) { return Page{}, fmt.Errorf("%w: %s", ErrPage, why) }
	if len(b) != PageSize {
		return bad(fmt.Sprintf("%d bytes, not %d", len(b), PageSize))
	}
	le := binary.LittleEndian
	if string(b[:8]) != pageMagic {
		return bad("no magic")
	}
	if v := le.Uint32(b[8:]); v != PageVersion {
		return bad(fmt.Sprintf("version %d, not %d", v, PageVersion))
	}
	if le.Uint32(b[pageCRC:]) != crc32.Checksum(b[:pageCRC], castagnoli) {
		return bad("checksum")
	}
	n := int(b[pageHostAt])
	host := b[pageHostAt+1 : pageHostAt+pageHostSize]
	if n > len(host) || len(bytes.Trim(host[n:], "\x00")) != 0 {
		return bad("host id")
	}
	if le.Uint32(b[12:]) != 0 || le.Uint32(b[120:]) != 0 {
		return bad("reserved bytes in use")
	}
	p := Page{
		Host: Host{
			ID:         string(host[:n]),
			Generation: le.Uint64(b[16:]),
			Boot:       formatBoot([16]byte(b[32:48])),
			Epoch:      le.Uint64(b[24:]),
		},
		Lease:    le.Uint64(b[112:]),
		Deadline: le.Uint64(b[DeadlineAt:]),
	}
	if err := p.Host.validate(); err != nil {
		return bad(err.Error())
	}
	return p, nil
}

// PageName is the name of the page's file. A host has one page for each of its
// epochs and lease lengths; two of them never share a name.
func PageName(p Page) string {
	return fmt.Sprintf("g%d-%s-e%d-%dns.lease", p.Host.Generation, p.Host.Boot, p.Host.Epoch, p.Lease)
}
