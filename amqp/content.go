package amqp

import (
	"fmt"

	"github.com/warrenmq/warren/amqp/wire"
	"github.com/warrenmq/warren/broker"
)

type contentState uint8

const (
	noContent contentState = iota
	wantHeader
	wantBody
)

// content is a message that a channel is receiving: basic.publish, a header frame, body frames. Its slices point into the
// read buffer until own copies them, so that a message that came in one piece is not copied here at all.
type content struct {
	state    contentState
	publish  broker.Publish
	size     uint64 // of the body
	received uint64
	owned    bool // the slices are this struct's own
	tooLarge bool // the body is passed over
}

// expectation words what should have come instead of a method (reference: errors.md 5.6).
func (ct *content) expectation() string {
	if ct.state == wantHeader {
		return "expected content header for class 60, got non content header frame instead"
	}
	return "expected content body, got non content body frame instead"
}

// own copies what points into the read buffer.
func (ct *content) own() {
	if ct.owned || ct.state == noContent {
		return
	}
	p := &ct.publish
	p.Exchange = append([]byte(nil), p.Exchange...)
	p.RoutingKey = append([]byte(nil), p.RoutingKey...)
	p.Properties = append([]byte(nil), p.Properties...)
	if !ct.tooLarge && ct.state == wantBody {
		p.Body = append(make([]byte, 0, ct.size), p.Body...)
	}
	ct.owned = true
}

// beginContent starts with basic.publish.
func (c *conn) beginContent(ch *channel, m wire.Publish) {
	ch.content = content{state: wantHeader, publish: broker.Publish{Exchange: m.Exchange, RoutingKey: m.RoutingKey, Mandatory: m.Mandatory, Immediate: m.Immediate}}
	c.aliasing = append(c.aliasing, ch)
}

// classBasic is the only class with content.
const classBasic = 60

// maxBody is what RabbitMQ never accepts, whatever is configured (reference: errors.md 5.7).
const maxBody = 512 << 20

func (c *conn) headerFrame(ch *channel, payload []byte) error {
	ct := &ch.content
	if ct.state != wantHeader {
		if ct.state == noContent {
			return hard(wire.UnexpectedFrame, "expected method frame, got non method frame instead")
		}
		return hard(wire.UnexpectedFrame, ct.expectation())
	}
	h, err := wire.ParseContentHeader(payload)
	if err != nil {
		return err
	}
	if h.Class != classBasic {
		return hard(wire.UnexpectedFrame, fmt.Sprintf("expected content header for class 60, got one for class %d instead", h.Class))
	}
	if h.BodySize > maxBody {
		return hard(wire.FrameError, fmt.Sprintf("content body size %d exceeds maximum allowed size %d", h.BodySize, maxBody))
	}
	ct.state, ct.size = wantBody, h.BodySize
	ct.publish.Properties = h.Properties
	if ct.owned {
		ct.publish.Properties = append([]byte(nil), h.Properties...)
	}
	ct.tooLarge = int64(h.BodySize) > c.server.options.MaxMessageSize
	if h.BodySize == 0 {
		return c.endContent(ch)
	}
	return nil
}

func (c *conn) bodyFrame(ch *channel, payload []byte) error {
	ct := &ch.content
	if ct.state != wantBody {
		if ct.state == noContent {
			return hard(wire.UnexpectedFrame, "expected method frame, got non method frame instead")
		}
		return hard(wire.UnexpectedFrame, ct.expectation())
	}
	ct.received += uint64(len(payload))
	if ct.received > ct.size {
		return hard(wire.FrameError, "content body frame exceeds remaining content size")
	}
	switch {
	case ct.tooLarge:
	case ct.received == uint64(len(payload)) && ct.received == ct.size:
		ct.publish.Body = payload // all of it, straight from the read buffer
	default:
		ct.own()
		if ct.publish.Body == nil {
			ct.publish.Body = make([]byte, 0, ct.size)
		}
		ct.publish.Body = append(ct.publish.Body, payload...)
	}
	if ct.received < ct.size {
		return nil
	}
	return c.endContent(ch)
}

// endContent publishes a complete message.
func (c *conn) endContent(ch *channel) error {
	ct := &ch.content
	p := ct.publish
	large, size := ct.tooLarge && !p.Immediate, ct.size
	owned := ct.owned
	ct.state, ct.publish = noContent, broker.Publish{}
	if !owned {
		// The last one that began, most of the time.
		if last := len(c.aliasing) - 1; last >= 0 && c.aliasing[last] == ch {
			c.aliasing = c.aliasing[:last]
		} else {
			c.dropContent(ch)
		}
	}
	if large {
		return c.failing(wire.BasicPublishID, soft(wire.PreconditionFailed,
			fmt.Sprintf("message size %d is larger than configured max size %d", size, c.server.options.MaxMessageSize)))
	}
	if err := ch.broker.Publish(c.ctx, &p); err != nil {
		return c.failing(wire.BasicPublishID, err)
	}
	return nil
}
