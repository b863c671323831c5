package wire

import (
	"bytes"
	"io"
	"testing"
	"testing/iotest"
)

// TestRoomForWhatIsNoFrame gives the protocol header, or garbage, byte by byte: what looks like the size of a frame asks for
// no memory.
func TestRoomForWhatIsNoFrame(t *testing.T) {
	for _, data := range []string{"AMQP\x00\x00\x09\x01", "\x01\x00\x01\xff\xff\xff\xff\x00"} {
		s := NewScanner(iotest.OneByteReader(bytes.NewReader([]byte(data))), 8192)
		raw, err := s.ReadRaw(8)
		if err != nil || string(raw) != data {
			t.Fatalf("%q, %v", raw, err)
		}
		if len(s.buf) > firstBuffer {
			t.Errorf("the buffer has %d bytes", len(s.buf))
		}
	}
	// A caller that fills before it asks for the next frame.
	s := NewScanner(io.MultiReader(bytes.NewReader([]byte("\x01\x00\x01\xff\xff\xff\xff")), bytes.NewReader([]byte("\x00"))), 8192)
	for range 2 {
		if err := s.Fill(); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.buf) > firstBuffer {
		t.Errorf("the buffer has %d bytes", len(s.buf))
	}
	if _, _, err := s.Next(); err == nil {
		t.Error("a frame of 4 GiB was not refused")
	}
}
