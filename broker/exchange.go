package broker

import (
	"context"

	"github.com/warrenmq/warren/auth"
	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/router"
)

// DeclareExchange makes sure that an exchange exists as described; passive, that it exists.
func (ch *Channel) DeclareExchange(ctx context.Context, d *ExchangeDeclare) error {
	ctx, cancel := ch.conn.operation(ctx)
	defer cancel()
	name, vhost := cleanName(d.Name), ch.conn.vhost.name
	if !d.Passive {
		if _, ok := router.ParseKind(d.Type); !ok {
			return errorf(PreconditionFailed, "unknown exchange type '%s'", d.Type)
		}
	}
	if err := notDefault(name); err != nil {
		return err
	}
	where := exchangeIn(name, vhost)
	if d.Passive {
		if err := ch.permissions.checkAny(where); err != nil {
			return err
		}
		_, err := ch.conn.lookupExchange(ctx, name)
		return ch.conn.broker.stands(ctx, err)
	}
	if err := ch.permissions.check(auth.Configure, where); err != nil {
		return err
	}
	return explain(ch.declareExchange(ctx, name, d), where.String())
}

func (ch *Channel) declareExchange(ctx context.Context, name string, d *ExchangeDeclare) error {
	cmd := &raftv1.DeclareExchange{Vhost: ch.conn.vhost.name, Name: name, Type: d.Type, Durable: d.Durable,
		AutoDelete: d.AutoDelete, Internal: d.Internal, Arguments: d.Arguments}
	switch x, err := ch.conn.lookupExchange(ctx, name); {
	case err == nil:
		return ch.conn.broker.stands(ctx, refusal(catalog.EquivalentExchange(x, cmd)))
	case !isKind(err, NotFound):
		return err
	}
	if reserved(name) {
		return errorf(AccessRefused, "exchange name '%s' contains reserved prefix 'amq.*'", name)
	}
	if err := ch.checkAlternate(name, d.Arguments); err != nil {
		return err
	}
	return ch.conn.broker.propose(ctx, catalog.DeclareExchange(cmd))
}

// checkAlternate checks the alternate exchange of a new exchange.
func (ch *Channel) checkAlternate(name string, arguments *Table) error {
	const key = "alternate-exchange"
	where := exchangeIn(name, ch.conn.vhost.name)
	v := lookup(arguments, key)
	if v == nil {
		return nil
	}
	alternate, ok := text(v)
	if !ok {
		return errorf(PreconditionFailed, "invalid type '%s' for arg '%s' in %s", fieldTypeName(byte(v.GetWireType())), key, where)
	}
	if err := ch.permissions.check(auth.Read, where); err != nil {
		return err
	}
	return ch.permissions.check(auth.Write, exchangeIn(alternate, ch.conn.vhost.name))
}

func notDefault(exchange string) error {
	if exchange == "" {
		return errorf(AccessRefused, "operation not permitted on the default exchange")
	}
	return nil
}

// DeleteExchange removes an exchange and its bindings. One that does not exist is no error.
func (ch *Channel) DeleteExchange(ctx context.Context, name string, ifUnused bool) error {
	ctx, cancel := ch.conn.operation(ctx)
	defer cancel()
	name = cleanName(name)
	where := exchangeIn(name, ch.conn.vhost.name)
	if err := notDefault(name); err != nil {
		return err
	}
	if catalog.IsSystemExchange(name) {
		return errorf(AccessRefused, "deletion of system %s not allowed", where)
	}
	if err := ch.permissions.check(auth.Configure, where); err != nil {
		return err
	}
	_, err := ch.conn.lookupExchange(ctx, name)
	if isKind(err, NotFound) {
		return ch.conn.broker.stands(ctx, nil)
	}
	if err != nil {
		return err
	}
	err = ch.conn.broker.propose(ctx, catalog.DeleteExchange(&raftv1.DeleteExchange{
		Vhost: ch.conn.vhost.name, Name: name, IfUnused: ifUnused}))
	if isKind(err, NotFound) {
		return nil
	}
	return explain(err, where.String())
}
