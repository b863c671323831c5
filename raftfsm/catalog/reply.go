package catalog

import (
	"github.com/warrenmq/warren/raftfsm"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// Reply is the answer to a command.
type Reply struct {
	Err      *raftfsm.Error // the refusal; nil: done, or it was so before
	Node     uint16         // RegisterNode: the node's number
	Run      uint64         // RegisterNode: the count of its runs
	Exchange *Exchange      // DeclareExchange: the exchange that has the name now
	Queue    *Queue         // AddQueue: the queue that has the name now; with Err of kind Exists another than wanted
}

// ChangeKind says what sort of change a Change is.
type ChangeKind uint8

// The kinds of change; beside each the fields that it sets.
const (
	ClusterChanged    ChangeKind = iota + 1 // it was created, or its machine version rose
	NodeChanged                             // Node: a run of it has begun, those before are over
	NodeRemoved                             // Node, as it was
	ShardChanged                            // Shard: placed
	VHostAdded                              // VHost; its exchanges follow
	VHostRemoved                            // VHost; all that was in it comes before
	UserChanged                             // User: added, changed or removed
	PermissionChanged                       // VHost, User: set, changed or cleared
	ExchangeAdded                           // VHost, Exchange
	ExchangeRemoved                         // VHost, Exchange, as it was; its bindings come before
	QueueAdded                              // VHost, Queue
	QueueRemoved                            // VHost, Queue, as it was; its bindings come before
	BindingAdded                            // VHost, Binding
	BindingRemoved                          // VHost, Binding
	SessionEnded                            // Session: a run of a node that could not be reached for long; its exclusive queues go before
)

// Change is one thing that an applied command changed. The default exchange never changes, nor do the bindings that it
// has to every queue.
type Change struct {
	Kind     ChangeKind
	VHost    string
	User     string
	Exchange *Exchange
	Queue    *Queue
	Binding  *Binding
	Node     *Node
	Shard    *Shard
	Session  queue.SessionID
}
