package peer

import (
	"context"

	"google.golang.org/grpc"
)

// Stream is frames in order in both directions, with flow control. One goroutine at a time sends, one receives, any may
// close.
type Stream interface {
	// Send hands a frame over, given in parts, and may block while the other end does not read. The parts must not
	// change any more.
	Send(parts ...[]byte) error
	// Recv returns the next frame, which belongs to the caller.
	Recv() ([]byte, error)
	// Close ends the stream: what blocks in Send or Recv, on either end, fails soon.
	Close()
}

const (
	serviceName = "warren.node.v1.Frames"
	callMethod  = "Call"
)

// callService is the calls of raw bytes; it has no .proto, since it has no messages.
func callService(h Handlers) *grpc.ServiceDesc {
	return &grpc.ServiceDesc{ServiceName: serviceName, HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{
		MethodName: callMethod,
		Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var request inFrame
			if err := decode(&request); err != nil {
				return nil, err
			}
			answer, err := h.Call(ctx, request.data)
			if err != nil {
				return nil, err
			}
			return outFrame{answer}, nil
		}}}}
}

// Call asks a node one thing.
func (n *Network) Call(ctx context.Context, uuid string, request []byte) ([]byte, error) {
	c, err := n.conn(uuid, Links)
	if err != nil {
		return nil, err
	}
	var answer inFrame
	if err := c.Invoke(ctx, "/"+serviceName+"/"+callMethod, outFrame{request}, &answer); err != nil {
		return nil, err
	}
	return answer.data, nil
}
