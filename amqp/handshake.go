package amqp

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"time"

	"github.com/warrenmq/warren/amqp/wire"
	"github.com/warrenmq/warren/auth"
	"github.com/warrenmq/warren/broker"
)

// refusalPause delays the end of a connection that failed before its login and is not told why, as RabbitMQ does.
const refusalPause = 3 * time.Second

// handshake takes the connection from its first byte to connection.open-ok. An error ends the connection; what the client
// is to be told has been written.
func (c *conn) handshake() error {
	if err := c.readHeader(); err != nil {
		return err
	}
	if err := c.authenticate(); err != nil {
		return err
	}
	if err := c.tune(); err != nil {
		var p *protocolError
		if errors.As(err, &p) && p.code != wire.NotAllowed {
			return c.silentRefusal(err)
		}
		return c.handshakeRefusal(err)
	}
	if err := c.open(); err != nil {
		return c.handshakeRefusal(err)
	}
	return nil
}

var (
	headerAMQP091 = []byte{'A', 'M', 'Q', 'P', 0, 0, 9, 1}
	headerAMQP11  = []byte{'A', 'M', 'Q', 'P', 1, 1, 0, 9} // some old clients; the same protocol
)

// readHeader reads the protocol header. The answer to any other is the one header that this server knows (AMQP 0-9-1,
// 4.2.2); RabbitMQ, which speaks AMQP 1.0 as well, answers some with that (reference: errors.md 3.1).
func (c *conn) readHeader() error {
	header, err := c.in.ReadRaw(len(headerAMQP091))
	if err != nil {
		return fmt.Errorf("read protocol header: %w", err)
	}
	if bytes.Equal(header, headerAMQP091) || bytes.Equal(header, headerAMQP11) {
		return nil
	}
	header = bytes.Clone(header)
	_, err = c.socket.Write(headerAMQP091)
	return errors.Join(fmt.Errorf("unsupported protocol header %q", header), err)
}

// send writes a method at once; before the conversation there is no writer goroutine.
func (c *conn) send(channel uint16, m wire.Method) error {
	_, err := c.socket.Write(wire.AppendMethodFrame(nil, channel, m))
	return err
}

// receive reads the next method on channel 0, past heartbeats.
func (c *conn) receive() (wire.Method, error) {
	for {
		frame, ok, err := c.in.Next()
		if err != nil {
			return nil, err
		}
		if !ok {
			if err := c.in.Fill(); err != nil {
				return nil, err
			}
			continue
		}
		if err := wire.CheckFrame(frame); err != nil {
			return nil, err
		}
		if frame.Type == wire.FrameHeartbeat && frame.Channel == 0 {
			continue
		}
		if frame.Type != wire.FrameMethod || frame.Channel != 0 {
			return nil, hard(wire.UnexpectedFrame, wire.DescribeFrame(frame))
		}
		return wire.ParseMethod(frame.Payload)
	}
}

// external is the mechanism of who has shown a certificate.
const external = "EXTERNAL"

// certificate is the one that the client has shown and that was verified, or nil.
func (c *conn) certificate() *x509.Certificate {
	socket, ok := c.socket.(*tls.Conn)
	if !ok {
		return nil
	}
	if chains := socket.ConnectionState().VerifiedChains; len(chains) > 0 {
		return chains[0][0]
	}
	return nil
}

func (c *conn) authenticate() error {
	mechanisms := "PLAIN AMQPLAIN"
	if c.certificate() != nil {
		mechanisms += " " + external
	}
	if err := c.send(0, &wire.ConnectionStart{VersionMajor: 0, VersionMinor: 9, ServerProperties: c.server.properties(),
		Mechanisms: mechanisms, Locales: "en_US"}); err != nil {
		return err
	}
	ok, user, password, err := c.receiveStartOk()
	if err != nil {
		return c.silentRefusal(err)
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.server.options.HandshakeTimeout)
	defer cancel()
	var identity *broker.Identity
	if ok.Mechanism == external {
		identity, err = c.server.options.Broker.LoginVerified(ctx, user, c.loopback())
	} else {
		identity, err = c.server.options.Broker.Login(ctx, user, password, c.loopback())
	}
	if err != nil {
		return c.refuseLogin(ok.Mechanism, err)
	}
	c.client.identity, c.client.mechanism, c.client.userName = identity, ok.Mechanism, user
	return nil
}

