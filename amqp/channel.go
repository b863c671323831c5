package amqp

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warrenmq/warren/amqp/wire"
	"github.com/warrenmq/warren/broker"
)

// channel is an open channel of a connection. The reader goroutine owns it.
type channel struct {
	number  uint16
	broker  *broker.Channel
	content content
	closing bool // channel.close is out; everything but close-ok is ignored
}

// frame handles one frame. done tells that the connection has been closed in good order.
func (c *conn) frame(f wire.Frame) (done bool, err error) {
	if err := wire.CheckFrame(f); err != nil {
		return false, err
	}
	if f.Channel == 0 {
		return c.connectionFrame(f)
	}
	if f.Type == wire.FrameHeartbeat {
		return false, hard(wire.UnexpectedFrame, wire.DescribeFrame(f))
	}
	ch := c.channels[f.Channel]
	if ch == nil {
		return false, c.openChannel(f)
	}
	if ch.closing {
		return false, c.closingFrame(ch, f)
	}
	switch f.Type {
	case wire.FrameMethod:
		if ch.content.state != noContent {
			return false, hard(wire.UnexpectedFrame, ch.content.expectation())
		}
		return false, c.methodFrame(ch, f.Payload)
	case wire.FrameHeader:
		return false, c.headerFrame(ch, f.Payload)
	}
	return false, c.bodyFrame(ch, f.Payload)
}

// connectionFrame handles a frame on channel 0.
func (c *conn) connectionFrame(f wire.Frame) (done bool, err error) {
	switch f.Type {
	case wire.FrameHeartbeat:
		c.in.Shrink() // most clients send one when they have nothing else to say
		return false, nil
	case wire.FrameMethod:
	default:
		return false, hard(wire.UnexpectedFrame, wire.DescribeFrame(f))
	}
	m, err := wire.ParseMethod(f.Payload)
	if err != nil {
		return false, methodError(err)
	}
	switch m := m.(type) {
	case *wire.ConnectionClose:
		if err := c.flush(); err != nil {
			return false, err
		}
		c.out.returns()
		c.giveBack()
		c.out.method(0, &wire.ConnectionCloseOk{})
		return true, nil
	case *wire.ConnectionCloseOk:
		return true, nil
	case *wire.ConnectionUpdateSecret:
		return false, c.updateSecret(m)
	}
	return false, unexpected(m, "running")
}

func (c *conn) updateSecret(m *wire.ConnectionUpdateSecret) error {
	if err := c.broker.UpdateSecret(c.calls, m.NewSecret); err != nil {
		c.log.Warn("new secret refused", "user", c.client.userName, "reason", m.Reason, "err", err)
		return c.failing(wire.ConnectionUpdateSecretID, hard(wire.NotAllowed, "New secret was refused by one of the backends"))
	}
	c.out.method(0, &wire.ConnectionUpdateSecretOk{})
	return nil
}

// methodError says what a method that cannot be read ends with: an unknown one cuts the connection without a word, as
// RabbitMQ does (reference: errors.md 1).
func methodError(err error) error {
	if wire.IsUnknownMethod(err) {
		return fmt.Errorf("%w: %w", errDropped, err)
	}
	return err
}

// openChannel handles a frame of a channel that is not open: channel.open, or a fault.
func (c *conn) openChannel(f wire.Frame) error {
	if len(c.channels) >= int(c.channelMax) { // how many matters, not their numbers
		return hard(wire.NotAllowed, fmt.Sprintf("number of channels opened (%d) has reached the negotiated channel_max (%d)", len(c.channels), c.channelMax))
	}
	if f.Type != wire.FrameMethod {
		return hard(wire.UnexpectedFrame, "expected method frame, got non method frame instead")
	}
	m, err := wire.ParseMethod(f.Payload)
	if err != nil {
		return methodError(err)
	}
	if _, ok := m.(*wire.ChannelCloseOk); ok {
		return nil // crossed our own
	}
	if _, ok := m.(*wire.ChannelOpen); !ok {
		class, method := m.ID()
		return &protocolError{code: wire.ChannelError, text: "expected 'channel.open'", scope: ofConnection, class: class, method: method}
	}
	ch := &channel{number: f.Channel, broker: c.broker.OpenChannel(f.Channel)}
	c.channels[f.Channel] = ch
	c.out.method(f.Channel, &wire.ChannelOpenOk{})
	return nil
}

