package cluster

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/warrenmq/warren/backup"
	"github.com/warrenmq/warren/broker"
	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// A restore first puts queues and messages into the shards, without names in the catalog, so that nobody sees half of them, and
// through this node's pipes, so that a lost leader neither doubles nor loses one. Not before the backup was read to its end, and
// was right to its end, do users, vhosts, exchanges, names and bindings come. Until then a failure takes back what was made, and
// where that fails, too, since this node stops, the next restore begins by removing the queues that nobody has named. Their settings
// say meanwhile that they are a restore's (queue.Settings.Restoring).
//
// So only one restore may be under way in a cluster: another would take what it makes for left over. It has the claim, a queue's name
// in the catalog that is exclusive to this run of this node (catalog.RestoreClaim) and has no queue. Whoever comes second is refused; and
// the name goes with the run, so a restore whose node died is in nobody's way. A node that is away for so long that the others end what
// is exclusive to it loses the claim while it goes on. It finds out before it names anything; and again when it has named everything,
// before it says that all is restored: whoever had the claim meanwhile may have removed its queues.

// Restored is what a restore has made.
type Restored struct {
	Queues   uint64 `json:"queues"`
	Messages uint64 `json:"messages"` // each counted in every queue that has it
	Expired  uint64 `json:"expired"`  // of them, those whose time was over
	Out      uint64 `json:"out"`      // of them, those that were out with a consumer; they are redelivered
	// Deleted are queues that went while the backup was taken, Later such as came meanwhile: neither is restored.
	Deleted uint64 `json:"deleted"`
	Later   uint64 `json:"later"`
}

const (
	// restoreBatch is the size at which a batch goes, and the longest envelope that is not sent in pieces; as in package broker.
	restoreBatch = 128 << 10
	// restoreInFlight is how many batches may be unanswered: with restoreBatch it bounds the memory.
	restoreInFlight = 64
	// restoreChanges is how many changes of the catalog are proposed at once.
	restoreChanges = 16
	// restoreCleanup bounds the time for taking back.
	restoreCleanup = time.Minute
)

// Restore fills an empty cluster from a backup. It is refused when the cluster holds anything that a backup would, users excepted.
func (c *Cluster) Restore(ctx context.Context, in io.Reader) (Restored, error) {
	return newRestorer(c, ctx).run(in)
}

func newRestorer(c *Cluster, ctx context.Context) *restorer {
	return &restorer{c: c, ctx: ctx, named: map[uint64]*raftv1.AddQueue{}, made: map[uint64]*madeQueue{}, open: map[queue.ShardID]*broker.Batch{},
		room: make(chan struct{}, restoreInFlight), orphanPause: restoreOrphanPause, patience: restoreAlarmPatience}
}

// CheckEmpty refuses unless a backup can be restored into this cluster.
func (c *Cluster) CheckEmpty() error {
	if err := c.Fresh(); err != nil {
		return err
	}
	var occupied string
	c.catalog.read(func(s *catalog.State) { occupied = s.Occupied() })
	if occupied != "" {
		return raftfsm.Errorf(broker.PreconditionFailed, "a backup is restored into an empty cluster, and this one holds %s: begin one with empty data directories", occupied)
	}
	return nil
}

type restorer struct {
	c      *Cluster
	ctx    context.Context
	shards int // of this cluster
	begin  backup.Begin
	done   Restored

	// The catalog's things but queues, each list after what it needs: users and vhosts; permissions and exchanges; bindings.
	first, second, last []*catalog.Command
	guest               bool // the backup has the default user
	named               map[uint64]*raftv1.AddQueue
	names               []*raftv1.AddQueue    // the same, in their order
	made                map[uint64]*madeQueue // by id in the backup
	queues              []*madeQueue          // the same, in their order

	open        map[queue.ShardID]*broker.Batch
	room        chan struct{} // holds one for each batch under way
	orphanPause time.Duration
	patience    time.Duration // with alarms
	takesBack   bool          // what it does makes room: alarms do not matter
	mayBeGone   bool          // so may the queues of the commands that are added now
	claimed     queue.QueueID // of this restore's claim

	message *restoredMessage // at hand; nil: none

	mu     sync.Mutex // guards failed
	failed error
}

