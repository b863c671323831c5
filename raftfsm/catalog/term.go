package catalog

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
)

// RabbitMQ's texts name the types of AMQP's values and print values as Erlang terms. These functions do so with stored
// values.

// typeName is RabbitMQ's name for the type of a stored value.
func typeName(v *raftv1.Value) string {
	switch v.GetWireType() {
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
	case 'T':
		return "timestamp"
	case 'f':
		return "float"
	case 'd':
		return "double"
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

// plain prints a value as texts have it between quotes: text as it is, everything else as a term.
func plain(v *raftv1.Value) string {
	switch x := v.GetValue().(type) {
	case *raftv1.Value_Text:
		return x.Text
	case *raftv1.Value_Binary:
		if v.GetWireType() != 'D' {
			return string(x.Binary)
		}
	}
	return term(v)
}

func term(v *raftv1.Value) string {
	switch x := v.GetValue().(type) {
	case *raftv1.Value_Boolean:
		return strconv.FormatBool(x.Boolean)
	case *raftv1.Value_Integer:
		return strconv.FormatInt(x.Integer, 10)
	case *raftv1.Value_Floating:
		return floatTerm(x.Floating)
	case *raftv1.Value_Text:
		return binaryTerm(x.Text)
	case *raftv1.Value_Binary:
		if v.GetWireType() == 'D' && len(x.Binary) == 5 {
			return fmt.Sprintf("{%d,%d}", x.Binary[0], binary.BigEndian.Uint32(x.Binary[1:]))
		}
		return binaryTerm(string(x.Binary))
	case *raftv1.Value_Array:
		var terms []string
		for _, inner := range x.Array.GetValues() {
			terms = append(terms, fmt.Sprintf("{%s,%s}", typeName(inner), term(inner)))
		}
		return "[" + strings.Join(terms, ",") + "]"
	case *raftv1.Value_Table:
		var terms []string
		for _, f := range x.Table.GetFields() {
			terms = append(terms, fmt.Sprintf("{%s,%s,%s}", binaryTerm(f.GetKey()), typeName(f.GetValue()), term(f.GetValue())))
		}
		return "[" + strings.Join(terms, ",") + "]"
	}
	return "undefined"
}

// floatTerm prints the shortest digits that mean the number, always with a point.
func floatTerm(n float64) string {
	digits := strconv.FormatFloat(n, 'f', -1, 64)
	if !strings.Contains(digits, ".") {
		digits += ".0"
	}
	return digits
}

// binaryTerm prints text in quotes if it is plain ASCII, and else as its bytes.
func binaryTerm(text string) string {
	if text == "" {
		return "<<>>"
	}
	ascii := true
	numbers := make([]string, len(text))
	for i := range len(text) {
		ascii = ascii && text[i] >= ' ' && text[i] <= '~'
		numbers[i] = strconv.Itoa(int(text[i]))
	}
	if ascii {
		return "<<" + strconv.Quote(text) + ">>"
	}
	return "<<" + strings.Join(numbers, ",") + ">>"
}
