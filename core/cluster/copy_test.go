package cluster

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// fill gives every field of a message a value that is not zero.
func fill(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case depth > 6:
		case f.IsMap():
			v := m.Mutable(f).Map()
			if f.MapValue().Kind() != protoreflect.MessageKind {
				v.Set(nonzero(f.MapKey()).MapKey(), nonzero(f.MapValue()))
			}
		case f.IsList() && f.Kind() == protoreflect.MessageKind:
			fill(m.Mutable(f).List().AppendMutable().Message(), depth+1)
		case f.IsList():
			m.Mutable(f).List().Append(nonzero(f))
		case f.Kind() == protoreflect.MessageKind:
			fill(m.Mutable(f).Message(), depth+1)
		default:
			m.Set(f, nonzero(f))
		}
	}
}

func nonzero(f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(1)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString("x")
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte("x"))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(1)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(1)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(1)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(1)
	}
	return protoreflect.ValueOfUint64(1)
}

// whole names the fields that a copy lacks.
func whole(t *testing.T, m, c protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case v.Equal(c.Get(f)):
		case f.Kind() == protoreflect.MessageKind && !f.IsList() && !f.IsMap() && c.Has(f):
			whole(t, v.Message(), c.Get(f).Message())
		default:
			t.Errorf("%s is not copied: see copy.go", f.FullName())
		}
		return true
	})
}

// A copy has every field that there is, and what may be changed in it changes
// nothing in the record.
func TestCopiesAreWhole(t *testing.T) {
	vm, node, meta := &blixardv1.VM{}, &blixardv1.Node{}, &blixardv1.Meta{}
	for _, m := range []proto.Message{vm, node, meta} {
		fill(m.ProtoReflect(), 0)
	}
	whole(t, vm.ProtoReflect(), copyVM(vm).ProtoReflect())
	whole(t, node.ProtoReflect(), copyNode(node).ProtoReflect())
	whole(t, meta.ProtoReflect(), copyMeta(meta).ProtoReflect())
	oldVM, oldNode := clone(vm), clone(node)
	v, n := copyVM(vm), copyNode(node)
	for _, m := range []proto.Message{v.Placement, v.Runner, n.Host.Allocated} {
		proto.Reset(m)
	}
	v.PreparedNodes[0], v.Name, n.Host.Epoch = 7, "y", 7
	if !proto.Equal(vm, oldVM) || !proto.Equal(node, oldNode) {
		t.Error("a change of a copy changed the record")
	}
}
