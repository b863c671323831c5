package router

import "fmt"

// maxAnyWords is how many "#" a topic binding key may hold: RabbitMQ's limit since 4.3.5.
const maxAnyWords = 2

// BindingError says why a binding is refused. Text is RabbitMQ's and goes to the client as it is.
type BindingError struct {
	Text string
}

// Error returns the text.
func (e *BindingError) Error() string { return e.Text }

func refuse(format string, args ...any) error {
	return &BindingError{fmt.Sprintf(format, args...)}
}

// ValidateBinding returns a *BindingError when an exchange of that kind must refuse a binding ("precondition failed"),
// and nil otherwise. The Table does not call it itself.
func ValidateBinding(kind Kind, key string, args Args) error {
	switch kind {
	case Topic:
		return validateTopicKey(key)
	case Headers:
		return validateXMatch(args)
	}
	return nil
}

func validateTopicKey(key string) error {
	if n := countWords(key, anyWords); n > maxAnyWords {
		return refuse("Topic binding key '%s' uses %d '#' wildcards, at most %d are allowed", key, n, maxAnyWords)
	}
	return nil
}

func validateXMatch(args Args) error {
	value, given := args[xMatch]
	if !given {
		return nil
	}
	mode, ok := value.(string)
	if !ok {
		return refuse("Invalid x-match field type %s (value %s); expected longstr", erlangType(value), erlangTerm(value))
	}
	switch mode {
	case "all", "any", "all-with-x", "any-with-x":
		return nil
	}
	return refuse("Invalid x-match field value %s; expected all, any, all-with-x, or any-with-x", erlangTerm(mode))
}
