package peer

import (
	"context"
	"fmt"
	"sync"

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

const serviceName = "warren.node.v1.Frames"

// methods are the names of the streams; the class is the place.
var methods = [classes]string{"Raft", "Links", "Bulk"}

const callMethod = "Call"

// framesService is the streams and calls of raw frames; they have no .proto, since they have no messages.
func framesService(h Handlers) *grpc.ServiceDesc {
	d := &grpc.ServiceDesc{ServiceName: serviceName, HandlerType: (*any)(nil)}
	for class := range Class(classes) {
		serve := h.Serve[class]
		d.Streams = append(d.Streams, grpc.StreamDesc{StreamName: methods[class], ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, ss grpc.ServerStream) error {
				serveStream(ss, serve)
				return nil
			}})
	}
	d.Methods = []grpc.MethodDesc{{MethodName: callMethod, Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var request inFrame
		if err := decode(&request); err != nil {
			return nil, err
		}
		answer, err := h.Call(ctx, request.data)
		if err != nil {
			return nil, err
		}
		return outFrame{answer}, nil
	}}}
	return d
}

// serveStream returns when either side closes the stream: gRPC then ends what blocks in it.
func serveStream(ss grpc.ServerStream, serve func(context.Context, Stream)) {
	s := &serverStream{ss: ss, closed: make(chan struct{})}
	go func() {
		defer s.Close()
		serve(ss.Context(), s)
	}()
	select {
	case <-s.closed:
	case <-ss.Context().Done():
	}
}

type serverStream struct {
	ss     grpc.ServerStream
	once   sync.Once
	closed chan struct{}
}

func (s *serverStream) Send(parts ...[]byte) error { return s.ss.SendMsg(outFrame(parts)) }

func (s *serverStream) Recv() ([]byte, error) {
	var f inFrame
	err := s.ss.RecvMsg(&f)
	return f.data, err
}

func (s *serverStream) Close() { s.once.Do(func() { close(s.closed) }) }

type clientStream struct {
	cs  grpc.ClientStream
	end context.CancelFunc
}

func (s *clientStream) Send(parts ...[]byte) error { return s.cs.SendMsg(outFrame(parts)) }

func (s *clientStream) Recv() ([]byte, error) {
	var f inFrame
	err := s.cs.RecvMsg(&f)
	return f.data, err
}

func (s *clientStream) Close() { s.end() }

// Open opens a stream to a node. The ctx is for opening alone.
func (n *Network) Open(ctx context.Context, uuid string, class Class) (Stream, error) {
	c, err := n.conn(uuid, class)
	if err != nil {
		return nil, err
	}
	life, end := context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, end)
	cs, err := c.NewStream(life, &grpc.StreamDesc{StreamName: methods[class], ServerStreams: true, ClientStreams: true},
		"/"+serviceName+"/"+methods[class])
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		end()
		return nil, fmt.Errorf("open a stream to node %s: %w", uuid, err)
	}
	return &clientStream{cs, end}, nil
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
