package broker

import (
	"encoding/binary"
	"math"

	"github.com/warrenmq/warren/router"
)

// fieldReader walks the fields of an AMQP table in RabbitMQ's dialect.
type fieldReader struct {
	rest   []byte
	whole  []byte // the present field: key, type, value
	key    []byte
	kind   byte
	value  []byte
	failed bool
}

// next goes to the next field; false at the end and where the table is malformed (failed).
func (f *fieldReader) next() bool {
	if len(f.rest) == 0 {
		return false
	}
	keyEnd := 1 + int(f.rest[0])
	if len(f.rest) <= keyEnd {
		return f.fail()
	}
	n, ok := valueSize(f.rest[keyEnd], f.rest[keyEnd+1:])
	if !ok {
		return f.fail()
	}
	end := keyEnd + 1 + n
	f.whole, f.key, f.kind, f.value = f.rest[:end], f.rest[1:keyEnd], f.rest[keyEnd], f.rest[keyEnd+1:end]
	f.rest = f.rest[end:]
	return true
}

func (f *fieldReader) fail() bool {
	f.failed, f.rest = true, nil
	return false
}

// valueSize returns how long the value of that type at the start of b is.
func valueSize(kind byte, b []byte) (n int, ok bool) {
	switch kind {
	case 'V':
		n = 0
	case 't', 'b', 'B':
		n = 1
	case 's', 'u':
		n = 2
	case 'I', 'i', 'f':
		n = 4
	case 'D':
		n = 5
	case 'l', 'L', 'd', 'T':
		n = 8
	case 'S', 'x', 'A', 'F':
		if len(b) < 4 || uint64(binary.BigEndian.Uint32(b)) > uint64(len(b)-4) {
			return 0, false
		}
		n = 4 + int(binary.BigEndian.Uint32(b))
	default:
		return 0, false
	}
	return n, n <= len(b)
}

// maxDepth bounds tables in tables.
const maxDepth = 32

// decodeTable turns fields into the Go types that router.Args names. What is malformed or too deep ends the table.
func decodeTable(fields []byte, depth int) map[string]any {
	table := map[string]any{}
	for f := (fieldReader{rest: fields}); f.next(); {
		table[string(f.key)] = decodeValue(f.kind, f.value, depth)
	}
	return table
}

// decodeValue decodes a value whose size has been checked.
func decodeValue(kind byte, b []byte, depth int) any {
	switch kind {
	case 't':
		return b[0] != 0
	case 'b':
		return int8(b[0])
	case 'B':
		return b[0]
	case 's':
		return int16(binary.BigEndian.Uint16(b))
	case 'u':
		return binary.BigEndian.Uint16(b)
	case 'I':
		return int32(binary.BigEndian.Uint32(b))
	case 'i':
		return binary.BigEndian.Uint32(b)
	case 'l', 'L':
		return int64(binary.BigEndian.Uint64(b))
	case 'f':
		return math.Float32frombits(binary.BigEndian.Uint32(b))
	case 'd':
		return math.Float64frombits(binary.BigEndian.Uint64(b))
	case 'T':
		return router.Timestamp(binary.BigEndian.Uint64(b))
	case 'D':
		return router.Decimal{Scale: b[0], Unscaled: binary.BigEndian.Uint32(b[1:])}
	case 'S':
		return string(b[4:])
	case 'x':
		return append([]byte(nil), b[4:]...)
	case 'A':
		return decodeArray(b[4:], depth+1)
	case 'F':
		if depth < maxDepth {
			return decodeTable(b[4:], depth+1)
		}
	}
	return nil
}

func decodeArray(b []byte, depth int) []any {
	array := []any{}
	for depth < maxDepth && len(b) > 0 {
		n, ok := valueSize(b[0], b[1:])
		if !ok {
			break
		}
		array = append(array, decodeValue(b[0], b[1:1+n], depth))
		b = b[1+n:]
	}
	return array
}

// fieldTypeName is RabbitMQ's name for a field type, as error texts have it.
func fieldTypeName(kind byte) string {
	switch kind {
	case 't':
		return "bool"
	case 'b':
		return "byte"
	case 'B':
		return "unsignedbyte"
	case 's':
		return "short"
	case 'u':
		return "unsignedshort"
	case 'I':
		return "signedint"
	case 'i':
		return "unsignedint"
	case 'l', 'L':
		return "long"
	case 'f':
		return "float"
	case 'd':
		return "double"
	case 'T':
		return "timestamp"
	case 'D':
		return "decimal"
	case 'S':
		return "longstr"
	case 'x':
		return "binary"
	case 'A':
		return "array"
	case 'F':
		return "table"
	}
	return "void"
}

// carbonCopies appends to keys the further routing keys of the headers CC and BCC; hidden tells that BCC is there.
func carbonCopies(headers []byte, keys [][]byte) (_ [][]byte, hidden bool, err error) {
	f := fieldReader{rest: headers}
	for f.next() {
		isBCC := string(f.key) == "BCC"
		if !isBCC && string(f.key) != "CC" {
			continue
		}
		if f.kind != 'A' {
			return keys, false, errorf(PreconditionFailed, "invalid message: {unacceptable_type_in_header,%q,%s}", f.key, fieldTypeName(f.kind))
		}
		hidden = hidden || isBCC
		keys = appendTexts(keys, f.value[4:])
	}
	if f.failed {
		return keys, false, errorf(Internal, "malformed headers")
	}
	return keys, hidden, nil
}

// appendTexts appends the long strings of an array.
func appendTexts(texts [][]byte, array []byte) [][]byte {
	for len(array) > 0 {
		n, ok := valueSize(array[0], array[1:])
		if !ok {
			break
		}
		if array[0] == 'S' {
			texts = append(texts, array[5:1+n])
		}
		array = array[1+n:]
	}
	return texts
}
