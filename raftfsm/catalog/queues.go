package catalog

import (
	"cmp"
	"slices"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// addQueue names a queue. Another queue that has the name already is the reply, with kind Exists.
func (a *apply) addQueue(m *raftv1.AddQueue) *raftfsm.Error {
	v, err := a.vhost(m.Vhost)
	if err != nil {
		return err
	}
	if old := v.queues[m.Name]; old != nil {
		a.reply.Queue = old
		if old.ID != queue.QueueID(m.Id) {
			return raftfsm.Errorf(raftfsm.Exists, "%s exists", queueResource(m.Vhost, m.Name))
		}
		return nil
	}
	if err := a.checkQueue(m); err != nil {
		return err
	}
	q := newQueue(m)
	a.putQueue(v, q)
	a.reply.Queue = q
	a.changed(Change{Kind: QueueAdded, VHost: v.Name, Queue: q})
	return nil
}

func (a *apply) checkQueue(m *raftv1.AddQueue) *raftfsm.Error {
	if err := checkName("queue", m.Name); err != nil {
		return err
	}
	if err := checkTable(m.Arguments); err != nil {
		return err
	}
	if m.Id == 0 || a.queues[queue.QueueID(m.Id)] != nil {
		return raftfsm.Errorf(raftfsm.Internal, "the id %x of %s is not free", m.Id, queueResource(m.Vhost, m.Name))
	}
	if owner := queue.SessionID(m.OwnerSession); owner != 0 && a.isOver(owner) {
		return raftfsm.Errorf(raftfsm.Unavailable, "the connection that owns %s is gone", queueResource(m.Vhost, m.Name))
	}
	return nil
}

func newQueue(m *raftv1.AddQueue) *Queue {
	return &Queue{VHost: m.Vhost, Name: m.Name, ID: queue.QueueID(m.Id), Durable: m.Durable, AutoDelete: m.AutoDelete,
		OwnerSession: queue.SessionID(m.OwnerSession), OwnerConnection: m.OwnerConnection, Arguments: canonical(m.Arguments)}
}

func (s *State) putQueue(v *VHost, q *Queue) {
	v.queues[q.Name] = q
	s.queues[q.ID] = q
	addQueueTo(s.inShard, q.ID.Shard(), q)
	if q.Exclusive() {
		addQueueTo(s.owned, q.OwnerSession, q)
	}
}

func addQueueTo[K comparable](index map[K]queueSet, key K, q *Queue) {
	if index[key] == nil {
		index[key] = queueSet{}
	}
	index[key][q.ID] = q
}

func takeQueueFrom[K comparable](index map[K]queueSet, key K, q *Queue) {
	delete(index[key], q.ID)
	if len(index[key]) == 0 {
		delete(index, key)
	}
}

// deleteQueues forgets queues; ids that are not there are forgotten already.
func (a *apply) deleteQueues(m *raftv1.DeleteQueue) {
	for _, id := range m.Ids {
		if q := a.queues[queue.QueueID(id)]; q != nil {
			a.removeQueue(q)
		}
	}
}

// removeQueue removes a queue with its bindings, and the exchanges that delete themselves thereupon.
func (a *apply) removeQueue(q *Queue) {
	v := a.vhosts[q.VHost]
	gone := a.dropBindings(v, v.BindingsToQueue(q.Name))
	a.dropQueue(v, q)
	a.autoDelete(v, gone)
}

// removeQueues removes those queues of a set that match, in the order of their names.
func (a *apply) removeQueues(set queueSet, matches func(*Queue) bool) {
	var matching []*Queue
	for _, q := range set {
		if matches(q) {
			matching = append(matching, q)
		}
	}
	slices.SortFunc(matching, func(a, b *Queue) int { return cmp.Or(cmp.Compare(a.VHost, b.VHost), cmp.Compare(a.Name, b.Name)) })
	for _, q := range matching {
		a.removeQueue(q)
	}
}

// dropQueue removes a queue that has no bindings.
func (a *apply) dropQueue(v *VHost, q *Queue) {
	delete(v.queues, q.Name)
	delete(a.queues, q.ID)
	takeQueueFrom(a.inShard, q.ID.Shard(), q)
	if q.Exclusive() {
		takeQueueFrom(a.owned, q.OwnerSession, q)
	}
	a.changed(Change{Kind: QueueRemoved, VHost: v.Name, Queue: q})
}
