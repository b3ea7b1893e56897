package blixardv1

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// all are the types of our messages.
func all(t testing.TB) (list []protoreflect.MessageType) {
	protoregistry.GlobalTypes.RangeMessages(func(mt protoreflect.MessageType) bool {
		if d := mt.Descriptor(); d.ParentFile().Package() == "blixard.v1" && !d.IsMapEntry() {
			list = append(list, mt)
		}
		return true
	})
	if len(list) < 50 {
		t.Fatalf("only %d messages were found", len(list))
	}
	return list
}

// TestEncodeIsProto fills every message by lot, and looks that Encode gives the
// bytes that package proto gives.
func TestEncodeIsProto(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, mt := range all(t) {
		written := 0
		for range 100 {
			m := mt.New()
			fill(r, m, 5)
			want, err := proto.MarshalOptions{Deterministic: true}.Marshal(m.Interface())
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := m.Interface().(wire); !ok {
				t.Fatalf("%s has no code of its own", mt.Descriptor().FullName())
			}
			if got := Encode(m.Interface()); !bytes.Equal(got, want) {
				t.Fatalf("%v\nis encoded as\n%x\nand by proto as\n%x", m.Interface(), got, want)
			}
			written += len(want)
		}
		if written == 0 {
			t.Errorf("%s was always empty", mt.Descriptor().FullName())
		}
	}
}

// fill sets about half of the fields, down to a depth.
func fill(r *rand.Rand, m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case r.IntN(2) == 0:
		case f.IsMap():
			for range r.IntN(5) {
				m.Mutable(f).Map().Set(scalar(r, f.MapKey()).MapKey(), scalar(r, f.MapValue()))
			}
		case f.Message() != nil && depth == 0:
		case f.IsList():
			list := m.Mutable(f).List()
			for range r.IntN(4) {
				if f.Message() != nil {
					fill(r, list.AppendMutable().Message(), depth-1)
				} else {
					list.Append(scalar(r, f))
				}
			}
		case f.Message() != nil:
			fill(r, m.Mutable(f).Message(), depth-1)
		default:
			m.Set(f, scalar(r, f))
		}
	}
	if r.IntN(8) == 0 { // of a later release
		unknown := protowire.AppendTag(nil, 5000, protowire.VarintType)
		m.SetUnknown(protowire.AppendVarint(unknown, r.Uint64()))
	}
}

// scalar is often what needs one byte, and at times what needs the most.
func scalar(r *rand.Rand, f protoreflect.FieldDescriptor) protoreflect.Value {
	n := r.Uint64() >> r.IntN(65)
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(n%2 == 1)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(fmt.Sprintf("%.*sö%d", r.IntN(200), bytes.Repeat([]byte("x"), 200), n%100))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(bytes.Repeat([]byte{byte(n)}, r.IntN(300)))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(n)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(n))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(int32(n)))
	}
	panic(f.FullName())
}

// TestEncodeRefusesWhatNobodyCouldRead as package proto does.
func TestEncodeRefusesWhatNobodyCouldRead(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a string that is not UTF-8 was encoded")
		}
	}()
	Encode(&VM{Name: "\xff"})
}

func BenchmarkEncode(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	m := &VM{}
	for proto.Size(m) < 400 || proto.Size(m) > 800 {
		m = &VM{}
		fill(r, m.ProtoReflect(), 3)
	}
	b.Run("wire", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			Encode(m)
		}
	})
	b.Run("proto", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = proto.MarshalOptions{Deterministic: true}.Marshal(m)
		}
	})
}
