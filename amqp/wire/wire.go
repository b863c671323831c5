// Package wire holds AMQP 0-9-1 as bytes and values: frames, methods, content headers and their properties, field tables in
// RabbitMQ's dialect. It reads from and appends to buffers. Sockets, order of frames and meaning are left to others.
//
// Source of all layouts: AMQP 0-9-1 specification, section 4.2, with RabbitMQ's published errata for field tables.
package wire

import "fmt"

//go:generate go run ./gen

// MethodID is a method's class in the upper and its number in the lower 16 bits.
type MethodID uint32

// Class returns the class.
func (id MethodID) Class() uint16 { return uint16(id >> 16) }

// Method returns the number in the class.
func (id MethodID) Method() uint16 { return uint16(id) }

// Method is any method as a value.
type Method interface {
	ID() (class, method uint16)
	read(*reader)
	write(*encoder)
}

// Reply codes (AMQP 0-9-1, 1.2; reference: errors.md 2).
const (
	ContentTooLarge    = 311
	NoRoute            = 312
	NoConsumers        = 313
	ConnectionForced   = 320
	InvalidPath        = 402
	AccessRefused      = 403
	NotFound           = 404
	ResourceLocked     = 405
	PreconditionFailed = 406
	FrameError         = 501
	SyntaxError        = 502
	CommandInvalid     = 503
	ChannelError       = 504
	UnexpectedFrame    = 505
	ResourceError      = 506
	NotAllowed         = 530
	NotImplemented     = 540
	InternalError      = 541
)

var codeNames = map[uint16]string{
	ContentTooLarge: "CONTENT_TOO_LARGE", NoRoute: "NO_ROUTE", NoConsumers: "NO_CONSUMERS", ConnectionForced: "CONNECTION_FORCED",
	InvalidPath: "INVALID_PATH", AccessRefused: "ACCESS_REFUSED", NotFound: "NOT_FOUND", ResourceLocked: "RESOURCE_LOCKED",
	PreconditionFailed: "PRECONDITION_FAILED", FrameError: "FRAME_ERROR", SyntaxError: "SYNTAX_ERROR", CommandInvalid: "COMMAND_INVALID",
	ChannelError: "CHANNEL_ERROR", UnexpectedFrame: "UNEXPECTED_FRAME", ResourceError: "RESOURCE_ERROR", NotAllowed: "NOT_ALLOWED",
	NotImplemented: "NOT_IMPLEMENTED", InternalError: "INTERNAL_ERROR",
}

// maxShortStr is the longest short string.
const maxShortStr = 255

// ReplyText writes a close method's text as RabbitMQ does: the code's name, a dash and the explanation, cut to 255 bytes;
// the bare name without explanation.
func ReplyText(code uint16, explanation string) string {
	text := codeNames[code]
	if explanation != "" {
		text += " - " + explanation
	}
	return text[:min(len(text), maxShortStr)]
}

// Error is a fault in what was read, with the reply code it is to be answered with.
type Error struct {
	Code          uint16
	Text          string
	Class, Method uint16
}

// Error returns the reply text.
func (e *Error) Error() string { return ReplyText(e.Code, e.Text) }

func frameError(format string, args ...any) *Error {
	return &Error{Code: FrameError, Text: fmt.Sprintf(format, args...)}
}

func syntaxError(format string, args ...any) *Error {
	return &Error{Code: SyntaxError, Text: fmt.Sprintf(format, args...)}
}
