package node

import (
	"context"
	"crypto/tls"
	"net"

	"github.com/warrenmq/warren/cluster"
	"github.com/warrenmq/warren/tlsfiles"
)

// openTLS reads the certificates that the settings name and begins to watch them.
func (n *Node) openTLS() (err error) {
	c := n.config
	if c.TLSCert != "" {
		if n.clientTLS, err = n.watchTLS(tlsfiles.Files{Cert: c.TLSCert, Key: c.TLSKey, CA: c.TLSCA}); err != nil {
			return err
		}
	}
	if c.ClusterTLSCert != "" {
		n.nodeTLS, err = n.watchTLS(tlsfiles.Files{Cert: c.ClusterTLSCert, Key: c.ClusterTLSKey, CA: c.ClusterTLSCA})
	}
	return err
}

func (n *Node) watchTLS(f tlsfiles.Files) (*tlsfiles.Source, error) {
	s, err := tlsfiles.Open(f, n.log)
	if err != nil {
		return nil, err
	}
	n.untilQuit(s.Watch)
	return s, nil
}

// untilQuit runs a watcher, which ends with the node.
func (n *Node) untilQuit(watch func(context.Context)) {
	n.work.Go(func() {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() { <-n.quit; cancel() }()
		watch(ctx)
	})
}

// secure makes a listener of clients speak TLS, when there are certificates. The protocols are those of ALPN.
func (n *Node) secure(l net.Listener, protocols ...string) net.Listener {
	if n.clientTLS == nil {
		return l
	}
	return tls.NewListener(l, n.clientTLS.Server(protocols...))
}

// surroundings make connections between nodes mutual TLS, when there are certificates for it. The node that is called is
// checked by the name that all nodes' certificates have, since addresses change.
func (n *Node) surroundings() cluster.Surroundings {
	if n.nodeTLS == nil {
		return cluster.Surroundings{}
	}
	return cluster.Surroundings{
		Listen: func(address string) (net.Listener, error) {
			l, err := net.Listen("tcp", address)
			if err != nil {
				return nil, err
			}
			return tls.NewListener(l, n.nodeTLS.NodeServer()), nil
		},
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			var d net.Dialer
			socket, err := d.DialContext(ctx, "tcp", address)
			if err != nil {
				return nil, err
			}
			secured := tls.Client(socket, n.nodeTLS.NodeClient())
			if err := secured.HandshakeContext(ctx); err != nil {
				_ = socket.Close() // the handshake's error is the one to tell
				return nil, err
			}
			return secured, nil
		},
	}
}

// listenAMQP takes the ports of AMQP: in plain text, over TLS, or both.
func (n *Node) listenAMQP() ([]net.Listener, error) {
	c := n.config
	var list []net.Listener
	take := func(port int, secured bool) error {
		l, err := net.Listen("tcp", c.Address(port))
		if err != nil {
			return err
		}
		if secured {
			l = n.secure(l)
		}
		list = append(list, l)
		return nil
	}
	var err error
	if c.AMQPPort != 0 {
		err = take(c.AMQPPort, false)
	}
	if err == nil && n.clientTLS != nil && c.AMQPSPort != 0 {
		err = take(c.AMQPSPort, true)
	}
	if err != nil {
		closeAll(list)
		return nil, err
	}
	return list, nil
}

// closeAll gives ports back that nobody serves yet.
func closeAll(list []net.Listener) {
	for _, l := range list {
		_ = l.Close() // whoever gives up has an error to tell already
	}
}
