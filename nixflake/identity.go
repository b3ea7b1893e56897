package nixflake

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// Identity is what tells one VM from all others, derived from its uid alone: the
// same on every host, at every build, for as long as the VM lives.
//
// # Unique
//
// A uid is "GENERATION-INDEX", the log entry that made the VM, and no two VMs
// share one. So the values need no table of what is taken: each is a number that
// holds the uid, put through a permutation. Two VMs have the same
//
//	tap        only if their indexes are equal modulo 2^44 (and generations modulo 2^16)
//	MAC        only if their indexes are equal modulo 2^34 (and generations modulo 2^8)
//	vsock cid  only if their indexes are equal modulo 2^28 (and generations modulo 2^4)
//	machine id never: it is a hash
//
// that is, never while both live, unless 268 million entries lie between them.
// That is the whole rule for collisions: there are none to resolve. The
// permutation is keyed by the cluster, so that two clusters on one bridge or on
// one machine meet only by chance.
//
// A uid of another form, as in a rendering without a cluster, is hashed.
type Identity struct {
	machine    [32]byte
	key        uint64
	generation uint64
	index      uint64
}

// Identify derives the identity of the VM with a uid in a cluster.
func Identify(cluster, uid string) Identity {
	id := Identity{machine: sha256.Sum256([]byte("blixard machine\x00" + cluster + "\x00" + uid))}
	k := sha256.Sum256([]byte("blixard key\x00" + cluster))
	id.key = binary.BigEndian.Uint64(k[:])
	if g, i, ok := strings.Cut(uid, "-"); ok {
		generation, err1 := strconv.ParseUint(g, 10, 64)
		index, err2 := strconv.ParseUint(i, 10, 64)
		if err1 == nil && err2 == nil {
			id.generation, id.index = generation, index
			return id
		}
	}
	id.generation, id.index = binary.BigEndian.Uint64(id.machine[16:]), binary.BigEndian.Uint64(id.machine[24:])
	return id
}

// MachineID is a UUID (version 8, its own kind), for the guest's machine-id and
// its SMBIOS.
func (id Identity) MachineID() string {
	b := id.machine
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// TapID is the name of the n-th network's tap on the host, n below 16: 15
// characters, all that Linux takes.
func (id Identity) TapID(n int) string {
	const digits = "abcdefghijklmnopqrstuvwxyz234567"
	v := permute(id.generation<<48|id.index<<20>>16|uint64(n)&15, 64, id.key)
	b := []byte("bx-------------")
	for i := len(b) - 1; i > 1; i-- {
		b[i] = digits[v&31]
		v >>= 5
	}
	return string(b)
}

// MAC is the address of the n-th network, n below 16: unicast, and locally
// administered, so that no manufacturer gives it.
func (id Identity) MAC(n int) string {
	v := permute(id.generation&0xff<<38|id.index&(1<<34-1)<<4|uint64(n)&15, 46, id.key)
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", byte(v>>40)<<2|2, byte(v>>32), byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}

// VsockCID is the guest's vsock address.
func (id Identity) VsockCID() uint32 {
	v := id.generation&15<<28 | id.index&(1<<28-1)
	// 0 to 2 and the last are taken. Walking on until one is free keeps the
	// permutation one.
	for {
		v = permute(v, 32, id.key)
		if v > 2 && v < 1<<32-1 {
			return uint32(v)
		}
	}
}

// permute maps the numbers of some bits onto themselves, one to one: each step
// (an odd product, a sum, a shift folded in) can be undone.
func permute(v uint64, bits uint, key uint64) uint64 {
	mask := uint64(1)<<bits - 1
	if bits == 64 {
		mask = ^uint64(0)
	}
	for range 3 {
		v = (v*0x9e3779b97f4a7c15 + key) & mask
		v ^= v >> (bits/2 + 1)
		key = key<<13 | key>>51
	}
	return v
}
