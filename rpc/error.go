package rpc

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warrenmq/warren/broker"
	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

// domain is that of every ErrorInfo.
const domain = "warrenmq"

// kinds maps the broker's kinds of error.
var kinds = map[broker.Kind]struct {
	code   codes.Code
	reason brokerv1.ErrorReason
}{
	broker.Internal:           {codes.Internal, brokerv1.ErrorReason_ERROR_REASON_INTERNAL},
	broker.NotFound:           {codes.NotFound, brokerv1.ErrorReason_ERROR_REASON_NOT_FOUND},
	broker.AccessRefused:      {codes.PermissionDenied, brokerv1.ErrorReason_ERROR_REASON_ACCESS_REFUSED},
	broker.ResourceLocked:     {codes.FailedPrecondition, brokerv1.ErrorReason_ERROR_REASON_RESOURCE_LOCKED},
	broker.PreconditionFailed: {codes.FailedPrecondition, brokerv1.ErrorReason_ERROR_REASON_PRECONDITION_FAILED},
	broker.NotAllowed:         {codes.PermissionDenied, brokerv1.ErrorReason_ERROR_REASON_NOT_ALLOWED},
	broker.NotImplemented:     {codes.Unimplemented, brokerv1.ErrorReason_ERROR_REASON_NOT_IMPLEMENTED},
	broker.ResourceError:      {codes.ResourceExhausted, brokerv1.ErrorReason_ERROR_REASON_RESOURCE_ERROR},
	broker.Unavailable:        {codes.Unavailable, brokerv1.ErrorReason_ERROR_REASON_UNAVAILABLE},
	broker.Exists:             {codes.AlreadyExists, brokerv1.ErrorReason_ERROR_REASON_ALREADY_EXISTS},
	broker.TimedOut:           {codes.Aborted, brokerv1.ErrorReason_ERROR_REASON_DELIVERY_TIMEOUT},
}

// failure makes a status.
func failure(code codes.Code, reason brokerv1.ErrorReason, text string) error {
	st := status.New(code, text)
	name := strings.TrimPrefix(reason.String(), "ERROR_REASON_")
	if detailed, err := st.WithDetails(&errdetails.ErrorInfo{Reason: name, Domain: domain}); err == nil {
		st = detailed
	}
	return st.Err()
}

// invalid makes the status of a request that makes no sense.
func invalid(format string, args ...any) error {
	return failure(codes.InvalidArgument, brokerv1.ErrorReason_ERROR_REASON_INVALID_ARGUMENT, fmt.Sprintf(format, args...))
}

// toStatus turns any error into what the client is told. Details of an internal one go to the log alone.
func (s *Server) toStatus(err error) error {
	if err == nil {
		return nil
	}
	var refusal *broker.Error
	switch {
	case errors.As(err, &refusal) && refusal.Kind != broker.Internal:
		kind := kinds[refusal.Kind]
		if inUse := new(broker.InUse); errors.As(err, &inUse) {
			kind = kinds[broker.ResourceLocked]
		}
		return failure(kind.code, kind.reason, refusal.Text)
	case errors.Is(err, context.DeadlineExceeded):
		return failure(codes.DeadlineExceeded, brokerv1.ErrorReason_ERROR_REASON_UNAVAILABLE, "the operation did not end in time; whether it took effect is not known")
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "cancelled")
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	s.log.Error("internal error", "err", err)
	return failure(codes.Internal, brokerv1.ErrorReason_ERROR_REASON_INTERNAL, "internal error")
}

// ofMessage tells whether an error of Publish concerns that message alone and is final, and its reason.
func ofMessage(err error) (reason brokerv1.ErrorReason, detail string, ok bool) {
	var refusal *broker.Error
	if !errors.As(err, &refusal) || refusal.Kind == broker.Unavailable || refusal.Kind == broker.Internal {
		return 0, "", false
	}
	return kinds[refusal.Kind].reason, refusal.Text, true
}