// madeQueue is a queue that has no name yet.
type madeQueue struct {
	id       queue.QueueID
	settings *queue.Settings
}

func (r *restorer) run(in io.Reader) (Restored, error) {
	if err := r.c.CheckEmpty(); err != nil {
		return Restored{}, err
	}
	if err := r.claim(); err != nil {
		return Restored{}, err
	}
	defer r.giveClaimUp()
	if err := r.c.CheckEmpty(); err != nil { // another may have ended just before
		return Restored{}, err
	}
	return r.runAlone(in)
}

func (r *restorer) runAlone(in io.Reader) (Restored, error) {
	r.c.catalog.read(func(s *catalog.State) { r.shards = s.ShardCount() })
	err := r.removeOrphans()
	if err == nil {
		err = r.fill(in)
	}
	if err == nil {
		err = r.limit()
	}
	if err == nil {
		err = r.checkClaim()
	}
	if err != nil {
		return Restored{}, r.takeBack(err)
	}
	err = r.name()
	if err == nil {
		err = r.checkClaim()
	}
	if err != nil {
		return Restored{}, describe(err, "the cluster holds a part of the backup: begin with empty data directories before it is tried again")
	}
	if err := r.release(); err != nil {
		r.c.log.Warn("a backup is restored, but its queues are still marked as being restored", "err", err)
	}
	return r.done, nil
}

// claim makes this restore the only one of the cluster, or refuses.
func (r *restorer) claim() error {
	ctx, cancel := context.WithTimeout(r.ctx, restoreChangeTimeout)
	defer cancel()
	self := r.c.Self()
	r.claimed = queue.MakeQueueID(self.Local, newQueueNumber())
	// OwnerConnection stays 0, which is no connection's: the claim is nobody's queue.
	reply, err := r.c.Propose(ctx, catalog.AddQueue(&raftv1.AddQueue{Vhost: catalog.DefaultVHost, Name: catalog.RestoreClaim,
		Id: uint64(r.claimed), OwnerSession: uint64(self.Session)}))
	var refusal *broker.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refusal) && refusal.Kind == broker.Exists && reply.Queue != nil:
		return raftfsm.Errorf(broker.PreconditionFailed, "another restore is under way, through node %d: see how it ends", reply.Queue.OwnerSession.Node())
	}
	r.c.forgetter.forget([]queue.QueueID{r.claimed}) // its outcome may be unknown
	return fmt.Errorf("claim the restore: %w", err)
}

// giveClaimUp lets others restore. The context may be over, so it has one of its own.
func (r *restorer) giveClaimUp() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), restoreChangeTimeout)
	defer cancel()
	if _, err := r.c.Propose(ctx, catalog.DeleteQueue(&raftv1.DeleteQueue{Ids: []uint64{uint64(r.claimed)}})); err != nil {
		r.c.forgetter.forget([]queue.QueueID{r.claimed}) // until it succeeds, or this run ends
	}
}

// checkClaim refuses unless nobody else can have begun a restore since claim. A change of its own comes first: this copy has all that
// was committed before it.
func (r *restorer) checkClaim() error {
	if err := r.propose(catalog.DeleteQueue(&raftv1.DeleteQueue{})); err != nil {
		return err
	}
	stands := false
	r.c.catalog.read(func(s *catalog.State) { stands = len(s.Unnamed([]queue.QueueID{r.claimed})) == 0 })
	if !stands {
		return unavailable("this node was cut off for so long that another restore could begin")
	}
	return nil
}

// describe adds a sentence to an error and makes it a refusal that can be shown.
func describe(err error, sentence string) error {
	kind := broker.Unavailable
	var refusal *broker.Error
	switch {
	case errors.As(err, &refusal):
		kind = refusal.Kind
	case errors.Is(err, backup.ErrDamaged), errors.Is(err, backup.ErrFormat):
		kind = broker.PreconditionFailed
	}
	return raftfsm.Errorf(kind, "%v; %s", err, sentence)
}

