package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/warrenmq/warren/amqp/wire"
)

// client is a lean AMQP connection with one channel: it writes batches and reads batches, so that the broker and not the
// client is what is measured. A goroutine (read) owns what comes in; what goes out is under a lock.
type client struct {
	socket   net.Conn
	in       *wire.Scanner
	frameMax uint32
	replies  chan wire.Method // answers to call
	gone     chan struct{}    // closed when reading has ended
	err      error            // why; valid once gone is closed

	mu  sync.Mutex // guards out
	out []byte

	// What comes unasked; set before start, called by the reading goroutine.
	onConfirm func(tag uint64, multiple, ack bool)
	onDeliver func(tag uint64, body []byte)
	onBatch   func() error // every frame that has arrived was handled
}

// benchChannel is the one channel of a client.
const benchChannel = 1

// handshakeTimeout bounds the way from the connection to the open channel.
const handshakeTimeout = 30 * time.Second

// dial connects, logs in and opens the channel. start begins reading.
func dial(ctx context.Context, addr, user, password, vhost string) (*client, error) {
	socket, err := (&net.Dialer{Timeout: handshakeTimeout}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &client{socket: socket, in: wire.NewScanner(socket, 131072), frameMax: 131072, replies: make(chan wire.Method, 1), gone: make(chan struct{})}
	if err := c.handshake(user, password, vhost); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to %s: %w", addr, err), socket.Close())
	}
	return c, nil
}

func (c *client) handshake(user, password, vhost string) error {
	if err := c.socket.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return err
	}
	if _, err := c.socket.Write([]byte("AMQP\x00\x00\x09\x01")); err != nil {
		return err
	}
	if _, err := expect[*wire.ConnectionStart](c); err != nil {
		return err
	}
	if err := c.send(0, &wire.ConnectionStartOk{Mechanism: "PLAIN", Response: "\x00" + user + "\x00" + password, Locale: "en_US",
		ClientProperties: wire.Table{"product": "warren bench", "capabilities": wire.Table{"authentication_failure_close": true}}}); err != nil {
		return err
	}
	tune, err := expect[*wire.ConnectionTune](c)
	if err != nil {
		return err
	}
	// No heartbeats: a bench that stands still is to be seen, not cut.
	if err := c.send(0, &wire.ConnectionTuneOk{ChannelMax: tune.ChannelMax, FrameMax: min(tune.FrameMax, c.frameMax)}); err != nil {
		return err
	}
	c.frameMax = min(tune.FrameMax, c.frameMax)
	if err := c.send(0, &wire.ConnectionOpen{VirtualHost: vhost}); err != nil {
		return err
	}
	if _, err := expect[*wire.ConnectionOpenOk](c); err != nil {
		return err
	}
	if err := c.send(benchChannel, &wire.ChannelOpen{}); err != nil {
		return err
	}
	if _, err := expect[*wire.ChannelOpenOk](c); err != nil {
		return err
	}
	return c.socket.SetDeadline(time.Time{})
}

func (c *client) send(channel uint16, m wire.Method) error {
	_, err := c.socket.Write(wire.AppendMethodFrame(nil, channel, m))
	return err
}

// expect reads the next method before start; any other than the one wanted is an error.
func expect[M wire.Method](c *client) (M, error) {
	var none M
	for {
		f, ok, err := c.in.Next()
		if err != nil {
			return none, err
		}
		if !ok {
			if err := c.in.Fill(); err != nil {
				return none, err
			}
			continue
		}
		m, err := wire.ParseMethod(f.Payload)
		if err != nil {
			return none, err
		}
		if wanted, ok := m.(M); ok {
			return wanted, nil
		}
		return none, unexpected(m)
	}
}

func unexpected(m wire.Method) error {
	switch m := m.(type) {
	case *wire.ConnectionClose:
		return fmt.Errorf("the server closed the connection: %d %s", m.ReplyCode, m.ReplyText)
	case *wire.ChannelClose:
		return fmt.Errorf("the server closed the channel: %d %s", m.ReplyCode, m.ReplyText)
	}
	return fmt.Errorf("unexpected %T", m)
}

