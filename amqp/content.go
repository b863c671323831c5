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
	held     int  // how much of the body is in memory of its own
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
	ct.owned = true
}

// firstBody is how much of a body is allocated on its header's word, in bytes; the rest as it comes.
const firstBody = 64 << 10

// add appends a frame's part of the body.
func (ct *content) add(payload []byte) {
	p := &ct.publish
	if p.Body == nil {
		p.Body = make([]byte, 0, min(ct.size, max(firstBody, uint64(len(payload)))))
	}
	if need := uint64(len(p.Body) + len(payload)); need > uint64(cap(p.Body)) {
		p.Body = append(make([]byte, 0, min(ct.size, max(2*uint64(cap(p.Body)), need))), p.Body...)
	}
	p.Body = append(p.Body, payload...)
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
		ct.held += len(payload)
		if c.incomplete += len(payload); c.incomplete > c.maxIncomplete() {
			return hard(wire.ResourceError, fmt.Sprintf("incomplete messages of more than %d bytes", c.maxIncomplete()))
		}
		ct.own()
		ct.add(payload)
	}
	if ct.received < ct.size {
		return nil
	}
	return c.endContent(ch)
}

// maxIncomplete bounds what a connection's channels hold of messages that are not complete: four of the longest, or a
// little of each channel.
func (c *conn) maxIncomplete() int { return max(4*int(c.server.options.MaxMessageSize), 64<<20) }

// endContent publishes a complete message.
func (c *conn) endContent(ch *channel) error {
	ct := &ch.content
	p := ct.publish
	large, size := ct.tooLarge && !p.Immediate, ct.size
	owned := ct.owned
	c.incomplete -= ct.held
	ct.state, ct.publish, ct.held = noContent, broker.Publish{}, 0
	if !owned {
		c.unalias(ch)
	}
	if large {
		return c.failing(wire.BasicPublishID, soft(wire.PreconditionFailed,
			fmt.Sprintf("message size %d is larger than configured max size %d", size, c.server.options.MaxMessageSize)))
	}
	if err := ch.broker.Publish(c.calls, &p); err != nil {
		return c.failing(wire.BasicPublishID, err)
	}
	return nil
}
