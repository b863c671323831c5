package peer

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// outFrame is a frame on its way out, in parts that nobody changes any more.
type outFrame [][]byte

// inFrame is a frame that came in; it has memory of its own.
type inFrame struct{ data []byte }

// codec passes frames through as they are and leaves everything else to protobuf's codec.
type codec struct{}

// Name implements encoding.CodecV2.
func (codec) Name() string { return protocodec.Name }

// Marshal implements encoding.CodecV2. Frames are not copied: gRPC reads the parts while it writes to the socket.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(outFrame)
	if !ok {
		return encoding.GetCodecV2(protocodec.Name).Marshal(v)
	}
	parts := make(mem.BufferSlice, 0, len(f))
	for _, p := range f {
		if len(p) > 0 {
			parts = append(parts, mem.SliceBuffer(p))
		}
	}
	return parts, nil
}

// Unmarshal implements encoding.CodecV2.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*inFrame)
	if !ok {
		return encoding.GetCodecV2(protocodec.Name).Unmarshal(data, v)
	}
	f.data = make([]byte, data.Len())
	if n := data.CopyTo(f.data); n != len(f.data) {
		return fmt.Errorf("frame of %d bytes, %d came", len(f.data), n)
	}
	return nil
}
