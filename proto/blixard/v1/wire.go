package blixardv1

import (
	"cmp"
	"fmt"
	"slices"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// wire is every message of ours: see protoc-gen-go-wire.
type wire interface {
	sizeWire() int
	writeWire(b []byte, i int) int
}

// Encode encodes a message: equal messages to equal bytes, those that
// proto.MarshalOptions{Deterministic: true} gives, which it asks for messages that
// are not ours. It panics where a string is not valid UTF-8: who reads it back
// would refuse it.
func Encode(m proto.Message) []byte {
	x, ok := m.(wire)
	if !ok {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			panic(fmt.Sprintf("%T does not marshal: %v", m, err))
		}
		return b
	}
	b := make([]byte, x.sizeWire())
	if i := x.writeWire(b, len(b)); i != 0 {
		panic(fmt.Sprintf("%T: %d bytes too few were written", m, i))
	}
	return b
}

// What is written is written from the end to the front: then the length of a
// message is known when it is needed, after the message.

func putVarint(b []byte, i int, v uint64) int {
	if v < 0x80 {
		b[i-1] = byte(v)
		return i - 1
	}
	i -= protowire.SizeVarint(v)
	at := i
	for ; v >= 0x80; v >>= 7 {
		b[at] = byte(v) | 0x80
		at++
	}
	b[at] = byte(v)
	return i
}

func putBool(b []byte, i int, v bool) int {
	b[i-1] = 0
	if v {
		b[i-1] = 1
	}
	return i - 1
}

func putBytes(b []byte, i int, v []byte) int {
	i -= len(v)
	copy(b[i:], v)
	return i
}

// putString writes a string and its length.
func putString(b []byte, i int, v string) int {
	if !utf8.ValidString(v) {
		panic(fmt.Sprintf("not valid UTF-8, and so not to be encoded: %q", v))
	}
	i -= len(v)
	copy(b[i:], v)
	return putVarint(b, i, uint64(len(v)))
}

func sizeTimestamp(t *timestamppb.Timestamp) (n int) {
	if s := t.GetSeconds(); s != 0 {
		n += 1 + protowire.SizeVarint(uint64(s))
	}
	if ns := t.GetNanos(); ns != 0 {
		n += 1 + protowire.SizeVarint(uint64(ns))
	}
	return n + len(t.ProtoReflect().GetUnknown())
}

func writeTimestamp(b []byte, i int, t *timestamppb.Timestamp) int {
	i = putBytes(b, i, t.ProtoReflect().GetUnknown())
	if ns := t.GetNanos(); ns != 0 {
		i = putVarint(b, i, uint64(ns))
		i = putVarint(b, i, protowire.EncodeTag(2, protowire.VarintType))
	}
	if s := t.GetSeconds(); s != 0 {
		i = putVarint(b, i, uint64(s))
		i = putVarint(b, i, protowire.EncodeTag(1, protowire.VarintType))
	}
	return i
}

// backward appends the keys of a map, the greatest first.
func backward[K cmp.Ordered, V any](keys []K, m map[K]V) []K {
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b K) int { return cmp.Compare(b, a) })
	return keys
}
