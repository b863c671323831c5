package broker

import (
	"context"
	"slices"
	"sync/atomic"

	"github.com/warrenmq/warren/raftfsm/queue"
	"github.com/warrenmq/warren/router"
)

// transaction is what a channel has published and settled since the last commit. The commands for one shard go in one
// batch, which applies at once; bodies that would make it too large are sent ahead.
type transaction struct {
	stage   staging
	uploads []upload
	settled []txSettled
	unsent  []envelope // mandatory messages without queue: returned at commit
	bytes   int        // of what a commit sends, and of unsent
	most    int        // of bytes
}

type upload struct {
	shard  queue.ShardID
	number uint64
}

// txSettled is a delivery settled in the transaction; a rollback makes it unsettled again.
type txSettled struct {
	tag     uint64
	of      unsettled
	outcome queue.Outcome
}

const (
	// maxTransaction is the most that Options.MaxTransactionBytes may be.
	maxTransaction = 16 << 20
	// settledBytes is the most that a settled delivery takes of a batch: a command of its own.
	settledBytes = queue.CommandHeaderSize + 8 + rangeBytes
	rangeBytes   = 16
	// minUpload is the shortest envelope that is worth sending ahead.
	minUpload = 4 << 10
)

// TxSelect makes the channel transactional for good.
func (ch *Channel) TxSelect() error {
	if ch.confirming {
		return errorf(PreconditionFailed, "cannot switch from confirm to tx mode")
	}
	if ch.tx == nil {
		ch.tx = newTransaction(ch.conn)
	}
	return nil
}

// publish takes a message into the transaction.
func (tx *transaction) publish(ctx context.Context, ch *Channel, m *envelope, o *queue.EnqueueOptions, dests []router.Dest, mandatory bool) error {
	if ch.conn.stale {
		return errorf(Unavailable, "this node is cut off from the cluster: where %s routes the message is not known", exchangeIn(string(m.exchange), ch.conn.vhost.name))
	}
	if len(dests) == 0 {
		if !mandatory {
			return nil
		}
		tx.unsent = append(tx.unsent, m.clone())
		return tx.grow(m.size())
	}
	slices.Sort(dests)
	var err error
	eachShard(dests, queuesAtOnce, func(group []router.Dest) bool {
		err = tx.enqueue(ctx, ch.conn, group, m, o)
		return err == nil
	})
	return err
}

func (tx *transaction) enqueue(ctx context.Context, c *Conn, group []router.Dest, m *envelope, o *queue.EnqueueOptions) error {
	queues := c.routing.queues[:0]
	for _, d := range group {
		queues = append(queues, queue.QueueID(d))
	}
	c.routing.queues = queues
	shard := queues[0].Shard()
	b := tx.stage.batch(shard)
	before := len(b.Data)
	if size := m.size(); size > minUpload && before+size > flushSize {
		number, err := c.upload(ctx, shard, m)
		if err != nil {
			return err
		}
		tx.uploads = append(tx.uploads, upload{shard, number})
		last := *o
		last.Upload = number
		b.EndEnqueue(b.BeginEnqueue(queues, &last))
	} else {
		b.enqueue(queues, m, o)
	}
	b.published(nil, 0)
	return tx.grow(len(b.Data) - before)
}

func newTransaction(c *Conn) *transaction {
	return &transaction{stage: staging{conn: c, whole: true}, most: c.broker.options.MaxTransactionBytes}
}

func (tx *transaction) grow(n int) error {
	tx.bytes += n
	return tx.check()
}

// check refuses a transaction that has become too large. The channel ends with it.
func (tx *transaction) check() error {
	if tx.bytes > tx.most {
		return errorf(PreconditionFailed, "transaction holds more than %d bytes", tx.most)
	}
	return nil
}

// settle takes a settled delivery into the transaction; check tells whether there are too many.
func (tx *transaction) settle(tag uint64, e unsettled, o queue.Outcome) {
	s := txSettled{tag, e, o}
	if n := len(tx.settled); n == 0 || !tx.settled[n-1].precedes(&s) {
		tx.bytes += settledBytes
	}
	tx.settled = append(tx.settled, s)
}

// precedes tells whether one range can hold both.
func (s *txSettled) precedes(next *txSettled) bool {
	return s.of.consumer == next.of.consumer && s.outcome == next.outcome && s.of.id+1 == next.of.id
}

// commit is what the batches of one transaction have in common.
type commit struct {
	pending atomic.Int32
	partial atomic.Bool
	done    chan struct{}
}

// applied counts one batch.
func (t *commit) applied(results []queue.Result) {
	for i := range results {
		// Unknown: what was to be settled is another's by now, since the cluster took this node for dead, or the queue is gone. That it is
		// settled is what a client takes the commit's answer for: there is no other.
		if code := results[i].Code; code == queue.Unknown || outcomeOf(code) != Confirmed {
			t.partial.Store(true)
		}
	}
	if t.pending.Add(-1) == 0 {
		close(t.done)
	}
}

// TxCommit applies the transaction, shard by shard, and waits until all have.
func (ch *Channel) TxCommit(ctx context.Context) error {
	if ch.tx == nil {
		return errorf(PreconditionFailed, "channel is not transactional")
	}
	ctx, cancel := ch.conn.operation(ctx)
	defer cancel()
	tx := ch.tx
	ch.tx = newTransaction(ch.conn)
	for _, s := range tx.settled {
		tx.stage.batch(s.of.consumer.shard).settle(s.of.consumer.id, s.outcome, queue.Range{From: s.of.id, To: s.of.id})
	}
	partial, err := tx.commit(ctx, ch.conn)
	ch.mu.Lock()
	for _, s := range tx.settled {
		ch.settled(s.of.consumer)
	}
	ch.mu.Unlock()
	ch.resumeHeld()
	if err != nil {
		tx.release(ch.conn)
		return explain(err, "the transaction")
	}
	if partial {
		return errorf(PreconditionFailed, "partial tx completion")
	}
	for i := range tx.unsent {
		ch.conn.out.sendBack(ch, &tx.unsent[i])
	}
	return nil
}

// commit submits the batches behind what is staged and waits for them.
func (tx *transaction) commit(ctx context.Context, c *Conn) (partial bool, err error) {
	if err := c.flush(ctx); err != nil {
		return false, err
	}
	if len(tx.stage.open) == 0 {
		return false, nil
	}
	t := &commit{done: make(chan struct{})}
	t.pending.Store(int32(len(tx.stage.open)))
	for _, b := range tx.stage.open {
		b.commit = t
	}
	if err := tx.stage.flush(ctx); err != nil {
		return false, err
	}
	select {
	case <-t.done:
		return t.partial.Load(), nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// TxRollback forgets the transaction; what it settled is unsettled again.
func (ch *Channel) TxRollback(ctx context.Context) error {
	if ch.tx == nil {
		return errorf(PreconditionFailed, "channel is not transactional")
	}
	ch.mu.Lock()
	for _, s := range ch.tx.settled {
		ch.unacked.put(s.tag, s.of)
	}
	ch.mu.Unlock()
	ch.tx.release(ch.conn)
	ch.tx = newTransaction(ch.conn)
	return ch.conn.flush(ctx)
}

// release drops what is staged, and what was sent ahead for it. What has been submitted, if a commit failed halfway, takes its effect.
func (tx *transaction) release(c *Conn) {
	for _, u := range tx.uploads {
		if tx.stage.has(u.shard) {
			c.discardUpload(u.shard, u.number)
		}
	}
	tx.stage.drop()
}