// goodbye closes the connection as the protocol has it; only before start.
func (c *client) goodbye() error {
	if err := c.socket.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return err
	}
	if err := c.send(0, &wire.ConnectionClose{ReplyCode: 200}); err != nil {
		return err
	}
	_, err := expect[*wire.ConnectionCloseOk](c)
	return errors.Join(err, c.socket.Close())
}

// ask sends a method on the channel and returns its answer; only before start.
func ask[M wire.Method](c *client, m wire.Method) (M, error) {
	if err := c.send(benchChannel, m); err != nil {
		var none M
		return none, err
	}
	return expect[M](c)
}

// start begins reading.
func (c *client) start() {
	go func() {
		c.err = c.read()
		close(c.gone)
	}()
}

// read handles what comes until the connection ends.
func (c *client) read() error {
	var tag uint64
	var body []byte
	var want uint64
	for {
		f, ok, err := c.in.Next()
		if err != nil {
			return err
		}
		if !ok {
			if c.onBatch != nil {
				if err := c.onBatch(); err != nil {
					return err
				}
			}
			if err := c.in.Fill(); err != nil {
				return err
			}
			continue
		}
		switch f.Type {
		case wire.FrameHeader:
			h, err := wire.ParseContentHeader(f.Payload)
			if err != nil {
				return err
			}
			body, want = body[:0], h.BodySize
			if want == 0 {
				c.onDeliver(tag, nil)
			}
		case wire.FrameBody:
			if uint64(len(f.Payload)) == want {
				c.onDeliver(tag, f.Payload)
				continue
			}
			if body = append(body, f.Payload...); uint64(len(body)) == want {
				c.onDeliver(tag, body)
			}
		case wire.FrameMethod:
			if tag, err = c.method(f.Payload, tag); err != nil {
				return err
			}
		}
	}
}

// method handles one method; it returns the tag of the delivery whose content comes next.
func (c *client) method(payload []byte, tag uint64) (uint64, error) {
	id, err := wire.PeekMethod(payload)
	if err != nil {
		return 0, err
	}
	switch id {
	case wire.BasicDeliverID:
		d, err := wire.ParseDeliver(payload)
		return d.DeliveryTag, err
	case wire.BasicAckID:
		a, err := wire.ParseAck(payload)
		if err == nil {
			c.onConfirm(a.DeliveryTag, a.Multiple, true)
		}
		return tag, err
	}
	m, err := wire.ParseMethod(payload)
	if err != nil {
		return 0, err
	}
	switch m := m.(type) {
	case *wire.BasicNack:
		c.onConfirm(m.DeliveryTag, m.Multiple, false)
	case *wire.ConnectionClose, *wire.ChannelClose, *wire.BasicCancel:
		return 0, unexpected(m)
	case *wire.ConnectionBlocked, *wire.ConnectionUnblocked:
	default:
		select {
		case c.replies <- m:
		default:
			return 0, unexpected(m)
		}
	}
	return tag, nil
}

// call sends a method and waits for its answer. One call at a time, after start.
func (c *client) call(ctx context.Context, m wire.Method) (wire.Method, error) {
	if err := c.write(func(out []byte) []byte { return wire.AppendMethodFrame(out, benchChannel, m) }, true); err != nil {
		return nil, err
	}
	select {
	case reply := <-c.replies:
		return reply, nil
	case <-c.gone:
		return nil, c.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// flushSize is how much is gathered before it is written.
const flushSize = 64 << 10

// write appends to the buffer and writes it when it is large or flush is set.
func (c *client) write(f func([]byte) []byte, flush bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = f(c.out)
	if !flush && len(c.out) < flushSize || len(c.out) == 0 {
		return nil
	}
	_, err := c.socket.Write(c.out)
	c.out = c.out[:0]
	return err
}

func (c *client) flush() error {
	return c.write(func(out []byte) []byte { return out }, true)
}

func (c *client) close() {
	_ = c.socket.Close() // the measurement is over
	<-c.gone
}
