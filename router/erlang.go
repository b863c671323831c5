package router

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// RabbitMQ's texts print values as Erlang terms. These functions print them alike, as far as binding arguments go.

// erlangType returns RabbitMQ's name for the type of a value.
func erlangType(value any) string {
	switch value.(type) {
	case nil:
		return "void"
	case bool:
		return "bool"
	case int8:
		return "byte"
	case int16:
		return "short"
	case int32:
		return "signedint"
	case int64:
		return "long"
	case uint8:
		return "unsignedbyte"
	case uint16:
		return "unsignedshort"
	case uint32:
		return "unsignedint"
	case float32:
		return "float"
	case float64:
		return "double"
	case string:
		return "longstr"
	case []byte:
		return "binary"
	case Timestamp:
		return "timestamp"
	case Decimal:
		return "decimal"
	case []any:
		return "array"
	case map[string]any:
		return "table"
	}
	return fmt.Sprintf("%T", value)
}

func erlangTerm(value any) string {
	switch v := value.(type) {
	case nil:
		return "undefined"
	case float32:
		return erlangFloat(float64(v), 32)
	case float64:
		return erlangFloat(v, 64)
	case string:
		return erlangBinary(v)
	case []byte:
		return erlangBinary(string(v))
	case Decimal:
		return fmt.Sprintf("{%d,%d}", v.Scale, v.Unscaled)
	case []any:
		var terms []string
		for _, element := range v {
			terms = append(terms, fmt.Sprintf("{%s,%s}", erlangType(element), erlangTerm(element)))
		}
		return "[" + strings.Join(terms, ",") + "]"
	case map[string]any:
		var terms []string
		for _, key := range slices.Sorted(maps.Keys(v)) {
			terms = append(terms, fmt.Sprintf("{%s,%s,%s}", erlangBinary(key), erlangType(v[key]), erlangTerm(v[key])))
		}
		return "[" + strings.Join(terms, ",") + "]"
	}
	return fmt.Sprint(value) // booleans and integers look alike in Go
}

// erlangFloat prints the shortest digits that mean the number, always with a point.
func erlangFloat(v float64, bits int) string {
	digits := strconv.FormatFloat(v, 'f', -1, bits)
	if !strings.Contains(digits, ".") {
		digits += ".0"
	}
	return digits
}

// erlangBinary prints text in quotes if it is plain ASCII, and else as its bytes.
func erlangBinary(v string) string {
	var numbers []string
	plain := true
	for i := range len(v) {
		plain = plain && v[i] >= ' ' && v[i] <= '~'
		numbers = append(numbers, strconv.Itoa(int(v[i])))
	}
	switch {
	case v == "":
		return "<<>>"
	case plain:
		return "<<" + strconv.Quote(v) + ">>"
	}
	return "<<" + strings.Join(numbers, ",") + ">>"
}
