package broker

import "github.com/warrenmq/warren/auth"

// permissions is what a channel has found its user allowed to do. A refusal ends the channel, so only grants are kept.
type permissions struct {
	conn     *Conn
	rights   uint64 // the count of changes that granted belongs to
	granted  map[grant]struct{}
	exchange []byte // the last one that write was granted on; nil: none
}

type grant struct {
	op auth.Operation
	of resource
}

// maxGrants bounds what a channel remembers.
const maxGrants = 256

// check returns nil when the user may do this. The default exchange is called amq.default.
func (p *permissions) check(op auth.Operation, of resource) error {
	of = of.permitted()
	p.renew()
	if _, ok := p.granted[grant{op, of}]; ok {
		return nil
	}
	if !p.conn.allowed(op, of.name) {
		return p.refuse(op, of)
	}
	if len(p.granted) >= maxGrants {
		clear(p.granted)
	}
	p.granted[grant{op, of}] = struct{}{}
	return nil
}

// checkAny returns nil when the user may do anything at all with it.
func (p *permissions) checkAny(of resource) error {
	of = of.permitted()
	for _, op := range [...]auth.Operation{auth.Configure, auth.Write, auth.Read} {
		if p.conn.allowed(op, of.name) {
			return nil
		}
	}
	return p.refuse(auth.Configure, of)
}

func (p *permissions) refuse(op auth.Operation, of resource) error {
	return errorf(AccessRefused, "%s access to %s refused for user '%s'", op, of, p.conn.user)
}

// renew forgets everything when users or permissions have changed.
func (p *permissions) renew() {
	if now := p.conn.broker.rights.Load(); p.rights != now {
		p.rights, p.granted, p.exchange = now, map[grant]struct{}{}, nil
	}
}

// publish is check for writing to an exchange.
func (p *permissions) publish(exchange []byte) error {
	if p.exchange != nil && p.rights == p.conn.broker.rights.Load() && string(p.exchange) == string(exchange) {
		return nil
	}
	if err := p.check(auth.Write, exchangeIn(string(exchange), p.conn.vhost.name)); err != nil {
		return err
	}
	p.exchange = append(append(p.exchange[:0], exchange...), 0)[:len(exchange)] // not nil
	return nil
}