// takeBack removes the queues that were made. The context may be over, so it has one of its own.
func (r *restorer) takeBack(cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), restoreCleanup)
	defer cancel()
	r.ctx, r.takesBack, r.mayBeGone = ctx, true, true
	clear(r.open)
	if m := r.message; m != nil && m.left > 0 {
		for _, t := range m.targets { // pieces that no message will use: a queue that does not exist takes them
			_ = r.add(t.shard, func(b *queue.Batch) {
				b.EndEnqueue(b.BeginEnqueue([]queue.QueueID{queue.MakeQueueID(t.shard, 0)}, &queue.EnqueueOptions{Upload: t.o.Upload}))
			})
		}
	}
	_ = r.flush() // whatever became of what is under way: only what follows counts
	r.mu.Lock()
	r.failed = nil
	r.mu.Unlock()
	for _, q := range r.queues {
		if r.add(q.id.Shard(), func(b *queue.Batch) { b.Delete(q.id, false, false) }) != nil {
			break
		}
	}
	if err := r.flush(); err != nil {
		return describe(cause, "nothing was restored, but queues without a name stay until the next try, which removes them")
	}
	return describe(cause, "nothing was restored; it can be tried again")
}

// restoreOrphanPause is how long a queue without a name is let be: a client may be about to name it, for as long as package broker
// lets an operation last.
const restoreOrphanPause = 35 * time.Second

// removeOrphans removes queues that nobody has named: an earlier restore was cut off.
func (r *restorer) removeOrphans() error {
	var orphans []queue.QueueID
	for id := range queue.ShardID(r.shards) {
		var ids []queue.QueueID
		if err := r.c.queuesIn(r.ctx, id, func(id queue.QueueID) { ids = append(ids, id) }); err != nil {
			return err
		}
		r.c.catalog.read(func(s *catalog.State) { orphans = append(orphans, s.Unnamed(ids)...) })
	}
	if len(orphans) == 0 {
		return nil
	}
	r.c.log.Info("queues without a name are removed before a backup is restored", "queues", len(orphans), "after", r.orphanPause)
	select {
	case <-time.After(r.orphanPause):
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
	if err := r.c.CheckEmpty(); err != nil {
		return err
	}
	r.mayBeGone = true
	defer func() { r.mayBeGone = false }()
	for _, id := range orphans {
		if err := r.add(id.Shard(), func(b *queue.Batch) { b.Delete(id, false, false) }); err != nil {
			return err
		}
	}
	return r.flush()
}

// queuesIn lists the queues of a shard, as its leader has them.
func (c *Cluster) queuesIn(ctx context.Context, id queue.ShardID, yield func(queue.QueueID)) error {
	reader, writer := io.Pipe()
	defer reader.Close()
	go func() { writer.CloseWithError(c.backupShard(ctx, id, writer, true)) }()
	in := backup.NewReader(reader)
	for {
		record, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if q, ok := record.(*backup.Queue); ok {
			yield(queue.QueueID(q.ID))
		}
	}
}

// fill reads the whole backup and puts queues and messages into the shards.
func (r *restorer) fill(in io.Reader) error {
	reader := backup.NewReader(in)
	next := uint32(0)
	for {
		record, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = r.take(record, &next)
		}
		if err != nil {
			return err
		}
	}
	if next != r.begin.Shards {
		return fmt.Errorf("%w: it has %d shards of %d", backup.ErrDamaged, next, r.begin.Shards)
	}
	return r.flush()
}

func (r *restorer) take(record any, next *uint32) error {
	if err := r.failure(); err != nil {
		return err
	}
	switch record := record.(type) {
	case *backup.Begin:
		r.begin = *record
	case backup.Catalog:
		return r.takeCatalog(record)
	case *backup.Shard:
		if record.ID != *next {
			return fmt.Errorf("%w: shard %d stands where %d should", backup.ErrDamaged, record.ID, *next)
		}
		*next++
	case *backup.Queue:
		return r.makeQueue(record)
	case *backup.Message:
		return r.beginMessage(record)
	case backup.Piece:
		return r.addPiece(record)
	}
	return nil
}

