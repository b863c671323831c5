package router

// equal tells whether a binding's value and a message's value match. As RabbitMQ compares what is left of a value once
// it is decoded, all integer types compare by value, float32 with float64, and string with []byte; but an integer
// never equals a float or a text that looks like it. Two differences are meant: a timestamp matches a timestamp of the
// same second (RabbitMQ compares a binding's seconds with a message's milliseconds, so that none matches), and within
// arrays and tables the same rules hold as outside (RabbitMQ looks at wire types and order of keys there).
func equal(a, b any) bool {
	switch a := a.(type) {
	case nil:
		return b == nil
	case bool:
		b, ok := b.(bool)
		return ok && a == b
	case string:
		return equalText(a, b)
	case []byte:
		return equalText(text(a), b)
	case float32:
		return equalFloat(float64(a), b)
	case float64:
		return equalFloat(a, b)
	case Timestamp:
		b, ok := b.(Timestamp)
		return ok && a == b
	case Decimal:
		b, ok := b.(Decimal)
		return ok && a == b
	case []any:
		b, ok := b.([]any)
		return ok && equalArrays(a, b)
	case map[string]any:
		b, ok := b.(map[string]any)
		return ok && equalTables(a, b)
	}
	x, ok := toInteger(a)
	y, alike := toInteger(b)
	return ok && alike && x == y
}

func equalText(a string, b any) bool {
	switch b := b.(type) {
	case string:
		return a == b
	case []byte:
		return a == text(b)
	}
	return false
}

func equalFloat(a float64, b any) bool {
	switch b := b.(type) {
	case float32:
		return a == float64(b)
	case float64:
		return a == b
	}
	return false
}

func equalArrays(a, b []any) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

func equalTables(a, b map[string]any) bool {
	if len(a) != len(b) {
		return false
	}
	for key, value := range a {
		other, ok := b[key]
		if !ok || !equal(value, other) {
			return false
		}
	}
	return true
}

// integer is any value of Go's integer types up to 64 bits.
type integer struct {
	negative bool
	low      uint64 // two's complement
}

func toInteger(value any) (integer, bool) {
	switch v := value.(type) {
	case int8:
		return signed(int64(v)), true
	case int16:
		return signed(int64(v)), true
	case int32:
		return signed(int64(v)), true
	case int64:
		return signed(v), true
	case uint8:
		return integer{low: uint64(v)}, true
	case uint16:
		return integer{low: uint64(v)}, true
	case uint32:
		return integer{low: uint64(v)}, true
	case uint64:
		return integer{low: v}, true
	}
	return integer{}, false
}

func signed(v int64) integer {
	return integer{negative: v < 0, low: uint64(v)}
}
