package broker

import (
	"sync/atomic"

	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/router"
)

// vhost is what publishers need of a vhost: its routing table, kept by the goroutine that applies the catalog's log and
// read by all others without a lock.
type vhost struct {
	name  string
	table atomic.Pointer[router.Table] // another one after the whole catalog was replaced
}

func (b *Broker) vhostNamed(name string) *vhost {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.vhosts[name]
}

// CatalogRestored implements CatalogObserver: all tables are built anew.
func (b *Broker) CatalogRestored(s *catalog.State) {
	b.rights.Add(1)
	for v := range s.VHosts() {
		b.addVHost(v.Name).table.Store(buildTable(v))
	}
	b.mu.Lock()
	var removed []string
	for name := range b.vhosts {
		if s.VHost(name) == nil {
			removed = append(removed, name)
		}
	}
	b.mu.Unlock()
	for _, name := range removed {
		b.removeVHost(name)
	}
	b.closeDeletedUsers(s)
}

func buildTable(v *catalog.VHost) *router.Table {
	t := router.NewTable()
	t.Update(func() {
		for x := range v.Exchanges() {
			t.PutExchange(x.Name, x.Kind, x.Alternate, x.Internal)
		}
		for q := range v.Queues() {
			t.BindDefault(q.Name, router.Dest(q.ID))
		}
		for bound := range v.Bindings() {
			bind(t, v, bound)
		}
	})
	return t
}

func (b *Broker) addVHost(name string) *vhost {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := b.vhosts[name]
	if v == nil {
		v = &vhost{name: name}
		v.table.Store(router.NewTable())
		b.vhosts[name] = v
	}
	return v
}

func (b *Broker) removeVHost(name string) {
	b.mu.Lock()
	delete(b.vhosts, name)
	b.mu.Unlock()
	b.closeWhere("vhost '"+name+"' is deleted", func(c *Conn) bool { return c.vhost.name == name })
}

// CatalogChanged implements CatalogObserver. Changes of one vhost that follow one another become visible at once.
func (b *Broker) CatalogChanged(s *catalog.State, changes []catalog.Change) {
	for len(changes) > 0 {
		n := 1
		for n < len(changes) && changes[n].VHost == changes[0].VHost && aboutRoutes(changes[n].Kind) == aboutRoutes(changes[0].Kind) {
			n++
		}
		if aboutRoutes(changes[0].Kind) {
			b.follow(s, changes[0].VHost, changes[:n])
		} else {
			b.notice(s, changes[:n])
		}
		changes = changes[n:]
	}
}

func aboutRoutes(k catalog.ChangeKind) bool {
	switch k {
	case catalog.ExchangeAdded, catalog.ExchangeRemoved, catalog.QueueAdded, catalog.QueueRemoved, catalog.BindingAdded, catalog.BindingRemoved:
		return true
	}
	return false
}

// follow changes a vhost's table.
func (b *Broker) follow(s *catalog.State, name string, changes []catalog.Change) {
	v := b.vhostNamed(name)
	if v == nil {
		return
	}
	t := v.table.Load()
	t.Update(func() {
		for i := range changes {
			followOne(t, s.VHost(name), &changes[i])
		}
	})
}

// followOne makes one change; v is the vhost after all of them, nil when it was removed.
func followOne(t *router.Table, v *catalog.VHost, c *catalog.Change) {
	switch c.Kind {
	case catalog.ExchangeAdded:
		t.PutExchange(c.Exchange.Name, c.Exchange.Kind, c.Exchange.Alternate, c.Exchange.Internal)
	case catalog.ExchangeRemoved:
		t.RemoveExchange(c.Exchange.Name)
	case catalog.QueueAdded:
		t.BindDefault(c.Queue.Name, router.Dest(c.Queue.ID))
	case catalog.QueueRemoved:
		t.RemoveDest(router.Dest(c.Queue.ID))
	case catalog.BindingAdded:
		bind(t, v, c.Binding)
	case catalog.BindingRemoved:
		unbind(t, v, c.Binding)
	}
}

func bind(t *router.Table, v *catalog.VHost, b *catalog.Binding) {
	arguments := catalog.TableToGo(b.Arguments)
	if b.ToExchange {
		t.BindExchange(b.Source, b.Destination, b.Key, arguments)
	} else if q := v.Queue(b.Destination); q != nil {
		t.Bind(b.Source, router.Dest(q.ID), b.Key, arguments)
	}
}

// unbind removes a binding; when its queue has gone too, that takes all its bindings along.
func unbind(t *router.Table, v *catalog.VHost, b *catalog.Binding) {
	arguments := catalog.TableToGo(b.Arguments)
	if b.ToExchange {
		t.UnbindExchange(b.Source, b.Destination, b.Key, arguments)
	} else if v == nil {
		return
	} else if q := v.Queue(b.Destination); q != nil {
		t.Unbind(b.Source, router.Dest(q.ID), b.Key, arguments)
	}
}

// notice acts on changes that are not about routes.
func (b *Broker) notice(s *catalog.State, changes []catalog.Change) {
	for i := range changes {
		c := &changes[i]
		switch c.Kind {
		case catalog.VHostAdded:
			b.addVHost(c.VHost)
		case catalog.VHostRemoved:
			b.removeVHost(c.VHost)
		case catalog.PermissionChanged:
			b.rights.Add(1)
		case catalog.UserChanged:
			b.rights.Add(1)
			b.closeDeletedUsers(s)
		}
	}
}

// closeDeletedUsers asks the connections of users who are no more to close.
func (b *Broker) closeDeletedUsers(s *catalog.State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		if s.User(c.user) == nil {
			c.out.events.Closed(errorf(Unavailable, "user '%s' is deleted", c.user))
		}
	}
}