func (r *restorer) takeCatalog(record backup.Catalog) error {
	cmd, err := catalog.RestoreCommand(record)
	if err != nil {
		return fmt.Errorf("%w: %w", backup.ErrFormat, err)
	}
	switch c := cmd.Command.(type) {
	case *raftv1.CatalogCommand_AddQueue:
		r.named[c.AddQueue.Id] = c.AddQueue
		r.names = append(r.names, c.AddQueue)
	case *raftv1.CatalogCommand_Bind:
		r.last = append(r.last, cmd)
	case *raftv1.CatalogCommand_PutUser:
		r.guest = r.guest || c.PutUser.Name == catalog.DefaultUser
		r.first = append(r.first, cmd)
	case *raftv1.CatalogCommand_CreateVhost:
		r.first = append(r.first, cmd)
	default:
		r.second = append(r.second, cmd)
	}
	return nil
}

// makeQueue makes a queue under a new id, without limits: they come when all messages are there, since messages that were out
// may be more than a limit allows.
func (r *restorer) makeQueue(q *backup.Queue) error {
	if r.named[q.ID] == nil {
		r.done.Later++
		return nil
	}
	settings, err := queue.ParseSettings(q.Settings)
	if err != nil {
		return fmt.Errorf("%w: a queue's settings: %w", backup.ErrFormat, err)
	}
	settings.Restoring = true
	made := &madeQueue{queue.MakeQueueID(r.placeFor(queue.QueueID(q.ID)), newQueueNumber()), settings}
	if r.made[q.ID] != nil {
		return fmt.Errorf("%w: a queue stands twice", backup.ErrDamaged)
	}
	r.made[q.ID] = made
	r.queues = append(r.queues, made)
	open := *settings
	open.HasMessageTTL, open.Expires, open.HasMaxLength, open.HasMaxLengthBytes = false, 0, false, false
	return r.add(made.id.Shard(), func(b *queue.Batch) { b.Configure(made.id, &open) })
}

// placeFor chooses the shard for a queue: the same where there are as many, so that messages that queues share are stored once;
// else in turn.
func (r *restorer) placeFor(id queue.QueueID) queue.ShardID {
	if uint32(r.shards) == r.begin.Shards {
		return id.Shard()
	}
	return queue.ShardID(len(r.queues) % r.shards)
}

func newQueueNumber() uint64 {
	var random [8]byte
	rand.Read(random[:])
	return binary.LittleEndian.Uint64(random[:])
}

// restoredMessage is a message on its way: one Enqueue for each shard and each way in which its queues have it.
type restoredMessage struct {
	left     uint64 // octets that have not come
	envelope []byte // when it goes in one piece
	targets  []*target
}

// target is queues of one shard that have the message in the same way.
type target struct {
	shard  queue.ShardID
	o      queue.EnqueueOptions
	queues []queue.QueueID
}

func (r *restorer) beginMessage(m *backup.Message) error {
	r.message = &restoredMessage{left: m.Size}
	now := r.c.clocks.entryTime().UnixMilli()
	for i := range m.Places {
		p := &m.Places[i]
		q := r.made[p.Queue]
		if q == nil {
			continue
		}
		r.done.Messages++
		o := queue.EnqueueOptions{Persistent: m.Persistent, HasPriority: p.Priority > 0, Priority: p.Priority, Acquired: p.Acquired, Failed: p.Failed}
		if p.Out {
			r.done.Out++
			if o.Acquired < math.MaxUint32 {
				o.Acquired++
			}
		}
		if p.Expiry != 0 {
			if p.Expiry <= now {
				r.done.Expired++
			}
			o.HasTTL, o.TTLMillis = true, uint64(max(1, p.Expiry-now))
		}
		r.message.add(q.id, o)
	}
	if len(r.message.targets) > 0 && m.Size > restoreBatch {
		for _, t := range r.message.targets {
			t.o.Upload = r.c.NewID()
		}
	} else if len(r.message.targets) > 0 {
		r.message.envelope = make([]byte, 0, m.Size)
	}
	return r.endMessage()
}

