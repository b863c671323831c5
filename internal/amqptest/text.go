package amqptest

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/warrenmq/warren/amqp/wire"
)

// Methods, properties and tables as text, for scripts:
//
//	queue.declare queue=orders durable x-message-ttl=1000 x-mode:S=7
//
// A field that is zero is left out; a flag that is set has no value. What is no field goes into the method's table, as a
// boolean, a long integer or a long string, or as the type says that stands behind a colon.

// methodsByName are all methods; their values are never used but copied.
var methodsByName = func() map[string]reflect.Type {
	types := map[string]reflect.Type{}
	for class := range uint32(100) {
		for method := range uint32(130) {
			if m := emptyMethod(class<<16 | method); m != nil {
				types[MethodName(m)] = reflect.TypeOf(m).Elem()
			}
		}
	}
	return types
}()

// emptyMethod reads a method from zeros: as many as it takes.
func emptyMethod(id uint32) wire.Method {
	payload := binary.BigEndian.AppendUint32(nil, id)
	for range 64 {
		m, err := wire.ParseMethod(payload)
		if err == nil {
			return m
		}
		if wire.IsUnknownMethod(err) {
			return nil
		}
		payload = append(payload, 0)
	}
	return nil
}

// MethodName is the specification's name, such as basic.get-ok.
func MethodName(m wire.Method) string {
	class, method, _ := strings.Cut(dashed(reflect.TypeOf(m).Elem().Name()), "-")
	return class + "." + method
}

// dashed turns DeliveryTag into delivery-tag.
func dashed(name string) string {
	var text strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 && !unicode.IsUpper(rune(name[i-1])) {
			text.WriteByte('-')
		}
		text.WriteRune(unicode.ToLower(r))
	}
	return text.String()
}

// ParseMethod reads a method from words.
func ParseMethod(words []string) (wire.Method, error) {
	t, ok := methodsByName[words[0]]
	if !ok {
		return nil, fmt.Errorf("no method %q", words[0])
	}
	v := reflect.New(t)
	if err := setFields(v.Elem(), words[1:]); err != nil {
		return nil, fmt.Errorf("%s: %w", words[0], err)
	}
	return v.Interface().(wire.Method), nil
}

// ParseProperties reads properties from words; what is no property is a header.
func ParseProperties(words []string) (p wire.Properties, err error) {
	return p, setFields(reflect.ValueOf(&p).Elem(), words)
}

var tableType = reflect.TypeFor[wire.Table]()

func setFields(v reflect.Value, words []string) error {
	for _, word := range words {
		key, value, hasValue := strings.Cut(word, "=")
		if field := fieldNamed(v, key); field.IsValid() {
			if err := setField(field, value, hasValue); err != nil {
				return fmt.Errorf("%s: %w", word, err)
			}
			continue
		}
		table := tableOf(v)
		if !table.IsValid() || !hasValue {
			return fmt.Errorf("no field %q", key)
		}
		if table.IsNil() {
			table.Set(reflect.ValueOf(wire.Table{}))
		}
		name, kind, _ := strings.Cut(key, ":")
		item, err := parseValue(kind, value)
		if err != nil {
			return fmt.Errorf("%s: %w", word, err)
		}
		table.Interface().(wire.Table)[name] = item
	}
	return nil
}

func fieldNamed(v reflect.Value, name string) reflect.Value {
	for i := range v.NumField() {
		if dashed(v.Type().Field(i).Name) == name {
			return v.Field(i)
		}
	}
	return reflect.Value{}
}

func tableOf(v reflect.Value) reflect.Value {
	for i := range v.NumField() {
		if v.Field(i).Type() == tableType {
			return v.Field(i)
		}
	}
	return reflect.Value{}
}

func setField(field reflect.Value, text string, hasValue bool) error {
	switch field.Kind() {
	case reflect.Bool:
		field.SetBool(!hasValue || text == "true")
	case reflect.String:
		field.SetString(text)
	case reflect.Int64:
		n, err := strconv.ParseInt(text, 10, 64)
		field.SetInt(n)
		return err
	default:
		n, err := strconv.ParseUint(text, 10, field.Type().Bits())
		if err == nil {
			field.SetUint(n)
		}
		return err
	}
	return nil
}

