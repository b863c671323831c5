package rpc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"

	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

// The calls of health need no credentials, nor those of reflection from this machine (see Server.admit). What strangers can make this node hold is bounded all the same: their
// calls are few at a time and end soon, and what they send is short. Only who has asked to watch, and cannot send any more, may stay.
const (
	// maxAsking bounds the calls without credentials that may still send something. Each holds a window (streamWindow) at most.
	maxAsking = 64
	// maxWatching bounds those that have sent all they may, which hold little more than a goroutine.
	maxWatching = 4096
	// maxQuestion is the longest request of such a call, in bytes.
	maxQuestion = 4 << 10
	// askingTime is how long such a call may take to send its request; of reflection, which takes many, how long it may last.
	askingTime = 10 * time.Second
)

var (
	errCrowded = failure(codes.ResourceExhausted, brokerv1.ErrorReason_ERROR_REASON_RESOURCE_ERROR, "too many calls without credentials")
	errLate    = failure(codes.DeadlineExceeded, brokerv1.ErrorReason_ERROR_REASON_RESOURCE_ERROR, "a call without credentials took too long to ask")
	errStopped = failure(codes.Unavailable, brokerv1.ErrorReason_ERROR_REASON_CLOSED, shutdownText)
)

// strangers counts the calls without credentials.
type strangers struct {
	mu               sync.Mutex // guards what follows, and the places of all
	asking, watching int
}

// stranger is a call without credentials.
type stranger struct {
	of    *strangers
	late  *time.Timer
	place *int // of the counts the one that it is in; nil: it has ended
}

type strangerKey struct{}

// admit counts a call until its context ends: with a cause, when the call is late and when running ends.
func (s *strangers) admit(ctx, running context.Context) (context.Context, error) {
	c := &stranger{of: s, place: new(int)}
	if !c.move(&s.asking, maxAsking) {
		return nil, errCrowded
	}
	ctx, end := context.WithCancelCause(ctx)
	c.late = time.AfterFunc(askingTime, func() { end(errLate) })
	unlink := context.AfterFunc(running, func() { end(errStopped) })
	context.AfterFunc(ctx, func() {
		unlink()
		c.late.Stop()
		c.leave()
	})
	return context.WithValue(ctx, strangerKey{}, c), nil
}

// move counts the call elsewhere; false when there are as many as may be, or the call has ended.
func (c *stranger) move(to *int, most int) bool {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	if c.place == nil || *to >= most {
		return false
	}
	*c.place--
	*to++
	c.place = to
	return true
}

func (c *stranger) leave() {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	*c.place--
	c.place = nil
}

// listen runs the handler of a call without credentials.
func (c *stranger) listen(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx := stream.Context()
	from, ok := grpc.ServerTransportStreamFromContext(ctx).(octetStream)
	if !ok {
		return errors.New("this version of gRPC does not show what a stream receives")
	}
	err := handler(server, &questions{ServerStream: stream, stranger: c, from: from, many: info.IsClientStream,
		stays: info.FullMethod == grpc_health_v1.Health_Watch_FullMethodName})
	if cause := context.Cause(ctx); err != nil && (errors.Is(cause, errLate) || errors.Is(cause, errStopped)) {
		return cause
	}
	return err
}

// octetStream is what gRPC's own streams have beside what grpc.ServerStream shows of them. What a ServerStream receives is bounded
// by nothing but the server's MaxRecvMsgSize.
type octetStream interface {
	ReadMessageHeader(header []byte) error
	Read(n int) (mem.BufferSlice, error)
}

// questions is the stream of a call without credentials: it receives short messages, and one alone if no more may come.
type questions struct {
	grpc.ServerStream
	*stranger
	from  octetStream
	many  bool
	stays bool // when it has asked; others end at once, and need no place among those that do
}

// RecvMsg implements grpc.ServerStream.
func (q *questions) RecvMsg(m any) error {
	if err := q.receive(m); err != nil || q.many {
		return err
	}
	switch err := q.from.ReadMessageHeader(make([]byte, 1)); {
	case err == nil:
		return invalid("more than one request")
	case !errors.Is(err, io.EOF):
		return err
	}
	if !q.stays {
		return nil
	}
	if q.late.Stop(); !q.move(&q.of.watching, maxWatching) {
		return errCrowded
	}
	return nil
}

// receive reads a message as gRPC frames it: whether it is compressed, u8 | length u32 | octets.
func (q *questions) receive(m any) error {
	var header [5]byte
	if err := q.from.ReadMessageHeader(header[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(header[1:])
	switch {
	case header[0] != 0:
		return invalid("a call without credentials must not be compressed")
	case n > maxQuestion:
		return failure(codes.ResourceExhausted, brokerv1.ErrorReason_ERROR_REASON_RESOURCE_ERROR, fmt.Sprintf("a request of %d bytes without credentials is longer than %d", n, maxQuestion))
	}
	data, err := q.from.Read(int(n))
	if err != nil {
		return err
	}
	defer data.Free()
	return newCodec().Unmarshal(data, m)
}

// registerHealth registers the health service with single calls as streams of one answer, which is the same to the client: so
// that the server's interceptor of streams has them all.
func registerHealth(to grpc.ServiceRegistrar, h grpc_health_v1.HealthServer) {
	d := grpc_health_v1.Health_ServiceDesc
	d.Methods = nil
	d.Streams = append(slices.Clone(d.Streams),
		grpc.StreamDesc{StreamName: "Check", ServerStreams: true, Handler: answer(h.Check)},
		grpc.StreamDesc{StreamName: "List", ServerStreams: true, Handler: answer(h.List)})
	to.RegisterService(&d, h)
}

// answer makes the handler of a stream of a single call.
func answer[Q, R any](call func(context.Context, *Q) (*R, error)) grpc.StreamHandler {
	return func(_ any, stream grpc.ServerStream) error {
		q := new(Q)
		if err := stream.RecvMsg(q); err != nil {
			return err
		}
		r, err := call(stream.Context(), q)
		if err != nil {
			return err
		}
		return stream.SendMsg(r)
	}
}
