package catalog

import (
	"cmp"
	"iter"
	"maps"
	"slices"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm/queue"
	"github.com/warrenmq/warren/router"
)

// Exchange is a declared exchange. It never changes once it can be seen.
type Exchange struct {
	VHost, Name, Type             string
	Kind                          router.Kind
	Durable, AutoDelete, Internal bool
	Alternate                     string // alternate-exchange; empty: none
	Arguments                     *raftv1.Table
}

// Queue is a named queue. It never changes once it can be seen.
type Queue struct {
	VHost, Name         string
	ID                  queue.QueueID
	Durable, AutoDelete bool
	OwnerSession        queue.SessionID // 0: not exclusive
	OwnerConnection     uint64
	Arguments           *raftv1.Table
}

// Exclusive tells whether one connection owns the queue.
func (q *Queue) Exclusive() bool { return q.OwnerSession != 0 }

// Binding leads from an exchange to a queue or an exchange. It never changes once it can be seen.
type Binding struct {
	VHost, Source, Destination string
	ToExchange                 bool
	Key                        string
	Arguments                  *raftv1.Table
	id                         bindingID
}

// User is somebody who may log in.
type User struct {
	Name, PasswordHash string
	Tags               []string
}

// Permission is what a user may do in a vhost: three patterns.
type Permission struct {
	VHost, User, Configure, Write, Read string
}

// Node is a member of the cluster.
type Node struct {
	Number         uint16
	UUID, Name     string
	Run            uint64 // the count of its starts; 0: it was admitted and has not started yet
	MachineVersion uint32 // the latest that it knows
	Version        string // of its program
	StartedAt      int64  // when its run was registered, milliseconds since 1970
	Leaving        bool   // its replicas go elsewhere, then it is removed
}

// Session is the node's present run.
func (n *Node) Session() queue.SessionID { return queue.MakeSessionID(n.Number, n.Run) }

// Shard is the placement of a group of queues.
type Shard struct {
	ID        queue.ShardID
	Nodes     []uint16
	Preferred uint16
	Version   uint64 // grows with each placement
}

// VHost is a name space of exchanges, queues and bindings. It belongs to its State: reading it needs the same lock.
type VHost struct {
	Name, Description string
	exchanges         map[string]*Exchange
	queues            map[string]*Queue
	bindings          bindingSet
	permissions       map[string]*Permission // by user
	from              map[string]bindingSet  // by source
	to                map[end]bindingSet     // by destination
}

func newVHost(name, description string) *VHost {
	v := &VHost{
		Name:        name,
		Description: description,
		exchanges:   map[string]*Exchange{},
		queues:      map[string]*Queue{},
		bindings:    bindingSet{},
		permissions: map[string]*Permission{},
		from:        map[string]bindingSet{},
		to:          map[end]bindingSet{},
	}
	v.exchanges[""] = &Exchange{VHost: name, Type: router.Direct.String(), Durable: true}
	return v
}

// Applied is the index of the last command.
func (s *State) Applied() uint64 { return s.index }

// ClusterID is empty before CreateCluster.
func (s *State) ClusterID() string { return s.cluster.id }

// Former are the clusters that this one was recovered from, the latest last.
func (s *State) Former() []Former { return s.cluster.former }

// LastNode is the highest number that a node has been given; none is given twice.
func (s *State) LastNode() uint16 { return s.cluster.lastNode }

// ShardCount is the number of replicated shards.
func (s *State) ShardCount() int { return int(s.cluster.shards) }

// Replication is how many nodes are to hold each shard.
func (s *State) Replication() int { return int(s.cluster.replication) }

// MachineVersion is what all nodes understand.
func (s *State) MachineVersion() uint32 { return s.cluster.machineVersion }

// Node returns a member by its number, or nil.
func (s *State) Node(number uint16) *Node { return s.nodes[number] }

// NodeByUUID returns a member by its identity, or nil.
func (s *State) NodeByUUID(uuid string) *Node {
	for _, n := range s.nodes {
		if n.UUID == uuid {
			return n
		}
	}
	return nil
}