// receiveStartOk reads connection.start-ok.
func (c *conn) receiveStartOk() (ok *wire.ConnectionStartOk, user, password string, err error) {
	m, err := c.receive()
	if err != nil {
		return nil, "", "", err
	}
	ok, is := m.(*wire.ConnectionStartOk)
	if !is {
		return nil, "", "", unexpected(m, "starting")
	}
	c.readClient(ok.ClientProperties)
	user, password, err = c.credentials(ok)
	return ok, user, password, err
}

// readClient notes what the client can do and its name for itself.
func (c *conn) readClient(properties wire.Table) {
	c.client.name, _ = properties["connection_name"].(string)
	capabilities, _ := properties["capabilities"].(wire.Table)
	has := func(name string) bool { v, _ := capabilities[name].(bool); return v }
	c.client.cancelNotify = has("consumer_cancel_notify")
	c.client.blocked = has("connection.blocked")
	c.client.authenticationClose = has("authentication_failure_close")
}

// credentials reads the SASL response of start-ok.
func (c *conn) credentials(ok *wire.ConnectionStartOk) (user, password string, err error) {
	switch ok.Mechanism {
	case "PLAIN":
		return auth.ParsePlain([]byte(ok.Response))
	case "AMQPLAIN":
		table, err := wire.ParseTableBody([]byte(ok.Response))
		if err != nil {
			return "", "", err
		}
		return auth.ParseAMQPlain(table)
	case external:
		if certificate := c.certificate(); certificate != nil {
			user, err = auth.CertificateUser(certificate)
			return user, "", err
		}
	}
	return "", "", fmt.Errorf("unknown authentication mechanism '%s'", ok.Mechanism)
}

// refuseLogin tells a client that asked for it why; others are cut after a pause (reference: errors.md 3.3).
func (c *conn) refuseLogin(mechanism string, err error) error {
	var refusal *broker.Error
	if !errors.As(err, &refusal) || refusal.Kind != broker.AccessRefused {
		return c.handshakeRefusal(err)
	}
	if !c.client.authenticationClose {
		return c.silentRefusal(err)
	}
	return c.handshakeRefusal(hard(wire.AccessRefused,
		fmt.Sprintf("Login was refused using authentication mechanism %s. For details see the broker logfile.", mechanism)))
}

// isGone tells whether err says that nothing more comes from the peer, or nothing in time.
func isGone(err error) bool {
	var socket net.Error
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) || errors.As(err, &socket)
}

// silentRefusal ends a connection without a word, and not at once: so that nobody tries one password after the other.
func (c *conn) silentRefusal(err error) error {
	if isGone(err) {
		return err
	}
	select {
	case <-time.After(refusalPause):
	case <-c.calls.Done():
	}
	return err
}

// handshakeRefusal tells the client with connection.close and waits for its close-ok.
func (c *conn) handshakeRefusal(err error) error {
	if isGone(err) {
		return err
	}
	p := c.toProtocol(err)
	if sendErr := c.send(0, &wire.ConnectionClose{ReplyCode: p.code, ReplyText: wire.ReplyText(p.code, p.text), ClassId: p.class, MethodId: p.method}); sendErr != nil {
		return err
	}
	if c.socket.SetDeadline(time.Now().Add(closeTimeout)) == nil {
		c.closing = true
		c.readToCloseOk()
	}
	return err
}

// readToCloseOk is awaitCloseOk before there is a writer.
func (c *conn) readToCloseOk() {
	for {
		m, err := c.receive()
		if err != nil {
			return
		}
		switch m.(type) {
		case *wire.ConnectionCloseOk:
			return
		case *wire.ConnectionClose:
			_ = c.send(0, &wire.ConnectionCloseOk{}) // the connection ends either way
			return
		}
	}
}