// closeChannel ends a channel for an error.
func (c *conn) closeChannel(ch *channel, p *protocolError) {
	// What was staged before the error is the client's will and goes first.
	if err := c.flush(); err != nil {
		c.log.Debug("flush before channel.close", "err", err)
	}
	c.out.returns()
	c.out.settle()
	c.dismiss(ch)
	c.out.goOn()
	c.out.method(ch.number, &wire.ChannelClose{ReplyCode: p.code, ReplyText: wire.ReplyText(p.code, p.text), ClassId: p.class, MethodId: p.method})
}

// dismiss gives a channel's work back and waits for the client's close-ok.
func (c *conn) dismiss(ch *channel) {
	ch.closing = true
	c.dropContent(ch)
	ch.broker.Close(c.ctx)
}

// closingFrame waits for close-ok, or answers a close that crossed ours.
func (c *conn) closingFrame(ch *channel, f wire.Frame) error {
	if f.Type != wire.FrameMethod {
		return nil
	}
	m, err := wire.ParseMethod(f.Payload)
	if err != nil {
		if err = methodError(err); errors.Is(err, errDropped) {
			return err
		}
		return nil // what is ignored need not be readable
	}
	switch m.(type) {
	case *wire.ChannelCloseOk:
		delete(c.channels, ch.number)
	case *wire.ChannelClose:
		c.out.method(ch.number, &wire.ChannelCloseOk{})
	}
	return nil
}

// clientCloses ends a channel because the client says so.
func (c *conn) clientCloses(ch *channel) error {
	if err := c.flush(); err != nil {
		return err
	}
	c.dropContent(ch)
	c.out.returns()
	ch.broker.Close(c.ctx)
	delete(c.channels, ch.number)
	c.out.method(ch.number, &wire.ChannelCloseOk{})
	return nil
}

// dropContent forgets content that will not be completed.
func (c *conn) dropContent(ch *channel) {
	c.incomplete -= ch.content.held
	ch.content = content{}
	c.unalias(ch)
}

// unalias says that a channel's content does not point into the read buffer any more.
func (c *conn) unalias(ch *channel) {
	if last := len(c.aliasing) - 1; last >= 0 && c.aliasing[last] == ch { // most of the time
		c.aliasing = c.aliasing[:last]
		return
	}
	c.aliasing = slices.DeleteFunc(c.aliasing, func(other *channel) bool { return other == ch })
}

// failures are the channels that the broker wants closed.
type failures struct {
	some atomic.Bool
	mu   sync.Mutex // guards list, and the socket's deadline while it says that there are some
	list []channelFailure
}

type channelFailure struct {
	channel *broker.Channel
	reason  *protocolError
}

// add notes a channel, and wakes a reader that waits for bytes.
func (f *failures) add(failed channelFailure, socket net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, failed)
	f.some.Store(true)
	_ = socket.SetReadDeadline(time.Unix(1, 0)) // a closed socket wakes him anyway
}

// take returns the channels, and undoes the waking.
func (f *failures) take(socket net.Conn) []channelFailure {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := f.list
	f.list = nil
	f.some.Store(false)
	_ = socket.SetReadDeadline(time.Time{}) // a closed socket fails the next read
	return list
}

// takeFailures closes the channels that the broker wants closed, and tells whether there were any. Since it takes back the deadline
// of reads, whoever calls it looks after that for c.forced, and sets one for the heartbeats, before he reads.
func (c *conn) takeFailures() bool {
	if !c.failed.some.Load() {
		return false
	}
	for _, failed := range c.failed.take(c.socket) {
		if ch := c.channels[failed.channel.Number()]; ch != nil && ch.broker == failed.channel && !ch.closing {
			c.closeChannel(ch, failed.reason)
		}
	}
	return true
}
