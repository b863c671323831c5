package catalog

import (
	"slices"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm"
)

func (a *apply) putUser(m *raftv1.PutUser) *raftfsm.Error {
	if err := checkName("user", m.Name); err != nil {
		return err
	}
	u := &User{Name: m.Name, PasswordHash: m.PasswordHash, Tags: m.Tags}
	if old := a.users[u.Name]; old != nil && old.PasswordHash == u.PasswordHash && slices.Equal(old.Tags, u.Tags) {
		return nil
	}
	a.users[u.Name] = u
	a.changed(Change{Kind: UserChanged, User: u.Name})
	return nil
}

// user looks a user up.
func (s *State) user(name string) *raftfsm.Error {
	if s.users[name] == nil {
		return raftfsm.Errorf(raftfsm.NotFound, "user '%s' not found", name)
	}
	return nil
}

// deleteUser removes a user with the permissions.
func (a *apply) deleteUser(m *raftv1.DeleteUser) *raftfsm.Error {
	if err := a.user(m.Name); err != nil {
		return err
	}
	for v := range a.VHosts() {
		if v.permissions[m.Name] != nil {
			a.dropPermission(v, m.Name)
		}
	}
	delete(a.users, m.Name)
	a.changed(Change{Kind: UserChanged, User: m.Name})
	return nil
}

func (a *apply) setPermission(m *raftv1.SetPermission) *raftfsm.Error {
	v, err := a.vhost(m.Vhost)
	if err != nil {
		return err
	}
	if err := a.user(m.User); err != nil {
		return err
	}
	p := newPermission(m)
	if old := v.permissions[p.User]; old != nil && *old == *p {
		return nil
	}
	v.permissions[p.User] = p
	a.changed(Change{Kind: PermissionChanged, VHost: v.Name, User: p.User})
	return nil
}

func newPermission(m *raftv1.SetPermission) *Permission {
	return &Permission{VHost: m.Vhost, User: m.User, Configure: m.Configure, Write: m.Write, Read: m.Read}
}

// clearPermission takes permissions away, if there are any.
func (a *apply) clearPermission(m *raftv1.ClearPermission) *raftfsm.Error {
	v, err := a.vhost(m.Vhost)
	if err != nil {
		return err
	}
	if err := a.user(m.User); err != nil {
		return err
	}
	if v.permissions[m.User] != nil {
		a.dropPermission(v, m.User)
	}
	return nil
}

func (a *apply) dropPermission(v *VHost, user string) {
	delete(v.permissions, user)
	a.changed(Change{Kind: PermissionChanged, VHost: v.Name, User: user})
}
