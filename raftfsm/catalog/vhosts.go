package catalog

import (
	"unicode/utf8"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm"
)

// maxName is the longest name, and the longest routing key, in bytes: what a short string holds.
const maxName = 255

// checkName refuses a name that cannot be one.
func checkName(what, name string) *raftfsm.Error {
	switch {
	case name == "":
		return raftfsm.Errorf(raftfsm.PreconditionFailed, "%s name is empty", what)
	case len(name) > maxName:
		return raftfsm.Errorf(raftfsm.PreconditionFailed, "%s name of %d bytes is longer than %d", what, len(name), maxName)
	case !utf8.ValidString(name):
		return raftfsm.Errorf(raftfsm.PreconditionFailed, "%s name is not valid UTF-8", what)
	}
	return nil
}

// vhost looks a vhost up.
func (s *State) vhost(name string) (*VHost, *raftfsm.Error) {
	if v := s.vhosts[name]; v != nil {
		return v, nil
	}
	return nil, raftfsm.Errorf(raftfsm.NotFound, "vhost '%s' not found", name)
}

func (a *apply) createVHost(m *raftv1.CreateVHost) *raftfsm.Error {
	if err := checkName("vhost", m.Name); err != nil {
		return err
	}
	if a.vhosts[m.Name] != nil {
		return raftfsm.Errorf(raftfsm.Exists, "vhost '%s' exists", m.Name)
	}
	v := newVHost(m.Name, m.Description)
	a.vhosts[m.Name] = v
	a.changed(Change{Kind: VHostAdded, VHost: m.Name})
	for _, d := range predeclared() {
		d.Vhost = m.Name
		x, err := newExchange(d)
		if err != nil {
			panic(err) // the list is at fault
		}
		a.addExchange(v, x)
	}
	return nil
}

// deleteVHost removes a vhost with all that is in it.
func (a *apply) deleteVHost(m *raftv1.DeleteVHost) *raftfsm.Error {
	v, err := a.vhost(m.Name)
	if err != nil {
		return err
	}
	a.dropBindings(v, v.Bindings())
	for q := range v.Queues() {
		a.dropQueue(v, q)
	}
	for x := range v.Exchanges() {
		if x.Name != "" {
			a.dropExchange(v, x)
		}
	}
	for p := range v.Permissions() {
		a.dropPermission(v, p.User)
	}
	delete(a.vhosts, v.Name)
	a.changed(Change{Kind: VHostRemoved, VHost: v.Name})
	return nil
}