// parseValue reads a table's value: [a,b] is an array of strings.
func parseValue(kind, text string) (any, error) {
	number := func(bits int) (int64, error) { return strconv.ParseInt(text, 10, bits) }
	switch kind {
	case "":
		if n, err := number(64); err == nil {
			return n, nil
		}
		if text == "true" || text == "false" {
			return text == "true", nil
		}
		if inner, ok := strings.CutPrefix(text, "["); ok {
			array := []any{}
			for item := range strings.SplitSeq(strings.TrimSuffix(inner, "]"), ",") {
				array = append(array, item)
			}
			return array, nil
		}
		return text, nil
	case "S":
		return text, nil
	case "x":
		return []byte(text), nil
	case "V":
		return nil, nil
	case "F":
		return wire.Table{}, nil
	case "b":
		n, err := number(8)
		return int8(n), err
	case "s":
		n, err := number(16)
		return int16(n), err
	case "I":
		n, err := number(32)
		return int32(n), err
	case "T":
		n, err := number(64)
		return wire.Timestamp(n), err
	case "d":
		return strconv.ParseFloat(text, 64)
	}
	return nil, fmt.Errorf("unknown type %q", kind)
}

// Text writes a method as ParseMethod reads it.
func Text(m wire.Method) string {
	return MethodName(m) + fieldsText(reflect.ValueOf(m).Elem())
}

// PropertiesText writes properties.
func PropertiesText(p wire.Properties) string { return fieldsText(reflect.ValueOf(p)) }

func fieldsText(v reflect.Value) string {
	var text strings.Builder
	for i := range v.NumField() {
		name, field := dashed(v.Type().Field(i).Name), v.Field(i)
		switch {
		case field.Type() == tableType:
			text.WriteString(tableText(field.Interface().(wire.Table)))
		case field.IsZero():
		case field.Kind() == reflect.Bool:
			text.WriteString(" " + name)
		default:
			text.WriteString(" " + name + "=" + quoted(fmt.Sprint(field.Interface())))
		}
	}
	return text.String()
}

func tableText(t wire.Table) string {
	var words []string
	for key, value := range t {
		words = append(words, " "+key+"="+valueText(value))
	}
	slices.Sort(words)
	return strings.Join(words, "")
}

func valueText(v any) string {
	switch v := v.(type) {
	case wire.Table:
		return "{" + strings.TrimPrefix(tableText(v), " ") + "}"
	case []any:
		var items []string
		for _, item := range v {
			items = append(items, valueText(item))
		}
		return "[" + strings.Join(items, ",") + "]"
	case string:
		return quoted(v)
	}
	return fmt.Sprint(v)
}

// quoted puts into quotes what would not be one word.
func quoted(text string) string {
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == '"' || r > '~' }) {
		return strconv.Quote(text)
	}
	return text
}

// FrameText writes a frame.
func FrameText(f wire.Frame) string {
	where := fmt.Sprintf("%d ", f.Channel)
	switch f.Type {
	case wire.FrameMethod:
		m, err := wire.ParseMethod(f.Payload)
		if err != nil {
			return where + err.Error()
		}
		return where + Text(m)
	case wire.FrameHeader:
		h, err := wire.ParseContentHeader(f.Payload)
		if err != nil {
			return where + err.Error()
		}
		p, err := wire.ParseProperties(h.Properties)
		if err != nil {
			return where + err.Error()
		}
		return fmt.Sprintf("%sheader %d%s", where, h.BodySize, PropertiesText(p))
	case wire.FrameBody:
		if len(f.Payload) > 60 {
			return fmt.Sprintf("%sbody of %d bytes", where, len(f.Payload))
		}
		return where + "body " + quoted(string(f.Payload))
	case wire.FrameHeartbeat:
		return where + "heartbeat"
	}
	return fmt.Sprintf("%sframe of type %d, %d bytes", where, f.Type, len(f.Payload))
}

// Words splits a line at its spaces; what stands in double quotes is one word, or part of one, as Go writes strings.
func Words(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	inWord := false
	for line != "" {
		switch {
		case line[0] == '"':
			text, err := strconv.QuotedPrefix(line)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", line, err)
			}
			line = line[len(text):]
			text, err = strconv.Unquote(text)
			if err != nil {
				return nil, err
			}
			word.WriteString(text)
			inWord = true
			continue
		case line[0] != ' ':
			word.WriteByte(line[0])
			inWord = true
		case inWord:
			words = append(words, word.String())
			word.Reset()
			inWord = false
		}
		line = line[1:]
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}
