// Package catalog is the replicated state machine of what a cluster is made of: virtual hosts, users, permissions,
// exchanges, queues, bindings, nodes, and where the shards of queues live. One committed command goes in; a reply and
// the list of what has changed come out. Refusals are replies, in RabbitMQ's words, and change nothing.
//
// Apply depends on nothing but the state and the command: no clock, no randomness, no I/O; maps are walked in order
// wherever order can be seen. The package leaves to others: replicating commands, locking (a State is read under the
// caller's read lock and changed under its write lock), who may do what, exclusive access to queues, and the messages.
package catalog

import (
	"fmt"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// MachineVersion1 is the first meaning of the commands; LatestMachineVersion the last one that this program knows. The number is
// that of the shards' machine as well: what changes in either raises it.
const (
	MachineVersion1      = queue.FirstVersion
	LatestMachineVersion = queue.Version
)

// State is the whole catalog. What its methods return is never modified afterwards, only replaced, and may be kept,
// except a *VHost, which belongs to the state.
type State struct {
	index   uint64 // of the last command applied
	cluster cluster
	nodes   map[uint16]*Node
	shards  map[queue.ShardID]*Shard
	users   map[string]*User
	vhosts  map[string]*VHost
	queues  map[queue.QueueID]*Queue
	inShard map[queue.ShardID]queueSet
	owned   map[queue.SessionID]queueSet // exclusive queues
}

// cluster is what the catalog knows of the cluster as a whole.
type cluster struct {
	id             string
	shards         uint32
	replication    uint32
	machineVersion uint32
	lastNode       uint16
	timeMillis     int64
	former         []Former // never changed, only replaced
}

type queueSet map[queue.QueueID]*Queue

// New returns the state before the first command.
func New() *State {
	return &State{
		cluster: cluster{machineVersion: MachineVersion1},
		nodes:   map[uint16]*Node{},
		shards:  map[queue.ShardID]*Shard{},
		users:   map[string]*User{},
		vhosts:  map[string]*VHost{},
		queues:  map[queue.QueueID]*Queue{},
		inShard: map[queue.ShardID]queueSet{},
		owned:   map[queue.SessionID]queueSet{},
	}
}

// Apply advances the state by the command that is committed at index, which must be above all before. The changes are
// in an order in which each can be acted on: what a thing needs is added before it and removed after it. A refusal is
// Reply.Err, and then nothing has changed. An error means that this build cannot know what the command does to the
// state: the node must stop.
func (s *State) Apply(index uint64, data []byte) (Reply, []Change, error) {
	if index <= s.index {
		return Reply{}, nil, fmt.Errorf("apply catalog command %d: %d has been applied already", index, s.index)
	}
	cmd, err := decode(data)
	if err != nil {
		return Reply{}, nil, fmt.Errorf("decode catalog command %d: %w", index, err)
	}
	a := apply{State: s, timeMillis: cmd.TimeMillis}
	if err := a.dispatch(cmd); err != nil {
		return Reply{}, nil, fmt.Errorf("apply catalog command %d: %w", index, err)
	}
	s.index = index
	return a.reply, a.changes, nil
}

// apply is one command on its way through the state.
type apply struct {
	*State
	timeMillis int64 // the proposer's
	reply      Reply
	changes    []Change
}

func (a *apply) dispatch(cmd *Command) error {
	switch c := cmd.Command.(type) {
	case *raftv1.CatalogCommand_CreateCluster:
		a.reply.Err = a.createCluster(c.CreateCluster)
	case *raftv1.CatalogCommand_RegisterNode:
		a.reply.Err = a.registerNode(c.RegisterNode)
	case *raftv1.CatalogCommand_AdmitNode:
		a.reply.Err = a.admitNode(c.AdmitNode)
	case *raftv1.CatalogCommand_SetLeaving:
		a.reply.Err = a.setLeaving(c.SetLeaving)
	case *raftv1.CatalogCommand_RemoveNode:
		a.reply.Err = a.removeNode(c.RemoveNode)
	case *raftv1.CatalogCommand_SessionOver:
		a.sessionOver(c.SessionOver)
	case *raftv1.CatalogCommand_SetReplicas:
		a.reply.Err = a.setReplicas(c.SetReplicas)
	case *raftv1.CatalogCommand_SetMachineVersion:
		return a.setMachineVersion(c.SetMachineVersion)
	case *raftv1.CatalogCommand_RecoverCluster:
		a.reply.Err = a.recoverCluster(c.RecoverCluster)
	case *raftv1.CatalogCommand_CreateVhost:
		a.reply.Err = a.createVHost(c.CreateVhost)
	case *raftv1.CatalogCommand_DeleteVhost:
		a.reply.Err = a.deleteVHost(c.DeleteVhost)
	case *raftv1.CatalogCommand_PutUser:
		a.reply.Err = a.putUser(c.PutUser)
	case *raftv1.CatalogCommand_DeleteUser:
		a.reply.Err = a.deleteUser(c.DeleteUser)
	case *raftv1.CatalogCommand_SetPermission:
		a.reply.Err = a.setPermission(c.SetPermission)
	case *raftv1.CatalogCommand_ClearPermission:
		a.reply.Err = a.clearPermission(c.ClearPermission)
	case *raftv1.CatalogCommand_DeclareExchange:
		a.reply.Err = a.declareExchange(c.DeclareExchange)
	case *raftv1.CatalogCommand_DeleteExchange:
		a.reply.Err = a.deleteExchange(c.DeleteExchange)
	case *raftv1.CatalogCommand_AddQueue:
		a.reply.Err = a.addQueue(c.AddQueue)
	case *raftv1.CatalogCommand_DeleteQueue:
		a.deleteQueues(c.DeleteQueue)
	case *raftv1.CatalogCommand_Bind:
		a.reply.Err = a.bind(c.Bind)
	case *raftv1.CatalogCommand_Unbind:
		a.reply.Err = a.unbind(c.Unbind)
	default:
		return fmt.Errorf("unknown command %T", c)
	}
	return nil
}

// changed notes a change.
func (a *apply) changed(c Change) { a.changes = append(a.changes, c) }
