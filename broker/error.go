package broker

import (
	"errors"

	"github.com/warrenmq/warren/raftfsm"
)

// Error is a refusal for the client: a kind, which each front door maps to its own codes in one table, and the text
// without the protocol's prefix. Every method of this package that answers a client fails with an *Error, or with an
// error of the context, or with another of the Replicator when the node stops.
type Error = raftfsm.Error

// Kind says what sort of refusal an Error is.
type Kind = raftfsm.Kind

// The kinds, with the AMQP 0-9-1 codes that they stand for.
const (
	Internal           = raftfsm.Internal           // 541
	NotFound           = raftfsm.NotFound           // 404
	AccessRefused      = raftfsm.AccessRefused      // 403
	ResourceLocked     = raftfsm.ResourceLocked     // 405
	PreconditionFailed = raftfsm.PreconditionFailed // 406
	NotAllowed         = raftfsm.NotAllowed         // 530
	NotImplemented     = raftfsm.NotImplemented     // 540
	ResourceError      = raftfsm.ResourceError      // 506
	Unavailable        = raftfsm.Unavailable        // no majority within the time allowed; the outcome may be unknown
	Exists             = raftfsm.Exists
	TimedOut           = raftfsm.TimedOut // 406
)

// InUse is the refusal of a consumer where another has the queue for itself, or where one wants a queue for itself that has others.
// AMQP calls that AccessRefused; a front door may tell it apart from a lack of permission, as it passes by itself.
type InUse struct{ refusal *Error }

func (e *InUse) Error() string { return e.refusal.Error() }

// Unwrap returns the refusal.
func (e *InUse) Unwrap() error { return e.refusal }

func errorf(kind Kind, format string, args ...any) *Error {
	return raftfsm.Errorf(kind, format, args...)
}

// isKind tells whether err is a refusal of that kind.
func isKind(err error, kind Kind) bool {
	var refusal *Error
	return errors.As(err, &refusal) && refusal.Kind == kind
}

// isRefusal tells whether err says that the cluster did not do what it was asked, rather than that nobody knows.
func isRefusal(err error) bool {
	var refusal *Error
	return errors.As(err, &refusal) && refusal.Kind != Unavailable && refusal.Kind != Internal
}

// refusal makes an error of a refusal that may be none.
func refusal(err *Error) error {
	if err == nil {
		return nil
	}
	return err
}
