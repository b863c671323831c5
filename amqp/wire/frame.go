package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
)

// A frame is
//
//	type u8 | channel u16 | size u32 | payload | end u8 (206)
//
// (AMQP 0-9-1, 4.2.3).
const (
	FrameMethod    = 1
	FrameHeader    = 2
	FrameBody      = 3
	FrameHeartbeat = 8

	frameEnd        = 206
	frameHeaderSize = 7
	// FrameOverhead is what a frame adds to its payload.
	FrameOverhead = frameHeaderSize + 1
)

// Frame is one frame; Payload points into the scanner's buffer and is valid until the next Fill.
type Frame struct {
	Type    uint8
	Channel uint16
	Payload []byte
}

// Scanner cuts a stream into frames. It reads as much as there is at once, so that its caller can handle every frame that
// has arrived before it reads again:
//
//	for {
//		for { frame, ok, err := s.Next(); … }
//		err := s.Fill()
//	}
//
// The buffer is small until traffic asks for more, and never larger than two of the largest frames or readSize.
type Scanner struct {
	source     io.Reader
	buf        []byte
	start, end int // what was read and not yet cut
	frameMax   int
}

const (
	firstBuffer = 4 << 10
	// readSize is how large the buffer becomes when reads fill it.
	readSize = 128 << 10
)

// NewScanner reads frames of up to frameMax bytes from source.
func NewScanner(source io.Reader, frameMax uint32) *Scanner {
	return &Scanner{source: source, frameMax: int(frameMax)}
}

// SetFrameMax changes the largest frame, after tuning.
func (s *Scanner) SetFrameMax(frameMax uint32) { s.frameMax = int(frameMax) }

// Buffered is the number of bytes read and not yet cut.
func (s *Scanner) Buffered() int { return s.end - s.start }

// Fill reads more bytes, at least one. What Next returned before is not valid any more.
func (s *Scanner) Fill() error { return s.fill(s.needed()) }

// fill reads more bytes into a buffer that has room for need.
func (s *Scanner) fill(need int) error {
	s.makeRoom(need)
	n, err := s.source.Read(s.buf[s.end:])
	s.end += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// Shrink gives a buffer back that is large and empty: its owner has fallen silent. What Next returned stays valid.
func (s *Scanner) Shrink() {
	if s.start == s.end && len(s.buf) > firstBuffer {
		s.buf, s.start, s.end = nil, 0, 0
	}
}

// makeRoom moves what is left to the front and grows the buffer when need is larger or the last read filled it.
func (s *Scanner) makeRoom(need int) {
	full := s.end == len(s.buf) && len(s.buf) > 0
	copy(s.buf, s.buf[s.start:s.end])
	s.start, s.end = 0, s.end-s.start
	size := len(s.buf)
	if size == 0 {
		size = firstBuffer
	} else if full && size < readSize {
		size = min(4*size, readSize)
	}
	if need > size {
		size = min(2*need, max(need, readSize))
	}
	if size > len(s.buf) {
		grown := make([]byte, size)
		copy(grown, s.buf[:s.end])
		s.buf = grown
	}
}

// needed is the whole size of the frame at the front, as far as it is known. One above the limit needs no room: Next refuses
// it.
func (s *Scanner) needed() int {
	if s.Buffered() < frameHeaderSize {
		return frameHeaderSize
	}
	size := binary.BigEndian.Uint32(s.buf[s.start+3:])
	if uint64(size) > uint64(s.frameMax) {
		return frameHeaderSize
	}
	return int(size) + FrameOverhead
}

// Next cuts the next frame off what has been read. ok is false when more bytes are needed. The error is *Error.
func (s *Scanner) Next() (f Frame, ok bool, err error) {
	data := s.buf[s.start:s.end]
	if len(data) < frameHeaderSize {
		return Frame{}, false, nil
	}
	f.Type, f.Channel = data[0], binary.BigEndian.Uint16(data[1:])
	size := binary.BigEndian.Uint32(data[3:])
	payload := data[frameHeaderSize:]
	// RabbitMQ lets a payload be as large as frame-max, 8 more than the specification does.
	if uint64(size) > uint64(s.frameMax) {
		return Frame{}, false, frameError("type %d, all octets = <<>>: {frame_too_large,%d,%d}", f.Type, size, s.frameMax-FrameOverhead)
	}
	if len(payload) < int(size)+1 {
		return Frame{}, false, nil
	}
	if end := payload[size]; end != frameEnd {
		f.Payload = payload[:size]
		return Frame{}, false, frameError("%s: {invalid_frame_end_marker,%d}", DescribeFrame(f), end)
	}
	f.Payload = payload[:size:size]
	s.start += FrameOverhead + int(size)
	return f, true, nil
}

// ReadRaw reads exactly n bytes that are no frame: the protocol header.
func (s *Scanner) ReadRaw(n int) ([]byte, error) {
	for s.Buffered() < n {
		if err := s.fill(n); err != nil { // what is there is no frame, and says nothing of a size
			return nil, err
		}
	}
	raw := s.buf[s.start : s.start+n : s.start+n]
	s.start += n
	return raw, nil
}

// contentHeaderSize is what a content header has before its properties.
const contentHeaderSize = 12

// CheckFrame refuses a frame of a type that there is not, or too short to be one of its type; the error is *Error.
func CheckFrame(f Frame) error {
	switch {
	case f.Type == FrameMethod && len(f.Payload) >= 4, f.Type == FrameHeader && len(f.Payload) >= contentHeaderSize,
		f.Type == FrameBody, f.Type == FrameHeartbeat && len(f.Payload) == 0:
		return nil
	}
	return frameError("%s: unknown_frame", DescribeFrame(f))
}

// DescribeFrame words a frame that came at the wrong time (reference: errors.md 5.6).
func DescribeFrame(f Frame) string {
	if len(f.Payload) <= 16 {
		return fmt.Sprintf("type %d, all octets = %s", f.Type, describe(f.Payload))
	}
	return fmt.Sprintf("type %d, first 16 octets = %s", f.Type, describe(f.Payload[:16]))
}

// describe writes bytes as Erlang prints a binary: text as a string, anything else as numbers.
func describe(data []byte) string {
	printable := len(data) > 0
	for _, b := range data {
		printable = printable && b >= ' ' && b <= '~' && b != '"' && b != '\\'
	}
	if printable {
		return `<<"` + string(data) + `">>`
	}
	return numbers(data)
}

// numbers writes bytes as a list of numbers. Of a long list it writes what a reply text has room for.
func numbers(data []byte) string {
	data = data[:min(len(data), maxShortStr/2)]
	text := []byte("<<")
	for i, b := range data {
		if i > 0 {
			text = append(text, ',')
		}
		text = strconv.AppendUint(text, uint64(b), 10)
	}
	return string(append(text, ">>"...))
}
