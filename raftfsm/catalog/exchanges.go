package catalog

import (
	"strings"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm"
	"github.com/warrenmq/warren/router"
)

// systemPrefix begins the names that clients may not declare.
const systemPrefix = "amq."

// predeclared are the exchanges of every vhost besides the default exchange (reference: features.md 3).
func predeclared() []*raftv1.DeclareExchange {
	return []*raftv1.DeclareExchange{
		{Name: "amq.direct", Type: "direct", Durable: true},
		{Name: "amq.fanout", Type: "fanout", Durable: true},
		{Name: "amq.headers", Type: "headers", Durable: true},
		{Name: "amq.match", Type: "headers", Durable: true},
		{Name: "amq.rabbitmq.trace", Type: "topic", Durable: true, Internal: true},
		{Name: "amq.topic", Type: "topic", Durable: true},
	}
}

// IsSystemExchange tells whether the name is one that every vhost has from the start, or could have.
func IsSystemExchange(name string) bool { return name == "" || strings.HasPrefix(name, systemPrefix) }

func refuseDefaultExchange() *raftfsm.Error {
	return raftfsm.Errorf(raftfsm.AccessRefused, "operation not permitted on the default exchange")
}

func (a *apply) declareExchange(m *raftv1.DeclareExchange) *raftfsm.Error {
	v, err := a.vhost(m.Vhost)
	if err != nil {
		return err
	}
	if _, err := exchangeKind(m.Type); err != nil {
		return err
	}
	if m.Name == "" {
		return refuseDefaultExchange()
	}
	if old := v.exchanges[m.Name]; old != nil {
		a.reply.Exchange = old
		return EquivalentExchange(old, m)
	}
	if IsSystemExchange(m.Name) {
		return raftfsm.Errorf(raftfsm.AccessRefused, "exchange name '%s' contains reserved prefix 'amq.*'", m.Name)
	}
	x, err := newExchange(m)
	if err != nil {
		return err
	}
	a.addExchange(v, x)
	a.reply.Exchange = x
	return nil
}

// newExchange checks a declaration and makes the exchange of it.
func newExchange(m *raftv1.DeclareExchange) (*Exchange, *raftfsm.Error) {
	if err := checkName("exchange", m.Name); err != nil {
		return nil, err
	}
	if err := checkTable(m.Arguments); err != nil {
		return nil, err
	}
	kind, err := ValidateExchange(m)
	if err != nil {
		return nil, err
	}
	x := &Exchange{VHost: m.Vhost, Name: m.Name, Type: m.Type, Kind: kind, Durable: m.Durable, AutoDelete: m.AutoDelete,
		Internal: m.Internal, Arguments: canonical(m.Arguments)}
	x.Alternate, _ = textOf(field(m.Arguments, alternateExchange))
	return x, nil
}

func exchangeKind(name string) (router.Kind, *raftfsm.Error) {
	kind, ok := router.ParseKind(name)
	if !ok {
		return 0, raftfsm.Errorf(raftfsm.PreconditionFailed, "unknown exchange type '%s'", name)
	}
	return kind, nil
}

func (a *apply) addExchange(v *VHost, x *Exchange) {
	v.exchanges[x.Name] = x
	a.changed(Change{Kind: ExchangeAdded, VHost: v.Name, Exchange: x})
}

// deleteExchange removes an exchange. In use means, as in RabbitMQ, that there are bindings from it; those to it do not
// count. What is not there is deleted.
func (a *apply) deleteExchange(m *raftv1.DeleteExchange) *raftfsm.Error {
	if m.Name == "" {
		return refuseDefaultExchange()
	}
	if IsSystemExchange(m.Name) {
		return raftfsm.Errorf(raftfsm.AccessRefused, "deletion of system %s not allowed", exchangeResource(m.Vhost, m.Name))
	}
	v := a.vhosts[m.Vhost]
	if v == nil || v.exchanges[m.Name] == nil {
		return nil
	}
	if m.IfUnused && len(v.from[m.Name]) > 0 {
		return raftfsm.Errorf(raftfsm.PreconditionFailed, "%s in use", exchangeResource(m.Vhost, m.Name))
	}
	a.removeExchange(v, v.exchanges[m.Name])
	return nil
}

// removeExchange removes an exchange with its bindings, and what deletes itself thereupon.
func (a *apply) removeExchange(v *VHost, x *Exchange) { a.autoDelete(v, a.dropExchange(v, x)) }

// dropExchange removes an exchange and its bindings, and returns those that led to it.
func (a *apply) dropExchange(v *VHost, x *Exchange) (gone []*Binding) {
	a.dropBindings(v, v.BindingsFrom(x.Name))
	gone = a.dropBindings(v, v.BindingsToExchange(x.Name))
	delete(v.exchanges, x.Name)
	a.changed(Change{Kind: ExchangeRemoved, VHost: v.Name, Exchange: x})
	return gone
}
