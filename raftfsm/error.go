// Package raftfsm holds what the replicated state machines share: the kinds of refusal that a machine can answer a
// command with. The machines themselves are the packages below it; they decide and do nothing.
package raftfsm

import "fmt"

// Kind says what sort of refusal an Error is. Each protocol maps kinds to its own codes in one table.
type Kind uint8

// The kinds of refusal, named after what they mean to a client (AMQP 0-9-1 reply codes beside them).
const (
	Internal           Kind = iota // 541: a fault of the broker; details go to the log alone
	NotFound                       // 404
	AccessRefused                  // 403
	ResourceLocked                 // 405
	PreconditionFailed             // 406
	NotAllowed                     // 530: closes the connection
	NotImplemented                 // 540: closes the connection
	ResourceError                  // 506: closes the connection
	Unavailable                    // no majority or no leader within the time allowed; the outcome may be unknown
	Exists                         // the thing to be created is there already, with other properties or another identity
	TimedOut                       // 406: a delivery was out for longer than it may; no machine answers it
)

// Error is a refusal: its kind and a text for the client, without the protocol's own prefix.
type Error struct {
	Kind Kind
	Text string
}

// Error returns the text.
func (e *Error) Error() string { return e.Text }

// Errorf builds a refusal.
func Errorf(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Text: fmt.Sprintf(format, args...)}
}
