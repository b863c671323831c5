package amqptest

import (
	"encoding/binary"
	"errors"
	"net"
	"reflect"
	"testing"
	"time"

	"github.com/warrenmq/warren/amqp/wire"
)

// Header is the protocol header of AMQP 0-9-1.
const Header = "AMQP\x00\x00\x09\x01"

// Client is the other end of a connection: it sends any bytes and takes frames.
type Client struct {
	t      testing.TB
	Socket net.Conn
	in     *wire.Scanner
	out    []byte
}

// NewClient speaks over a socket, which is closed at the end of the test.
func NewClient(t testing.TB, socket net.Conn) *Client {
	t.Cleanup(func() { _ = socket.Close() })
	return &Client{t: t, Socket: socket, in: wire.NewScanner(socket, 1<<20)}
}

// Send writes bytes.
func (c *Client) Send(data string) {
	c.t.Helper()
	if _, err := c.Socket.Write([]byte(data)); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// Methods writes methods on a channel, in one piece.
func (c *Client) Methods(channel uint16, methods ...wire.Method) {
	c.t.Helper()
	c.out = c.out[:0]
	for _, m := range methods {
		c.out = wire.AppendMethodFrame(c.out, channel, m)
	}
	c.Send(string(c.out))
}

// Publish writes a message.
func (c *Client) Publish(channel uint16, exchange, key string, p wire.Properties, body []byte) {
	c.t.Helper()
	c.out = wire.AppendPublish(c.out[:0], channel, exchange, key, false, false, p.Append(nil), body, 8192)
	c.Send(string(c.out))
}

// Frame reads the next frame; its payload is valid until the next call.
func (c *Client) Frame() (wire.Frame, error) {
	for {
		f, ok, err := c.in.Next()
		if ok || err != nil {
			return f, err
		}
		if err := c.in.Fill(); err != nil {
			return wire.Frame{}, err
		}
	}
}

// Raw reads n bytes that are no frame.
func (c *Client) Raw(n int) (string, error) {
	data, err := c.in.ReadRaw(n)
	return string(data), err
}

// Want reads a method and compares it.
func (c *Client) Want(channel uint16, want wire.Method) {
	c.t.Helper()
	if got := c.Method(channel); !reflect.DeepEqual(got, want) {
		c.t.Fatalf("got %T %+v, want %T %+v", got, got, want, want)
	}
}

// Method reads a method on a channel, past heartbeats.
func (c *Client) Method(channel uint16) wire.Method {
	c.t.Helper()
	for {
		f, err := c.Frame()
		switch {
		case err != nil:
			c.t.Fatalf("read: %v", err)
		case f.Type == wire.FrameHeartbeat:
			continue
		case f.Type != wire.FrameMethod || f.Channel != channel:
			c.t.Fatalf("frame %+v instead of a method on channel %d", f, channel)
		}
		m, err := wire.ParseMethod(f.Payload)
		if err != nil {
			c.t.Fatal(err)
		}
		return m
	}
}

// Message reads a content header and a body.
func (c *Client) Message(channel uint16) (properties wire.Properties, body []byte) {
	c.t.Helper()
	f, err := c.Frame()
	if err != nil || f.Type != wire.FrameHeader || f.Channel != channel {
		c.t.Fatalf("frame %+v, %v instead of a content header on channel %d", f, err, channel)
	}
	h, err := wire.ParseContentHeader(f.Payload)
	if err != nil {
		c.t.Fatal(err)
	}
	if properties, err = wire.ParseProperties(h.Properties); err != nil {
		c.t.Fatal(err)
	}
	for uint64(len(body)) < h.BodySize {
		f, err := c.Frame()
		if err != nil || f.Type != wire.FrameBody || f.Channel != channel {
			c.t.Fatalf("frame %+v, %v instead of a body on channel %d", f, err, channel)
		}
		body = append(body, f.Payload...)
	}
	return properties, body
}

// WantClosed reads past everything until the server closes the connection.
func (c *Client) WantClosed() {
	c.t.Helper()
	if err := c.Socket.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return // closed already
	}
	for {
		_, err := c.Frame()
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			c.t.Fatal("the server does not close the connection")
		}
		if err != nil {
			return
		}
	}
}

// Login is what a handshake says.
type Login struct {
	User, Password, VHost string // default: guest, guest, /
	Mechanism             string // default: PLAIN
	Properties            wire.Table
	ChannelMax            uint16 // default: what the server proposes
	FrameMax              uint32
	Heartbeat             uint16 // 0: none
}

// Response is the SASL response of the login.
func (l *Login) Response() string {
	if l.Mechanism == "AMQPLAIN" {
		return string(wire.AppendTable(nil, wire.Table{"LOGIN": l.User, "PASSWORD": l.Password})[4:])
	}
	return "\x00" + l.User + "\x00" + l.Password
}

func orElse[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// Open goes through the handshake.
func (c *Client) Open(l Login) {
	c.t.Helper()
	l.User, l.Password = orElse(l.User, "guest"), orElse(l.Password, "guest")
	c.Send(Header)
	if _, ok := c.Method(0).(*wire.ConnectionStart); !ok {
		c.t.Fatal("no connection.start")
	}
	c.Methods(0, &wire.ConnectionStartOk{ClientProperties: l.Properties, Mechanism: orElse(l.Mechanism, "PLAIN"), Response: l.Response(), Locale: "en_US"})
	tune, ok := c.Method(0).(*wire.ConnectionTune)
	if !ok {
		c.t.Fatal("no connection.tune")
	}
	c.Methods(0, &wire.ConnectionTuneOk{ChannelMax: orElse(l.ChannelMax, tune.ChannelMax), FrameMax: orElse(l.FrameMax, tune.FrameMax), Heartbeat: l.Heartbeat},
		&wire.ConnectionOpen{VirtualHost: orElse(l.VHost, "/")})
	c.Want(0, &wire.ConnectionOpenOk{})
}

// OpenChannel opens a channel.
func (c *Client) OpenChannel(number uint16) {
	c.t.Helper()
	c.Methods(number, &wire.ChannelOpen{})
	c.Want(number, &wire.ChannelOpenOk{})
}

// AppendFrame appends a frame of any kind.
func AppendFrame(dst []byte, kind byte, channel uint16, payload []byte) []byte {
	dst = append(dst, kind, byte(channel>>8), byte(channel))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(payload)))
	return append(append(dst, payload...), 206)
}
