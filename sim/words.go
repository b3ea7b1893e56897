package sim

import (
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
		if sameField(f, m, base) {
			continue
		}
		many := f.IsMap() || f.IsList()
		if many && base.Has(f) || !m.Has(f) {
			words = append(words, "-"+name)
		}
		switch v := m.Get(f); {
		case !m.Has(f):
		case f.IsMap():
			words = append(words, mapWords(name, f, v.Map())...)
		case f.IsList():
			for i := range v.List().Len() {
				words = append(words, valueWords(fmt.Sprintf("%s.%d", name, i), f, v.List().Get(i), v.List().NewElement())...)
			}
		default:
			words = append(words, valueWords(name, f, v, base.Get(f))...)
		}
	}
	return words
}

// mapWords are in the order of the keys, which are words themselves.
func mapWords(name string, f protoreflect.FieldDescriptor, m protoreflect.Map) (words []string) {
	m.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		words = append(words, valueWords(name+"."+escape(k.String()), f.MapValue(), v, m.NewValue())...)
		return true
	})
	slices.Sort(words)
	return words
}

func valueWords(name string, f protoreflect.FieldDescriptor, v, base protoreflect.Value) []string {
	if f.Kind() != protoreflect.MessageKind {
		return []string{name + "=" + scalarWord(f, v)}
	}
	if words := fieldWords(name+".", v.Message(), base.Message()); len(words) > 0 {
		return words
	}
	return []string{name + "="} // there, and empty
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
	if f.Kind() == protoreflect.BytesKind {
		return escape(string(v.Bytes()))
	}
	return escape(fmt.Sprint(v.Interface()))
}

// escape makes one word of a text; url.PathUnescape reads it back.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-_/:,@{};", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
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
	case nested && f.IsMap():
		return setMap(m.Mutable(f).Map(), f, rest, value)
	case nested && f.IsList():
		return setList(m.Mutable(f).List(), f, rest, value, cleared)
	case nested && f.Kind() == protoreflect.MessageKind:
		return setField(m.Mutable(f).Message(), rejoin(rest, value, cleared))
	case nested || !cleared && (f.IsMap() || f.IsList()):
		return fmt.Errorf("%s is not that deep", first)
	case cleared:
		m.Clear(f)
		return nil
	case f.Kind() == protoreflect.MessageKind:
		m.Mutable(f)
		return nil
	}
	v, err := parseScalar(f, value)
	if err == nil {
		m.Set(f, v)
	}
	return err
}

func rejoin(path, value string, cleared bool) string {
	if cleared {
		return "-" + path
	}
	return path + "=" + value
}

func setMap(m protoreflect.Map, f protoreflect.FieldDescriptor, key, value string) error {
	if f.MapKey().Kind() != protoreflect.StringKind || f.MapValue().Kind() == protoreflect.MessageKind {
		return fmt.Errorf("maps of that kind have no words")
	}
	k, err := url.PathUnescape(key)
	if err != nil {
		return err
	}
	v, err := parseScalar(f.MapValue(), value)
	if err == nil {
		m.Set(protoreflect.ValueOfString(k).MapKey(), v)
	}
	return err
}

func setList(l protoreflect.List, f protoreflect.FieldDescriptor, path, value string, cleared bool) error {
	index, rest, nested := strings.Cut(path, ".")
	i, err := strconv.Atoi(index)
	if err != nil || i < 0 || i > l.Len() {
		return fmt.Errorf("%s comes after %d others", index, l.Len())
	}
	if f.Kind() != protoreflect.MessageKind {
		v, err := parseScalar(f, value)
		if err == nil {
			l.Append(v)
		}
		return err
	}
	if i == l.Len() {
		l.AppendMutable()
	}
	if !nested {
		return nil
	}
	return setField(l.Get(i).Message(), rejoin(rest, value, cleared))
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
		s, err := url.PathUnescape(text)
		return protoreflect.ValueOfString(s), err
	case protoreflect.BytesKind:
		s, err := url.PathUnescape(text)
		return protoreflect.ValueOfBytes([]byte(s)), err
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
