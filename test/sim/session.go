package sim

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"time"

	"github.com/warrenmq/warren/broker"
)

// session is a client's connection with one channel, as a front door drives it: the client's goroutine is the reader, another
// one the writer.
type session struct {
	run  *run
	conn *broker.Conn
	ch   *broker.Channel

	ctx    context.Context // ends with the connection, whoever ends it
	cancel context.CancelCauseFunc
	wakes  chan struct{} // has room for one
	done   chan struct{} // closed when the writer has ended

	// What the writer is told, on its goroutine; each may be nil.
	delivered func(m *broker.Outgoing)
	confirmed func(tag uint64, multiple, ack bool)
	returned  func(body []byte)
}

var (
	errProcessGone = errors.New("the node's process has ended")
	errAskedToGo   = errors.New("the node closes the connection")
	errChannel     = errors.New("the node closes the channel")
	errCancelled   = errors.New("the consumer was cancelled")
)

// connect opens a connection to a run.
func connect(ctx context.Context, r *run, s *session) (*session, error) {
	s.run, s.wakes, s.done = r, make(chan struct{}, 1), make(chan struct{})
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	r.clients.Add(1)
	conn, err := r.broker.Open(s.ctx, &broker.Identity{User: "guest"}, "/", broker.ConnOptions{Name: "client", Events: s})
	if err != nil {
		r.clients.Done()
		s.cancel(err)
		return nil, err
	}
	s.conn = conn
	s.ch = conn.OpenChannel(1)
	go s.write()
	return s, nil
}

// write is the writer.
func (s *session) write() {
	defer close(s.done)
	for {
		select {
		case <-s.wakes:
		case <-s.run.gone:
			s.cancel(errProcessGone)
			return
		case <-s.ctx.Done():
			return
		}
		for more := true; more; {
			var err error
			if more, err = s.conn.Drain(s, 64<<10); err != nil {
				s.cancel(err)
				return
			}
			s.conn.Written()
		}
	}
}

// close ends the connection, as the end of the client's socket does.
func (s *session) close() {
	s.cancel(nil)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	go func() { // a process that dies meanwhile does not go on with it
		select {
		case <-s.run.gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	s.conn.Close(ctx)
	<-s.done
	s.run.clients.Done()
}

// gone tells whether the process has ended. What its goroutines do from then on reaches no client: they go on until they notice, and on a
// disk without power they take for durable what is lost.
func (s *session) gone() bool {
	select {
	case <-s.run.gone:
		return true
	default:
		return false
	}
}

// answered is the error of a call as the client sees it: a process that has ended does not answer.
func (s *session) answered(err error) error {
	if s.gone() {
		return errProcessGone
	}
	return err
}

// err is why the connection ended, nil while it lives.
func (s *session) err() error { return context.Cause(s.ctx) }

// Lock implements broker.Writer: nobody but the writer writes.
func (s *session) Lock() {}

// Unlock implements broker.Writer.
func (s *session) Unlock() {}

// Wake implements broker.ConnEvents.
func (s *session) Wake() { signal(s.wakes) }

// Blocked implements broker.ConnEvents: Flush waits.
func (s *session) Blocked(string) {}

// Unblocked implements broker.ConnEvents.
func (s *session) Unblocked() {}

// Failed implements broker.ConnEvents.
func (s *session) Failed(_ *broker.Channel, err *broker.Error) {
	s.cancel(errors.Join(errChannel, err))
}

// Closed implements broker.ConnEvents.
func (s *session) Closed(*broker.Error) { s.cancel(errAskedToGo) }

// Deliver implements broker.Writer.
func (s *session) Deliver(_ uint16, _ string, m *broker.Outgoing) {
	if s.delivered != nil && !s.gone() {
		s.delivered(m)
	}
}

// Return implements broker.Writer.
func (s *session) Return(_ uint16, _ uint16, _ string, _, _, _, body []byte) {
	if s.returned != nil && !s.gone() {
		s.returned(body)
	}
}

// Confirm implements broker.Writer.
func (s *session) Confirm(_ uint16, tag uint64, multiple bool, o broker.Outcome) {
	if s.confirmed != nil && !s.gone() {
		s.confirmed(tag, multiple, o.Acked())
	}
}

// CancelConsumer implements broker.Writer.
func (s *session) CancelConsumer(uint16, string) { s.cancel(errCancelled) }

// A body is: publisher u32 | message u32 | filler | CRC32C of what came before.
const bodyMin = 12

func encodeBody(publisher, id uint32, size int) []byte {
	b := make([]byte, max(size, bodyMin))
	binary.BigEndian.PutUint32(b, publisher)
	binary.BigEndian.PutUint32(b[4:], id)
	for i := 8; i < len(b)-4; i++ {
		b[i] = byte(id + uint32(i)*5)
	}
	binary.BigEndian.PutUint32(b[len(b)-4:], crc32.Checksum(b[:len(b)-4], castagnoli))
	return b
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// decodeBody tells whose message a body is; false: it is not what was published.
func decodeBody(b []byte) (publisher, id uint32, ok bool) {
	if len(b) < bodyMin || crc32.Checksum(b[:len(b)-4], castagnoli) != binary.BigEndian.Uint32(b[len(b)-4:]) {
		return 0, 0, false
	}
	return binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:]), true
}
