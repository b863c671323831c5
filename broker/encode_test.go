package broker

import (
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
)

// options splits words into plain ones, and a table of those with "=".
func options(words []string) (plain []string, values map[string]string, table *Table) {
	values = map[string]string{}
	table = &Table{}
	for _, w := range words {
		key, value, ok := strings.Cut(w, "=")
		if !ok {
			plain = append(plain, w)
			continue
		}
		values[key] = value
		table.Fields = append(table.Fields, &Field{Key: key, Value: parseValue(value)})
	}
	slices.SortFunc(table.Fields, func(a, b *Field) int { return strings.Compare(a.Key, b.Key) })
	if len(table.Fields) == 0 {
		table = nil
	}
	return plain, values, table
}

func parseValue(text string) *Value {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return IntValue('l', n)
	}
	if b, err := strconv.ParseBool(text); err == nil {
		return BoolValue('t', b)
	}
	return TextValue('S', text)
}

// properties encodes the properties named in values, and headers from the rest.
func properties(values map[string]string, table *Table) []byte {
	var flags uint16
	b := []byte{0, 0}
	texts := func(key string, flag uint16) {
		if v, ok := values[key]; ok {
			flags |= flag
			b = append(append(b, byte(len(v))), v...)
		}
	}
	octet := func(key string, flag uint16) {
		if v, ok := values[key]; ok {
			n, _ := strconv.Atoi(v)
			flags |= flag
			b = append(b, byte(n))
		}
	}
	texts("content-type", flagContentType)
	var headers []byte
	for _, f := range table.GetFields() {
		if key, ok := strings.CutPrefix(f.Key, "h."); ok {
			headers = append(append(headers, byte(len(key))), key...)
			headers = appendTestValue(headers, values[f.Key])
		}
	}
	if headers != nil {
		flags |= flagHeaders
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(headers))), headers...)
	}
	octet("mode", flagDeliveryMode)
	octet("priority", flagPriority)
	texts("correlation-id", flagCorrelationID)
	texts("reply-to", flagReplyTo)
	texts("expiration", flagExpiration)
	texts("message-id", flagMessageID)
	texts("user-id", flagUserID)
	binary.BigEndian.PutUint16(b, flags)
	return b
}

// appendTestValue encodes a header: [a,b] is an array of strings, digits a long, the rest a string.
func appendTestValue(b []byte, text string) []byte {
	if inner, ok := strings.CutPrefix(text, "["); ok {
		var array []byte
		for item := range strings.SplitSeq(strings.TrimSuffix(inner, "]"), ",") {
			array = append(binary.BigEndian.AppendUint32(append(array, 'S'), uint32(len(item))), item...)
		}
		return append(binary.BigEndian.AppendUint32(append(b, 'A'), uint32(len(array))), array...)
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return binary.BigEndian.AppendUint64(append(b, 'l'), uint64(n))
	}
	return append(binary.BigEndian.AppendUint32(append(b, 'S'), uint32(len(text))), text...)
}
