package amqptest

import (
	"github.com/warrenmq/warren/broker"
	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// What an operator does to a cluster.

// PutUser adds a user or changes one.
func (c *Cluster) PutUser(name, password string, tags ...string) {
	c.t.Helper()
	c.MustPropose(catalog.PutUser(&raftv1.PutUser{Name: name, PasswordHash: Hash(password), Tags: tags}))
}

// DeleteUser removes a user.
func (c *Cluster) DeleteUser(name string) {
	c.t.Helper()
	c.MustPropose(catalog.DeleteUser(&raftv1.DeleteUser{Name: name}))
}

// CreateVHost adds a vhost.
func (c *Cluster) CreateVHost(name string) {
	c.t.Helper()
	c.MustPropose(catalog.CreateVHost(&raftv1.CreateVHost{Name: name}))
}

// DeleteVHost removes a vhost.
func (c *Cluster) DeleteVHost(name string) {
	c.t.Helper()
	c.MustPropose(catalog.DeleteVHost(&raftv1.DeleteVHost{Name: name}))
}

// Permit says what a user may do in the default vhost.
func (c *Cluster) Permit(user, configure, write, read string) {
	c.t.Helper()
	c.MustPropose(catalog.SetPermission(&raftv1.SetPermission{Vhost: "/", User: user, Configure: configure, Write: write, Read: read}))
}

// Shard returns the replicated shard of that number.
func Shard(number int) queue.ShardID { return queue.ShardID(number) }

// Unavailable is an error for SetFailing: of a cluster that has no leader.
func Unavailable() error { return raftfsm.Errorf(broker.Unavailable, "no leader") }
