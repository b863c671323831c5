package rpc

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"net"
	"runtime/debug"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"

	"github.com/warrenmq/warren/auth"
	"github.com/warrenmq/warren/broker"
	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

const (
	authorizationKey = "authorization"
	vhostKey         = "warren-vhost"
	basicScheme      = "basic "
	bearerScheme     = "bearer "
	defaultVHost     = "/"

	// The methods that need no credentials begin so: those of health, and for clients on this machine those of reflection. Its answers
	// are long, and who does not read them makes the node keep them.
	healthMethods     = "/grpc.health."
	reflectionMethods = "/grpc.reflection."
)

// caller is who makes a call.
type caller struct {
	identity *broker.Identity
	vhost    string
	address  string
}

type callerKey struct{}

func callerOf(ctx context.Context) caller { return ctx.Value(callerKey{}).(caller) }

// admit logs the caller of a new stream in, before anything of its messages is read: who has no credentials takes little
// memory (see strangers). It runs on the connection's reading goroutine, so that wrong passwords delay those who send them.
func (s *Server) admit(ctx context.Context, info *tap.Info) (context.Context, error) {
	p, _ := peer.FromContext(ctx)
	if strings.HasPrefix(info.FullMethodName, healthMethods) || strings.HasPrefix(info.FullMethodName, reflectionMethods) && isLoopback(p.Addr) {
		return s.strangers.admit(ctx, s.running)
	}
	c, err := s.login(ctx)
	if err != nil {
		return nil, s.toStatus(err)
	}
	return context.WithValue(ctx, callerKey{}, c), nil
}

// unary turns errors into statuses and contains a panic.
func (s *Server) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (response any, err error) {
	defer func() { s.metrics.ended(info.FullMethod, err) }()
	defer s.contain(info.FullMethod, &err)
	response, err = handler(ctx, request)
	return response, s.toStatus(err)
}

// stream does the same for streams.
func (s *Server) stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	s.metrics.streams.Add(1)
	defer func() { s.metrics.streams.Add(-1); s.metrics.ended(info.FullMethod, err) }()
	defer s.contain(info.FullMethod, &err)
	if c, ok := stream.Context().Value(strangerKey{}).(*stranger); ok {
		return s.toStatus(c.listen(server, stream, info, handler))
	}
	return s.toStatus(handler(server, stream))
}

// contain makes a panic, which is a broken invariant of this call, the end of this call alone.
func (s *Server) contain(method string, err *error) {
	if reason := recover(); reason != nil {
		s.log.Error("call given up", "method", method, "panic", reason, "stack", string(debug.Stack()))
		*err = failure(codes.Internal, brokerv1.ErrorReason_ERROR_REASON_INTERNAL, "internal error")
	}
}

// login reads the credentials of a call. What was verified before is remembered, so that it costs next to nothing.
func (s *Server) login(ctx context.Context) (caller, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	c := caller{vhost: defaultVHost}
	if v := md.Get(vhostKey); len(v) == 1 {
		c.vhost = v[0]
	}
	var err error
	p, ok := peer.FromContext(ctx)
	if !ok {
		return caller{}, loginRefused("the client's address is not known")
	}
	c.address = p.Addr.String()
	if certificate := certificateOf(p); certificate != nil && len(md.Get(authorizationKey)) == 0 {
		c.identity, err = s.loginByCertificate(ctx, certificate, isLoopback(p.Addr))
	} else {
		c.identity, err = s.loginByMetadata(ctx, md, isLoopback(p.Addr))
	}
	if err != nil {
		if _, _, refused := ofMessage(err); refused {
			return caller{}, loginRefused("login was refused")
		}
		return caller{}, err
	}
	return c, nil
}

func (s *Server) loginByMetadata(ctx context.Context, md metadata.MD, loopback bool) (*broker.Identity, error) {
	values := md.Get(authorizationKey)
	if len(values) != 1 {
		return nil, loginRefused("no credentials: metadata must have authorization: Basic … or Bearer …")
	}
	if token, ok := cutScheme(values[0], bearerScheme); ok {
		return s.options.Broker.LoginToken(ctx, token, loopback)
	}
	user, password, err := basicCredentials(values[0])
	if err != nil {
		return nil, err
	}
	return s.options.Broker.Login(ctx, user, password, loopback)
}

// cutScheme returns what follows a scheme, whose case does not count.
func cutScheme(value, scheme string) (rest string, ok bool) {
	if len(value) < len(scheme) || !strings.EqualFold(value[:len(scheme)], scheme) {
		return "", false
	}
	return value[len(scheme):], true
}

func (s *Server) loginByCertificate(ctx context.Context, c *x509.Certificate, loopback bool) (*broker.Identity, error) {
	user, err := auth.CertificateUser(c)
	if err != nil {
		return nil, loginRefused("the certificate names no user")
	}
	return s.options.Broker.LoginVerified(ctx, user, loopback)
}

// certificateOf is the client's certificate that was verified, or nil.
func certificateOf(p *peer.Peer) *x509.Certificate {
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return nil
	}
	return info.State.VerifiedChains[0][0]
}

func loginRefused(text string) error {
	return failure(codes.Unauthenticated, brokerv1.ErrorReason_ERROR_REASON_LOGIN_REFUSED, text)
}

// basicCredentials reads basic authentication.
func basicCredentials(value string) (user, password string, err error) {
	encoded, ok := cutScheme(value, basicScheme)
	if !ok {
		return "", "", loginRefused("unknown scheme of authorization: only Basic and Bearer are known")
	}
	plain, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return "", "", loginRefused("malformed credentials")
	}
	user, password, ok = strings.Cut(string(plain), ":")
	if !ok {
		return "", "", loginRefused("malformed credentials")
	}
	return user, password, nil
}

// isLoopback tells whether a client is on this machine; addresses that are none are those of pipes in memory.
func isLoopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return !ok || tcp.IP.IsLoopback()
}
