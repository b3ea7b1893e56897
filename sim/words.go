package sim

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// What is kept for later is words of the form name=value. Only what differs from
// a known base is said, so that a story shows what matters in it.

// messageWords says in which fields m differs from base. It is not protobuf's
// own text, which differs from process to process on purpose.
func messageWords(m, base proto.Message) []string {
	return fieldWords("", m.ProtoReflect(), base.ProtoReflect())
}

func fieldWords(path string, m, base protoreflect.Message) (words []string) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		name := path + string(f.Name())
		switch {
		case sameField(f, m, base):
		case !m.Has(f):
			words = append(words, "-"+name)
		case f.IsMap() || f.IsList() || f.Kind() == protoreflect.BytesKind:
			one := m.New()
			one.Set(f, m.Get(f))
			b, err := canonical.Marshal(one.Interface())
			if err != nil {
				panic("sim: " + err.Error())
			}
			words = append(words, name+"=base64:"+base64.RawURLEncoding.EncodeToString(b))
		case f.Kind() == protoreflect.MessageKind:
			words = append(words, fieldWords(name+".", m.Get(f).Message(), base.Get(f).Message())...)
		default:
			words = append(words, name+"="+scalarWord(f, m.Get(f)))
		}
	}
	return words
}

func sameField(f protoreflect.FieldDescriptor, m, base protoreflect.Message) bool {
	return m.Has(f) == base.Has(f) && m.Get(f).Equal(base.Get(f))
}

func scalarWord(f protoreflect.FieldDescriptor, v protoreflect.Value) string {
	if f.Kind() == protoreflect.EnumKind {
		if value := f.Enum().Values().ByNumber(v.Enum()); value != nil {
			return strings.TrimPrefix(string(value.Name()), enumPrefix(f.Enum()))
		}
		return strconv.Itoa(int(v.Enum()))
	}
	return url.QueryEscape(fmt.Sprint(v.Interface()))
}

// enumPrefix is what every value of an enum begins with: RESTART_POLICY_.
func enumPrefix(e protoreflect.EnumDescriptor) string {
	prefix, _ := strings.CutSuffix(string(e.Values().Get(0).Name()), "UNSPECIFIED")
	return prefix
}

// setMessage changes m, which is a copy of the base, as the words say.
func setMessage(m proto.Message, words []string) error {
	for _, word := range words {
		if err := setField(m.ProtoReflect(), word); err != nil {
			return fmt.Errorf("%s: %w", word, err)
		}
	}
	return nil
}

func setField(m protoreflect.Message, word string) error {
	path, value, set := strings.Cut(word, "=")
	path, cleared := strings.CutPrefix(path, "-")
	if set == cleared {
		return fmt.Errorf("want name=value, or -name")
	}
	first, rest, nested := strings.Cut(path, ".")
	f := m.Descriptor().Fields().ByName(protoreflect.Name(first))
	switch {
	case f == nil:
		return fmt.Errorf("%s has no %s", m.Descriptor().Name(), first)
	case nested && (f.Kind() != protoreflect.MessageKind || f.IsList() || f.IsMap()):
		return fmt.Errorf("%s has no fields", first)
	case nested && cleared:
		return setField(m.Mutable(f).Message(), "-"+rest)
	case nested:
		return setField(m.Mutable(f).Message(), rest+"="+value)
	case cleared:
		m.Clear(f)
		return nil
	}
	if text, ok := strings.CutPrefix(value, "base64:"); ok {
		b, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil {
			return err
		}
		one := m.New()
		if err := proto.Unmarshal(b, one.Interface()); err != nil {
			return err
		}
		m.Set(f, one.Get(f))
		return nil
	}
	v, err := parseScalar(f, value)
	if err == nil {
		m.Set(f, v)
	}
	return err
}

func parseScalar(f protoreflect.FieldDescriptor, text string) (protoreflect.Value, error) {
	switch f.Kind() {
	case protoreflect.EnumKind:
		if v := f.Enum().Values().ByName(protoreflect.Name(enumPrefix(f.Enum()) + text)); v != nil {
			return protoreflect.ValueOfEnum(v.Number()), nil
		}
		n, err := strconv.ParseInt(text, 10, 32)
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(n)), err
	case protoreflect.BoolKind:
		b, err := strconv.ParseBool(text)
		return protoreflect.ValueOfBool(b), err
	case protoreflect.StringKind:
		s, err := url.QueryUnescape(text)
		return protoreflect.ValueOfString(s), err
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		n, err := strconv.ParseUint(text, 10, 32)
		return protoreflect.ValueOfUint32(uint32(n)), err
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		n, err := strconv.ParseUint(text, 10, 64)
		return protoreflect.ValueOfUint64(n), err
	case protoreflect.Int32Kind, protoreflect.Sint32Kind:
		n, err := strconv.ParseInt(text, 10, 32)
		return protoreflect.ValueOfInt32(int32(n)), err
	case protoreflect.Int64Kind, protoreflect.Sint64Kind:
		n, err := strconv.ParseInt(text, 10, 64)
		return protoreflect.ValueOfInt64(n), err
	}
	return protoreflect.Value{}, fmt.Errorf("fields of kind %v have no words", f.Kind())
}

// structWords says in which fields of a simple kind the struct x differs from
// base, but for those left out.
func structWords(x, base any, leftOut ...string) (words []string) {
	v, b := reflect.ValueOf(x), reflect.ValueOf(base)
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if !simple(v.Field(i)) || v.Field(i).Interface() == b.Field(i).Interface() || slices.Contains(leftOut, name) {
			continue
		}
		words = append(words, fmt.Sprintf("%s=%v", strings.ToLower(name), v.Field(i).Interface()))
	}
	return words
}

func simple(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int64, reflect.Uint64, reflect.Float64, reflect.String:
		return true
	}
	return false
}

// setStruct changes the struct that x points to as the words say.
func setStruct(x any, words []string) error {
	v := reflect.ValueOf(x).Elem()
	for _, word := range words {
		name, text, _ := strings.Cut(word, "=")
		f := v.FieldByNameFunc(func(s string) bool { return strings.EqualFold(s, name) })
		if !f.IsValid() || !simple(f) {
			return fmt.Errorf("%s: there is no %s", word, name)
		}
		if err := setSimple(f, text); err != nil {
			return fmt.Errorf("%s: %w", word, err)
		}
	}
	return nil
}

func setSimple(f reflect.Value, text string) error {
	switch f.Interface().(type) {
	case time.Duration:
		d, err := time.ParseDuration(text)
		f.SetInt(int64(d))
		return err
	case int, int64:
		n, err := strconv.ParseInt(text, 10, 64)
		f.SetInt(n)
		return err
	case uint64:
		n, err := strconv.ParseUint(text, 10, 64)
		f.SetUint(n)
		return err
	case float64:
		x, err := strconv.ParseFloat(text, 64)
		f.SetFloat(x)
		return err
	case bool:
		b, err := strconv.ParseBool(text)
		f.SetBool(b)
		return err
	case string:
		f.SetString(text)
		return nil
	}
	return fmt.Errorf("fields of type %s have no words", f.Type())
}