// tune agrees on limits (reference: errors.md 3.4).
func (c *conn) tune() error {
	proposed := uint16(c.server.options.Heartbeat / time.Second)
	if err := c.send(0, &wire.ConnectionTune{ChannelMax: channelMax, FrameMax: frameMax, Heartbeat: proposed}); err != nil {
		return err
	}
	m, err := c.receive()
	if err != nil {
		return err
	}
	ok, is := m.(*wire.ConnectionTuneOk)
	if !is {
		return unexpected(m, "tuning")
	}
	if err := cmp.Or(checkTune("frame_max", ok.FrameMax, frameMinSize, frameMax), checkTune("channel_max", uint32(ok.ChannelMax), 1, channelMax)); err != nil {
		return err
	}
	c.channelMax, c.frameMax = ok.ChannelMax, ok.FrameMax
	c.heartbeat = time.Duration(ok.Heartbeat) * time.Second
	c.in.SetFrameMax(ok.FrameMax)
	return nil
}

// checkTune refuses a limit out of bounds. It is the proposal that failed, so that the error names connection.tune.
func checkTune(name string, chosen, least, most uint32) *protocolError {
	var what string
	switch {
	case chosen == 0:
		what = fmt.Sprintf("= 0 (no limit) is higher than the maximum allowed value (%d)", most)
	case chosen > most:
		what = fmt.Sprintf("= %d is higher than the maximum allowed value (%d)", chosen, most)
	case chosen < least:
		what = fmt.Sprintf("= %d is lower than the minimum allowed value (%d)", chosen, least)
	default:
		return nil
	}
	return &protocolError{code: wire.NotAllowed, text: "negotiated " + name + " " + what, scope: ofConnection,
		class: wire.ConnectionTuneID.Class(), method: wire.ConnectionTuneID.Method()}
}

// unexpected refuses a method that has no place in a state of the handshake.
func unexpected(m wire.Method, state string) error {
	class, method := m.ID()
	return &protocolError{code: wire.ChannelError, text: "unexpected method in connection state " + state, scope: ofConnection, class: class, method: method}
}

// open enters the vhost.
func (c *conn) open() error {
	m, err := c.receive()
	if err != nil {
		return err
	}
	open, is := m.(*wire.ConnectionOpen)
	if !is {
		return unexpected(m, "opening")
	}
	if err := c.server.admit(); err != nil {
		err.class, err.method = m.ID()
		return err
	}
	c.admitted = true
	ctx, cancel := context.WithTimeout(c.ctx, c.server.options.HandshakeTimeout)
	defer cancel()
	name := fmt.Sprintf("%s -> %s", c.socket.RemoteAddr(), c.socket.LocalAddr())
	c.broker, err = c.server.options.Broker.Open(ctx, c.client.identity, open.VirtualHost, broker.ConnOptions{Name: name, Events: c,
		Patience: c.out.patience()})
	if err != nil {
		p := c.toProtocol(err)
		p.class, p.method = m.ID()
		p.scope = ofConnection
		return p
	}
	return c.send(0, &wire.ConnectionOpenOk{})
}

// loopback tells whether the client is on this machine.
func (c *conn) loopback() bool {
	addr, ok := c.socket.RemoteAddr().(*net.TCPAddr)
	return !ok || addr.IP.IsLoopback()
}

// properties are the server-properties of connection.start.
func (s *Server) properties() wire.Table {
	product, version := "Warren", s.options.Version
	if p, v, ok := strings.Cut(s.options.Announce, "/"); ok {
		product, version = p, v
	}
	return wire.Table{
		"capabilities": wire.Table{
			"publisher_confirms": true, "exchange_exchange_bindings": true, "basic.nack": true, "consumer_cancel_notify": true,
			"connection.blocked": true, "consumer_priorities": true, "authentication_failure_close": true,
			"per_consumer_qos": true, "direct_reply_to": true,
		},
		"cluster_name": s.options.ClusterName,
		"copyright":    "Copyright the Warren authors",
		"information":  "Licensed under the Apache License 2.0",
		"platform":     runtime.Version(),
		"product":      product,
		"version":      version,
	}
}
