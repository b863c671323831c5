package bench

import (
	"context"
	"crypto/tls"
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

	events events // what comes unasked; set before start

	// What publish sends beside the body; set before the first.
	exchange, key string
	properties    []byte
}

// benchChannel is the one channel of a client.
const benchChannel = 1

// handshakeTimeout bounds the way from the connection to the open channel.
const handshakeTimeout = 30 * time.Second

// dial connects, logs in and opens the channel. start begins reading.
func (t *Target) dial(ctx context.Context, server string) (*client, error) {
	socket, err := t.open(ctx, server)
	if err != nil {
		return nil, err
	}
	c := &client{socket: socket, in: wire.NewScanner(socket, 131072), frameMax: 131072, replies: make(chan wire.Method, 1), gone: make(chan struct{})}
	if err := c.handshake(t); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to %s: %w", server, err), socket.Close())
	}
	return c, nil
}

func (t *Target) open(ctx context.Context, server string) (net.Conn, error) {
	plain := &net.Dialer{Timeout: handshakeTimeout}
	if t.TLS == nil {
		return plain.DialContext(ctx, "tcp", server)
	}
	return (&tls.Dialer{NetDialer: plain, Config: t.TLS}).DialContext(ctx, "tcp", server)
}

// credentials are the mechanism of SASL and what it says.
func (t *Target) credentials() (mechanism, response string) {
	if t.User == "" {
		return "EXTERNAL", ""
	}
	return "PLAIN", "\x00" + t.User + "\x00" + t.Password
}

func (c *client) handshake(t *Target) error {
	if err := c.socket.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return err
	}
	if _, err := c.socket.Write([]byte("AMQP\x00\x00\x09\x01")); err != nil {
		return err
	}
	if _, err := expect[*wire.ConnectionStart](c); err != nil {
		return err
	}
	mechanism, response := t.credentials()
	if err := c.send(0, &wire.ConnectionStartOk{Mechanism: mechanism, Response: response, Locale: "en_US",
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
	if err := c.send(0, &wire.ConnectionOpen{VirtualHost: t.VHost}); err != nil {
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
			if c.events.batch != nil {
				if err := c.events.batch(c); err != nil {
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
			if want > 0 {
				continue
			}
			if err := c.events.deliver(c, tag, nil); err != nil {
				return err
			}
		case wire.FrameBody:
			whole := f.Payload
			if uint64(len(whole)) < want {
				body = append(body, f.Payload...)
				whole = body
			}
			if uint64(len(whole)) < want {
				continue
			}
			if err := c.events.deliver(c, tag, whole); err != nil {
				return err
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
			c.confirmed(a.DeliveryTag, a.Multiple, true)
		}
		return tag, err
	}
	m, err := wire.ParseMethod(payload)
	if err != nil {
		return 0, err
	}
	switch m := m.(type) {
	case *wire.BasicNack:
		c.confirmed(m.DeliveryTag, m.Multiple, false)
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

func (c *client) confirmed(tag uint64, multiple, ack bool) {
	first := tag
	if multiple {
		first = 0
	}
	c.events.confirm(first, tag, ack)
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

// publish implements conversation, as do the methods below.
func (c *client) publish(body []byte) error {
	return c.write(func(out []byte) []byte {
		return wire.AppendPublish(out, benchChannel, c.exchange, c.key, false, false, c.properties, body, c.frameMax)
	}, false)
}

func (c *client) ack(tag uint64) error {
	return c.write(func(out []byte) []byte { return wire.AppendAck(out, benchChannel, tag, true) }, false)
}

func (c *client) ended() <-chan struct{} { return c.gone }

func (c *client) cause() error { return c.err }

func (c *client) hangUp() { _ = c.socket.Close() } // the measurement is over

func (c *client) close() {
	c.hangUp()
	<-c.gone
}

// amqpDoor is AMQP 0-9-1.
type amqpDoor struct{}

// begin opens a client that reads.
func (amqpDoor) begin(ctx context.Context, r *run, server string, e events) (*client, error) {
	c, err := r.o.dial(ctx, server)
	if err != nil {
		return nil, err
	}
	if e.confirm == nil {
		e.confirm = func(uint64, uint64, bool) {}
	}
	if e.deliver == nil {
		e.deliver = func(conversation, uint64, []byte) error { return nil }
	}
	c.events = e
	c.start()
	return c, nil
}

// with begins a client and calls it; one that fails is closed.
func (d amqpDoor) with(ctx context.Context, r *run, server string, e events, calls ...wire.Method) (*client, error) {
	c, err := d.begin(ctx, r, server, e)
	if err != nil {
		return nil, err
	}
	for _, m := range calls {
		if _, err := c.call(ctx, m); err != nil {
			c.close()
			return nil, err
		}
	}
	return c, nil
}

func (d amqpDoor) declare(ctx context.Context, r *run) error {
	var calls []wire.Method
	for i := range r.o.Queues {
		calls = append(calls, r.o.declare(r.queueName(i)))
	}
	if r.o.Fanout {
		calls = append(calls, &wire.ExchangeDeclare{Exchange: r.exchange(), Type: "fanout", Durable: true})
		for i := range r.o.Queues {
			calls = append(calls, &wire.QueueBind{Queue: r.queueName(i), Exchange: r.exchange()})
		}
	}
	c, err := d.with(ctx, r, r.o.Servers[0], events{}, calls...)
	if err != nil {
		return fmt.Errorf("declare queues: %w", err)
	}
	c.close()
	return nil
}

func (d amqpDoor) remove(ctx context.Context, r *run) {
	var calls []wire.Method
	for i := range r.o.Queues {
		calls = append(calls, &wire.QueueDelete{Queue: r.queueName(i)})
	}
	if r.o.Fanout {
		calls = append(calls, &wire.ExchangeDelete{Exchange: r.exchange()})
	}
	if c, err := d.with(ctx, r, r.o.Servers[0], events{}, calls...); err == nil {
		c.close()
	}
}

func (d amqpDoor) publisher(ctx context.Context, r *run, server, queue string, e events) (conversation, error) {
	var calls []wire.Method
	if r.o.Confirm > 0 {
		calls = append(calls, &wire.ConfirmSelect{})
	}
	c, err := d.with(ctx, r, server, e, calls...)
	if err != nil {
		return nil, err
	}
	p := wire.Properties{}
	if r.o.Persistent {
		p.DeliveryMode = persistent
	}
	c.exchange, c.key, c.properties = r.exchange(), queue, p.Append(nil)
	return c, nil
}

func (d amqpDoor) consumer(ctx context.Context, r *run, server, queue string, e events) (conversation, error) {
	var calls []wire.Method
	if r.o.Prefetch > 0 {
		calls = append(calls, &wire.BasicQos{PrefetchCount: uint16(r.o.Prefetch)})
	}
	c, err := d.with(ctx, r, server, e, append(calls, &wire.BasicConsume{Queue: queue, NoAck: r.o.AckEvery == 0})...)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// persistent is the delivery mode of messages that are.
const persistent = 2
