package amqp

import (
	"context"
	"errors"

	"github.com/warrenmq/warren/amqp/wire"
	"github.com/warrenmq/warren/broker"
)

// scope says what an error ends.
type scope bool

const (
	ofChannel    scope = false // soft: channel.close
	ofConnection scope = true  // hard: connection.close
)

// codes maps the broker's kinds to reply codes and scopes (reference: errors.md 2).
var codes = map[broker.Kind]struct {
	code  uint16
	scope scope
}{
	broker.NotFound:           {wire.NotFound, ofChannel},
	broker.AccessRefused:      {wire.AccessRefused, ofChannel},
	broker.ResourceLocked:     {wire.ResourceLocked, ofChannel},
	broker.PreconditionFailed: {wire.PreconditionFailed, ofChannel},
	broker.Exists:             {wire.PreconditionFailed, ofChannel},
	broker.TimedOut:           {wire.PreconditionFailed, ofChannel},
	broker.Unavailable:        {wire.NotFound, ofChannel}, // what RabbitMQ says of a queue that does not answer in time
	broker.NotAllowed:         {wire.NotAllowed, ofConnection},
	broker.NotImplemented:     {wire.NotImplemented, ofConnection},
	broker.ResourceError:      {wire.ResourceError, ofConnection},
}

// protocolError is an error with everything that a close method says.
type protocolError struct {
	code   uint16
	text   string // without the name in front; empty: the bare name
	scope  scope
	class  uint16
	method uint16
}

func (e *protocolError) Error() string { return wire.ReplyText(e.code, e.text) }

// hard makes an error that closes the connection.
func hard(code uint16, text string) *protocolError {
	return &protocolError{code: code, text: text, scope: ofConnection}
}

// soft makes an error that closes the channel.
func soft(code uint16, text string) *protocolError {
	return &protocolError{code: code, text: text, scope: ofChannel}
}

// errDropped ends a connection without a word: the peer is gone, or must not be told.
var errDropped = errors.New("connection dropped")

// toProtocol turns any error into what the client is told. Details of an internal one go to the log alone.
func (c *conn) toProtocol(err error) *protocolError {
	var p *protocolError
	var b *broker.Error
	var w *wire.Error
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &w):
		return &protocolError{code: w.Code, text: w.Text, scope: ofConnection, class: w.Class, method: w.Method}
	case errors.As(err, &b) && b.Kind != broker.Internal:
		kind := codes[b.Kind]
		return &protocolError{code: kind.code, text: b.Text, scope: kind.scope}
	case errors.Is(err, context.DeadlineExceeded):
		return soft(wire.NotFound, "the operation did not end in time; whether it took effect is not known")
	}
	c.log.Error("internal error", "err", err)
	return hard(wire.InternalError, "")
}
