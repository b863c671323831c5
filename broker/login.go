package broker

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/warrenmq/warren/auth"
	"github.com/warrenmq/warren/raftfsm/catalog"
)

// Identity is a user who has logged in.
type Identity struct {
	User string
	Tags []string

	token string // what it was verified by; empty: by something else
}

// Login checks a user's password. loopback tells that the client is on this machine: the user guest may come from
// nowhere else. Every refusal is the same *Error of kind AccessRefused; the log has the reason.
func (b *Broker) Login(ctx context.Context, user, password string, loopback bool) (*Identity, error) {
	return b.login(ctx, user, loopback, func(stored string) (bool, error) { return b.verifier.Verify(ctx, user, stored, password) })
}

// LoginVerified logs in a user whose identity the caller has verified, by a certificate. The rest is as with Login.
func (b *Broker) LoginVerified(ctx context.Context, user string, loopback bool) (*Identity, error) {
	return b.login(ctx, user, loopback, func(string) (bool, error) { return true, nil })
}

// LoginToken logs in the user whom a bearer token stands for. The rest is as with Login.
func (b *Broker) LoginToken(ctx context.Context, token string, loopback bool) (*Identity, error) {
	if b.options.Tokens == nil {
		b.log.Warn("login refused", "reason", "this node accepts no tokens")
		return nil, errorf(AccessRefused, "Login was refused")
	}
	user, err := b.options.Tokens.User(token, time.Now())
	if err != nil {
		b.log.Warn("login refused", "reason", err)
		return nil, errorf(AccessRefused, "Login was refused")
	}
	id, err := b.LoginVerified(ctx, user, loopback)
	if err == nil {
		id.token = token
	}
	return id, err
}

// refusesToken tells that a token of a login is none any more. That it has expired since does not count.
func (b *Broker) refusesToken(token string) bool {
	return token != "" && !b.options.Tokens.Signed(token)
}

// TokenKeysChanged ends the connections that were begun with a token whose key is gone. Those that begin meanwhile see to it
// themselves.
func (b *Broker) TokenKeysChanged() {
	b.closeWhere(revokedText, func(c *Conn) bool { return b.refusesToken(c.token) })
}

const revokedText = "the key of the token is not accepted any more"

// login asks verify about the user's stored password, "" for a user that does not exist.
func (b *Broker) login(ctx context.Context, user string, loopback bool, verify func(stored string) (bool, error)) (*Identity, error) {
	id, reason, err := b.identify(user, verify)
	if err == nil && reason != "" && b.replicator.Fresh() != nil {
		if err := b.awaitFresh(ctx); err != nil {
			return nil, err
		}
		id, reason, err = b.identify(user, verify)
	}
	if err != nil {
		return nil, err
	}
	if reason == "" && !auth.MayConnect(user, loopback) {
		reason = "user can only connect via localhost"
	}
	if reason != "" {
		b.log.Warn("login refused", "user", user, "reason", reason)
		return nil, errorf(AccessRefused, "Login was refused")
	}
	return id, nil
}

// identify returns the user, or why not.
func (b *Broker) identify(user string, verify func(stored string) (bool, error)) (id *Identity, reason string, err error) {
	var u *catalog.User
	b.replicator.ReadCatalog(func(s *catalog.State) { u = s.User(user) })
	known := u != nil
	if !known {
		u = &catalog.User{}
	}
	ok, err := verify(u.PasswordHash)
	switch {
	case err != nil:
		return nil, "", fmt.Errorf("check the password of user %q: %w", user, err)
	case !known:
		return nil, "no such user", nil
	case !ok:
		return nil, "invalid credentials", nil
	}
	return &Identity{User: u.Name, Tags: slices.Clone(u.Tags)}, "", nil
}

// Open begins a connection of the user to a vhost. Refusals are of kind NotAllowed.
func (b *Broker) Open(ctx context.Context, id *Identity, vhost string, o ConnOptions) (*Conn, error) {
	v := b.vhostNamed(vhost)
	if v == nil {
		if err := b.awaitFresh(ctx); err != nil {
			return nil, err
		}
		if v = b.vhostNamed(vhost); v == nil {
			return nil, errorf(NotAllowed, "vhost %s not found", vhost)
		}
	}
	c := b.newConn(id, v, o)
	if c.permission() == nil {
		return nil, errorf(NotAllowed, "access to vhost '%s' refused for user '%s'", vhost, id.User)
	}
	b.mu.Lock()
	b.conns[c] = struct{}{}
	b.mu.Unlock()
	if b.vhostNamed(vhost) != v { // deleted meanwhile, and the connection may not have been told
		b.forget(c)
		return nil, errorf(NotAllowed, "vhost %s not found", vhost)
	}
	if b.refusesToken(c.token) { // since the login
		b.forget(c)
		return nil, errorf(AccessRefused, "Login was refused")
	}
	return c, nil
}

// permission returns what the user may do in the vhost; nil when that is nothing.
func (c *Conn) permission() (p *catalog.Permission) {
	c.broker.replicator.ReadCatalog(func(s *catalog.State) { p = s.Permission(c.user, c.vhost.name) })
	return p
}

// rights is what the user was allowed when it was looked up last.
type rights struct {
	count   uint64 // of the changes before
	allowed *auth.Permission
}

// allowed tells whether the user may do this with the queue or exchange of that name.
func (c *Conn) allowed(op auth.Operation, name string) bool {
	if now := c.broker.rights.Load(); c.rights.count != now {
		c.rights = rights{now, c.compile()}
	}
	return c.rights.allowed.Allows(op, name)
}

func (c *Conn) compile() *auth.Permission {
	granted := c.permission()
	if granted == nil {
		return nil
	}
	p, err := c.broker.patterns.Permission(granted.Configure, granted.Write, granted.Read)
	if err != nil {
		c.broker.log.Error("permission cannot be used", "user", c.user, "vhost", c.vhost.name, "err", err)
	}
	return p
}

// UpdateSecret checks the user's new password and his permissions anew; consumers whose queues he may not read any more
// are cancelled.
func (c *Conn) UpdateSecret(ctx context.Context, secret string) error {
	id, reason, err := c.broker.identify(c.user, func(stored string) (bool, error) { return c.broker.verifier.Verify(ctx, c.user, stored, secret) })
	if err != nil {
		return err
	}
	if reason != "" {
		c.broker.log.Warn("new secret refused", "user", c.user, "connection", c.name, "reason", reason)
		return errorf(NotAllowed, "New secret was refused by one of the backends")
	}
	c.tags = id.Tags
	c.rights = rights{}
	for _, ch := range c.channels {
		ch.permissions.rights = 0
		ch.cancelUnreadable(ctx)
	}
	return nil
}

// cancelUnreadable ends the consumers whose queues the user may not read; as with Cancel, what they have stays unsettled.
func (ch *Channel) cancelUnreadable(ctx context.Context) {
	ctx, cancel := ch.conn.operation(ctx)
	defer cancel()
	ch.mu.Lock()
	var refused []*consumer
	for _, c := range ch.consumers {
		if c != ch.replies && !ch.conn.allowed(auth.Read, c.name) {
			refused = append(refused, c)
		}
	}
	ch.mu.Unlock()
	for _, c := range refused {
		if err := ch.stop(ctx, c); err != nil { // the outcome is unknown, and more may be on its way
			ch.conn.broker.log.Warn("consumer that may not read any more gives back what it has", "connection", ch.conn.name, "queue", c.name, "err", err)
			ch.conn.stage.detach(c, false)
		}
		ch.conn.out.tell(c)
	}
}
