package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

var (
	// ErrClosed is the error of everything that is used after its Close, or its Client's.
	ErrClosed = errors.New("closed")
	// ErrUnroutable is the outcome of a message for which no queue is bound: it is nowhere.
	ErrUnroutable = errors.New("no queue is bound for the message")
	// ErrEmpty says that the queue has no ready message.
	ErrEmpty = errors.New("the queue is empty")
	// ErrLost is the error of settling a delivery whose connection was lost meanwhile: the message is delivered again.
	ErrLost = errors.New("the connection of the delivery was lost; the message is delivered again")
)

// Reason says what sort of refusal an Error is.
type Reason string

// The reasons. Those of messages alone come with a Rejected.
const (
	NotFound           Reason = "NOT_FOUND"
	AccessRefused      Reason = "ACCESS_REFUSED"
	ResourceLocked     Reason = "RESOURCE_LOCKED"
	PreconditionFailed Reason = "PRECONDITION_FAILED"
	NotAllowed         Reason = "NOT_ALLOWED"
	NotImplemented     Reason = "NOT_IMPLEMENTED"
	ResourceError      Reason = "RESOURCE_ERROR"
	Unavailable        Reason = "UNAVAILABLE"
	LoginRefused       Reason = "LOGIN_REFUSED"
	InvalidArgument    Reason = "INVALID_ARGUMENT"
	QueueFull          Reason = "QUEUE_FULL" // of a message
	Refused            Reason = "REFUSED"    // of a message
	// DeliveryTimeout is that of a delivery that was not settled in time (see Delivery.Extend). Consumers start again by
	// themselves.
	DeliveryTimeout Reason = "DELIVERY_TIMEOUT"
)

// Error is a refusal of the broker.
type Error struct {
	Code   codes.Code
	Reason Reason // empty: the broker said none
	Text   string
}

// Error returns the text.
func (e *Error) Error() string { return e.Text }

// Is lets errors.Is compare with an Error that has only a Reason.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Reason == e.Reason && t.Text == ""
}

// Rejected is the outcome of a message that the broker did not take, or that a queue with a limit refused.
type Rejected struct {
	Reason Reason
	Text   string
}

// Error names the reason.
func (e *Rejected) Error() string { return fmt.Sprintf("message rejected: %s", e.Text) }

// fromStatus turns a status into an *Error; errors of contexts stay themselves.
func fromStatus(err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	e := &Error{Code: st.Code(), Text: st.Message()}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			e.Reason = Reason(info.Reason)
		}
	}
	switch {
	case e.Code == codes.Canceled && e.Reason == "":
		return context.Canceled
	case e.Code == codes.DeadlineExceeded && e.Reason == "":
		return context.DeadlineExceeded
	}
	return e
}

func reasonOf(r brokerv1.ErrorReason) Reason {
	return Reason(strings.TrimPrefix(r.String(), "ERROR_REASON_"))
}

// isTransient tells whether another attempt, on another node, may succeed. A call that could not be sent ends with io.EOF
// (grpc/grpc-go#4691).
func isTransient(err error) bool {
	if errors.Is(err, errAgain) || errors.Is(err, io.EOF) {
		return true
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.Canceled, codes.Aborted, codes.DeadlineExceeded:
		return true
	}
	return false
}

// isLocked tells whether a queue is somebody else's: declared as exclusive, or consumed so.
func isLocked(err error) bool {
	refusal, ok := fromStatus(err).(*Error)
	if !ok {
		return false
	}
	// Nodes of before said ACCESS_REFUSED of an exclusive consumer, as AMQP does.
	return refusal.Reason == ResourceLocked || refusal.Reason == AccessRefused && strings.HasSuffix(refusal.Text, " in exclusive use")
}
