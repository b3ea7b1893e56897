package rpc

import (
	"context"
	"fmt"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// strictJSON is Connect's JSON, but a field that does not exist is an error:
// whoever types "vcpu" for "vcpus" must hear of it.
type strictJSON struct{ name string }

func (c strictJSON) Name() string { return c.name }

func (strictJSON) Marshal(m any) ([]byte, error) {
	msg, ok := m.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no message", m)
	}
	return protojson.Marshal(msg)
}

func (strictJSON) Unmarshal(b []byte, m any) error {
	msg, ok := m.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no message", m)
	}
	if len(b) == 0 {
		return fmt.Errorf("the body is empty: send {} for a request without fields")
	}
	return protojson.Unmarshal(b, msg)
}

// refuseUnknown refuses requests with fields that this server does not know:
// they mean something to the client, and would be dropped in silence.
func refuseUnknown(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if m, ok := req.Any().(proto.Message); ok {
			if path, ok := unknown(m.ProtoReflect()); ok {
				return nil, wire(refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, path,
					"it holds a field that this server does not know", "use a client of this server's version, or upgrade the server"), "")
			}
		}
		return next(ctx, req)
	}
}

// unknown finds the first message with unknown fields, by its path.
func unknown(m protoreflect.Message) (path string, found bool) {
	if len(m.GetUnknown()) > 0 {
		return "", true
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			if f.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					path, found = unknown(v.Message())
					return !found
				})
			}
		case f.Message() == nil:
		case f.IsList():
			for i := 0; i < v.List().Len() && !found; i++ {
				path, found = unknown(v.List().Get(i).Message())
			}
		default:
			path, found = unknown(v.Message())
		}
		if found {
			path = strings.TrimSuffix(string(f.Name())+"."+path, ".")
		}
		return !found
	})
	return path, found
}