func (m *restoredMessage) add(id queue.QueueID, o queue.EnqueueOptions) {
	for _, t := range m.targets {
		if t.shard == id.Shard() && t.o == o && len(t.queues) < math.MaxUint16 {
			t.queues = append(t.queues, id)
			return
		}
	}
	m.targets = append(m.targets, &target{id.Shard(), o, []queue.QueueID{id}})
}

func (r *restorer) addPiece(octets backup.Piece) error {
	m := r.message
	m.left -= uint64(len(octets))
	if len(m.targets) > 0 && m.targets[0].o.Upload == 0 {
		m.envelope = append(m.envelope, octets...)
		return r.endMessage()
	}
	for _, t := range m.targets {
		if err := r.add(t.shard, func(b *queue.Batch) { b.Chunk(t.o.Upload, octets) }); err != nil {
			return err
		}
	}
	return r.endMessage()
}

// endMessage makes the message, once all of it is there.
func (r *restorer) endMessage() error {
	m := r.message
	if m.left > 0 {
		return nil
	}
	for _, t := range m.targets {
		err := r.add(t.shard, func(b *queue.Batch) {
			mark := b.BeginEnqueue(t.queues, &t.o)
			b.Data = append(b.Data, m.envelope...)
			b.EndEnqueue(mark)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// add adds commands to the batch for a shard, which goes when it is large enough.
func (r *restorer) add(shard queue.ShardID, fill func(*queue.Batch)) error {
	b := r.open[shard]
	if b == nil {
		b = &broker.Batch{Done: r.applied}
		if r.mayBeGone {
			b.Done = r.appliedOrGone
		}
		r.open[shard] = b
	}
	fill(&b.Batch)
	if len(b.Data) < restoreBatch {
		return nil
	}
	return r.submit(shard)
}

func (r *restorer) submit(shard queue.ShardID) error {
	if err := r.awaitRoom(); err != nil {
		return err
	}
	b := r.open[shard]
	delete(r.open, shard)
	select {
	case r.room <- struct{}{}:
	case <-r.ctx.Done():
		return r.ctx.Err()
	case <-r.c.ctx.Done():
		return unavailable("this node stops")
	}
	if err := r.c.Submit(r.ctx, shard, b); err != nil {
		<-r.room
		return err
	}
	return nil
}

const (
	// restoreAlarmPatience is how long a restore waits for the end of an alarm.
	restoreAlarmPatience = time.Minute
	restoreAlarmPoll     = 100 * time.Millisecond
)

// awaitRoom holds the restore up as publishers are held up, while a node is low on memory or disk.
func (r *restorer) awaitRoom() error {
	for end := time.Now().Add(r.patience); !r.takesBack; {
		alarms := r.c.Alarms()
		if own := r.c.o.Resources; own != nil {
			alarms = append(alarms, own().Alarm)
		}
		i := slices.IndexFunc(alarms, func(reason string) bool { return reason != "" })
		switch {
		case i < 0:
			return nil
		case time.Now().After(end):
			return unavailable("a node is %s", alarms[i])
		}
		select {
		case <-time.After(restoreAlarmPoll):
		case <-r.ctx.Done():
			return r.ctx.Err()
		}
	}
	return nil
}

// applied is Batch.Done, appliedOrGone that of batches whose queues may be gone.
func (r *restorer) applied(_ *broker.Batch, results []queue.Result) { r.note(results, false) }

func (r *restorer) appliedOrGone(_ *broker.Batch, results []queue.Result) { r.note(results, true) }

func (r *restorer) note(results []queue.Result, mayBeGone bool) {
	for i := range results {
		var err error
		switch code := results[i].Code; {
		case code == queue.OK, code == queue.Gone && mayBeGone:
			continue
		case code == queue.Gone:
			err = unavailable("a queue was removed while it was filled")
		default:
			err = unavailable("a shard refused what it was given, with code %d: this node was cut off from it, perhaps", code)
		}
		r.mu.Lock()
		if r.failed == nil {
			r.failed = err
		}
		r.mu.Unlock()
	}
	<-r.room
}

func (r *restorer) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// flush sends what is open and waits until everything has been applied.
func (r *restorer) flush() error {
	for shard := range r.open {
		if err := r.submit(shard); err != nil {
			return err
		}
	}
	taken := 0
	defer func() {
		for range taken {
			<-r.room
		}
	}()
	for taken < restoreInFlight {
		select {
		case r.room <- struct{}{}:
			taken++
		case <-r.ctx.Done():
			return r.ctx.Err()
		case <-r.c.ctx.Done():
			return unavailable("this node stops")
		}
	}
	return r.failure()
}

// limit gives the queues the settings that they had. One that is gone would come back without its messages if it were configured.
func (r *restorer) limit() error {
	for _, q := range r.queues {
		if err := r.add(q.id.Shard(), func(b *queue.Batch) { b.Reconfigure(q.id, q.settings) }); err != nil {
			return err
		}
	}
	return r.flush()
}

// release takes the restore's mark off the queues, which have their names. Clients may have deleted some.
func (r *restorer) release() error {
	r.mayBeGone = true
	for _, q := range r.queues {
		q.settings.Restoring = false
		if err := r.add(q.id.Shard(), func(b *queue.Batch) { b.Reconfigure(q.id, q.settings) }); err != nil {
			return err
		}
	}
	return r.flush()
}

// name makes everything visible: what queues need, then their names, then what needs them.
func (r *restorer) name() error {
	if err := errors.Join(r.proposeAll(r.first), r.proposeAll(r.second)); err != nil {
		return err
	}
	var names []*catalog.Command
	gone := map[[2]string]bool{}
	for _, q := range r.names {
		made := r.made[q.Id]
		if made == nil {
			r.done.Deleted++
			gone[[2]string{q.Vhost, q.Name}] = true
			continue
		}
		q.Id = uint64(made.id)
		names = append(names, catalog.AddQueue(q))
		r.done.Queues++
	}
	if err := r.proposeAll(names); err != nil {
		return err
	}
	bindings := slices.DeleteFunc(r.last, func(cmd *catalog.Command) bool {
		b := cmd.GetBind()
		return !b.ToExchange && gone[[2]string{b.Vhost, b.Destination}]
	})
	if err := r.proposeAll(bindings); err != nil || r.guest {
		return err
	}
	return r.propose(catalog.DeleteUser(&raftv1.DeleteUser{Name: catalog.DefaultUser}))
}

// proposeAll proposes commands that do not depend on one another.
func (r *restorer) proposeAll(cmds []*catalog.Command) error {
	ctx, cancel := context.WithCancelCause(r.ctx)
	defer cancel(nil)
	work := make(chan *catalog.Command)
	var workers sync.WaitGroup
	for range restoreChanges {
		workers.Go(func() {
			for cmd := range work {
				if err := r.propose(cmd); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, cmd := range cmds {
		select {
		case work <- cmd:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(work)
	workers.Wait()
	return context.Cause(ctx)
}

// restoreChangeTimeout bounds one change of the catalog.
const restoreChangeTimeout = time.Minute

// propose makes a change, which may have been made already: a command may be committed twice.
func (r *restorer) propose(cmd *catalog.Command) error {
	ctx, cancel := context.WithTimeout(r.ctx, restoreChangeTimeout)
	defer cancel()
	_, err := r.c.Propose(ctx, cmd)
	var refusal *broker.Error
	if errors.As(err, &refusal) {
		_, vhost := cmd.Command.(*raftv1.CatalogCommand_CreateVhost)
		_, user := cmd.Command.(*raftv1.CatalogCommand_DeleteUser)
		if vhost && refusal.Kind == broker.Exists || user && refusal.Kind == broker.NotFound {
			return nil
		}
	}
	return err
}
