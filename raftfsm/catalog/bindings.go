package catalog

import (
	"cmp"
	"iter"
	"maps"
	"slices"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm"
	"github.com/warrenmq/warren/router"
)

// end is where a binding leads.
type end struct {
	name       string
	toExchange bool
}

// bindingID is what tells the bindings of a vhost apart.
type bindingID struct {
	source      string
	destination end
	key         string
	arguments   string // canonical bytes
}

func (a bindingID) compare(b bindingID) int {
	return cmp.Or(
		cmp.Compare(a.source, b.source),
		compareBool(a.destination.toExchange, b.destination.toExchange),
		cmp.Compare(a.destination.name, b.destination.name),
		cmp.Compare(a.key, b.key),
		cmp.Compare(a.arguments, b.arguments))
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

type bindingSet map[bindingID]*Binding

func (s bindingSet) ordered() iter.Seq[*Binding] {
	return func(yield func(*Binding) bool) {
		for _, b := range slices.SortedFunc(maps.Values(s), func(a, b *Binding) int { return a.id.compare(b.id) }) {
			if !yield(b) {
				return
			}
		}
	}
}

// newBinding makes a binding of what Bind and Unbind say.
func newBinding(m *raftv1.Bind) *Binding {
	key := routingKey(m)
	arguments := canonical(m.Arguments)
	return &Binding{
		VHost:       m.Vhost,
		Source:      m.Source,
		Destination: m.Destination,
		ToExchange:  m.ToExchange,
		Key:         key,
		Arguments:   arguments,
		id:          bindingID{m.Source, end{m.Destination, m.ToExchange}, key, tableIdentity(arguments)},
	}
}

func (a *apply) bind(m *raftv1.Bind) *raftfsm.Error {
	v, err := a.vhost(m.Vhost)
	if err != nil {
		return err
	}
	if err := checkTable(m.Arguments); err != nil {
		return err
	}
	b := newBinding(m)
	if err := v.checkBinding(b); err != nil {
		return err
	}
	if v.bindings[b.id] == nil {
		v.putBinding(b)
		a.changed(Change{Kind: BindingAdded, VHost: v.Name, Binding: b})
	}
	return nil
}

// checkBinding tells whether both ends are there and the source's type takes such a binding.
func (v *VHost) checkBinding(b *Binding) *raftfsm.Error {
	if b.Source == "" || b.ToExchange && b.Destination == "" {
		return refuseDefaultExchange()
	}
	source := v.exchanges[b.Source]
	switch {
	case source == nil:
		return raftfsm.Errorf(raftfsm.NotFound, "no %s", exchangeResource(v.Name, b.Source))
	case b.ToExchange && v.exchanges[b.Destination] == nil:
		return raftfsm.Errorf(raftfsm.NotFound, "no %s", exchangeResource(v.Name, b.Destination))
	case !b.ToExchange && v.queues[b.Destination] == nil:
		return raftfsm.Errorf(raftfsm.NotFound, "no %s", queueResource(v.Name, b.Destination))
	case len(b.Key) > maxName:
		return raftfsm.Errorf(raftfsm.PreconditionFailed, "a binding key of %d bytes is longer than %d", len(b.Key), maxName)
	}
	if err := router.ValidateBinding(source.Kind, b.Key, TableToGo(b.Arguments)); err != nil {
		return raftfsm.Errorf(raftfsm.PreconditionFailed, "%s", err.Error())
	}
	return nil
}

// unbind removes a binding. What is not there is not bound.
func (a *apply) unbind(m *raftv1.Unbind) *raftfsm.Error {
	if m.Source == "" || m.ToExchange && m.Destination == "" {
		return refuseDefaultExchange()
	}
	v := a.vhosts[m.Vhost]
	if v == nil || checkTable(m.Arguments) != nil {
		return nil
	}
	wanted := newBinding(&raftv1.Bind{Vhost: m.Vhost, Source: m.Source, Destination: m.Destination, ToExchange: m.ToExchange,
		RoutingKey: m.RoutingKey, RoutingKeyOctets: m.RoutingKeyOctets, Arguments: m.Arguments})
	if b := v.bindings[wanted.id]; b != nil {
		a.dropBinding(v, b)
		a.autoDelete(v, []*Binding{b})
	}
	return nil
}

func (v *VHost) putBinding(b *Binding) {
	v.bindings[b.id] = b
	addTo(v.from, b.Source, b)
	addTo(v.to, b.id.destination, b)
}

func addTo[K comparable](index map[K]bindingSet, key K, b *Binding) {
	if index[key] == nil {
		index[key] = bindingSet{}
	}
	index[key][b.id] = b
}

func takeFrom[K comparable](index map[K]bindingSet, key K, b *Binding) {
	delete(index[key], b.id)
	if len(index[key]) == 0 {
		delete(index, key)
	}
}

// dropBinding removes a binding and nothing that depends on it.
func (a *apply) dropBinding(v *VHost, b *Binding) {
	delete(v.bindings, b.id)
	takeFrom(v.from, b.Source, b)
	takeFrom(v.to, b.id.destination, b)
	a.changed(Change{Kind: BindingRemoved, VHost: v.Name, Binding: b})
}

// dropBindings removes bindings and returns them.
func (a *apply) dropBindings(v *VHost, bindings iter.Seq[*Binding]) []*Binding {
	dropped := slices.Collect(bindings)
	for _, b := range dropped {
		a.dropBinding(v, b)
	}
	return dropped
}

// autoDelete removes the sources of bindings that are gone, if they delete themselves with their last one; in turn, what
// was bound to those.
func (a *apply) autoDelete(v *VHost, gone []*Binding) {
	for len(gone) > 0 {
		x := v.exchanges[gone[0].Source]
		gone = gone[1:]
		if x != nil && x.AutoDelete && len(v.from[x.Name]) == 0 {
			gone = append(gone, a.dropExchange(v, x)...)
		}
	}
}