// Nodes are the members by number.
func (s *State) Nodes() iter.Seq[*Node] { return ordered(s.nodes) }

// Shard returns a placement, or nil.
func (s *State) Shard(id queue.ShardID) *Shard { return s.shards[id] }

// Shards are the placements by id.
func (s *State) Shards() iter.Seq[*Shard] { return ordered(s.shards) }

// User returns a user, or nil.
func (s *State) User(name string) *User { return s.users[name] }

// Users are the users by name.
func (s *State) Users() iter.Seq[*User] { return ordered(s.users) }

// Permission returns what the user may do in the vhost, or nil when that is nothing.
func (s *State) Permission(user, vhost string) *Permission {
	if v := s.vhosts[vhost]; v != nil {
		return v.permissions[user]
	}
	return nil
}

// VHost returns a vhost, or nil.
func (s *State) VHost(name string) *VHost { return s.vhosts[name] }

// VHosts are the vhosts by name.
func (s *State) VHosts() iter.Seq[*VHost] { return ordered(s.vhosts) }

// QueueByID returns the queue with the id, or nil.
func (s *State) QueueByID(id queue.QueueID) *Queue { return s.queues[id] }

// QueueCount is the number of queues with a name.
func (s *State) QueueCount() int { return len(s.queues) }

// QueuesIn are the queues that a shard holds, by id.
func (s *State) QueuesIn(shard queue.ShardID) iter.Seq[*Queue] { return ordered(s.inShard[shard]) }

// QueueCountIn is the number of queues that a shard holds.
func (s *State) QueueCountIn(shard queue.ShardID) int { return len(s.inShard[shard]) }

// Exchange returns an exchange, or nil. The default exchange "" is always there.
func (v *VHost) Exchange(name string) *Exchange { return v.exchanges[name] }

// Exchanges are the exchanges by name, the default exchange first.
func (v *VHost) Exchanges() iter.Seq[*Exchange] { return ordered(v.exchanges) }

// Queue returns a queue, or nil.
func (v *VHost) Queue(name string) *Queue { return v.queues[name] }

// Queues are the queues by name.
func (v *VHost) Queues() iter.Seq[*Queue] { return ordered(v.queues) }

// Permissions are the permissions in the vhost by user.
func (v *VHost) Permissions() iter.Seq[*Permission] { return ordered(v.permissions) }

// Bindings are all bindings but those of the default exchange, in the order of source, destination (queues first),
// routing key, arguments. All lists of bindings have that order.
func (v *VHost) Bindings() iter.Seq[*Binding] { return v.bindings.ordered() }

// BindingsFrom are the bindings of a source exchange.
func (v *VHost) BindingsFrom(exchange string) iter.Seq[*Binding] { return v.from[exchange].ordered() }

// BindingsToQueue are the bindings to a queue.
func (v *VHost) BindingsToQueue(name string) iter.Seq[*Binding] {
	return v.to[end{name, false}].ordered()
}

// BindingsToExchange are the bindings to an exchange.
func (v *VHost) BindingsToExchange(name string) iter.Seq[*Binding] {
	return v.to[end{name, true}].ordered()
}

// BindingsBetween are the bindings from an exchange to a queue or (toExchange) another exchange.
func (v *VHost) BindingsBetween(source, destination string, toExchange bool) iter.Seq[*Binding] {
	return func(yield func(*Binding) bool) {
		for b := range v.to[end{destination, toExchange}].ordered() {
			if b.Source == source && !yield(b) {
				return
			}
		}
	}
}

// ordered walks a map by key, so that nothing depends on Go's order. What is in the map is settled when the walk starts.
func ordered[K cmp.Ordered, V any](m map[K]V) iter.Seq[V] {
	return func(yield func(V) bool) {
		keys := slices.Sorted(maps.Keys(m))
		values := make([]V, len(keys))
		for i, key := range keys {
			values[i] = m[key]
		}
		for _, v := range values {
			if !yield(v) {
				return
			}
		}
	}
}
