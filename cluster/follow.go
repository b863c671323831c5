package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	nodev1 "github.com/warrenmq/warren/proto/node/v1"
)

// follower keeps this node's copy of the catalog current and known to be so: the asking side of leases.go.
type follower struct {
	c          *Cluster
	began      time.Time
	until      atomic.Int64  // end of the lease, nanoseconds since began
	everywhere atomic.Uint64 // every node acts on the commands up to this one, or knows that it does not
	wake       chan struct{} // has room for one: the leader may be another, or the node has been registered

	mu      sync.Mutex // guards what follows
	ping    uint64
	asked   map[uint64]time.Time // when each ping was sent that may still be answered
	waiting grant
	renewed chan struct{} // closed and replaced with each lease
}

// grant is a lease that begins when the copy holds a command.
type grant struct {
	index uint64
	until time.Time
}

func newFollower(c *Cluster) *follower {
	return &follower{c: c, began: time.Now(), wake: make(chan struct{}, 1), asked: map[uint64]time.Time{}, renewed: make(chan struct{})}
}

var errStale = unavailable("this node is cut off from the cluster's majority")

// fresh returns nil while the copy is known to hold every change that has been answered.
func (f *follower) fresh() error {
	if int64(time.Since(f.began)) < f.until.Load() {
		return nil
	}
	return errStale
}

// settledTo tells whether every node is known to act on the commands up to one, or to know that it does not.
func (f *follower) settledTo(index uint64) bool { return index <= f.everywhere.Load() }

// isSettled notes that.
func (f *follower) isSettled(index uint64) {
	for was := f.everywhere.Load(); was < index && !f.everywhere.CompareAndSwap(was, index); was = f.everywhere.Load() {
	}
}

// lookAgain says that the leader may be another, or that this node has its number now.
func (f *follower) lookAgain() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// run follows whoever leads, until ctx ends.
func (f *follower) run(ctx context.Context) {
	for ctx.Err() == nil {
		leader, _ := f.c.catalog.leader()
		var err error
		switch {
		case leader == f.c.identity.UUID:
			err = f.followHere(ctx)
		case leader != "":
			err = f.followThere(ctx, leader)
		}
		if err != nil && ctx.Err() == nil {
			f.c.log.Debug("catalog's leader lost", "err", err)
		}
		select {
		case <-f.wake:
		case <-time.After(followPause):
		case <-ctx.Done():
		}
	}
}

// followHere renews the lease while this node leads: it too must know that no other does.
func (f *follower) followHere(ctx context.Context) error {
	for {
		asked := time.Now()
		verifying, cancel := context.WithTimeout(ctx, leaseTime)
		_, err := f.c.catalog.verify(verifying)
		cancel()
		if err != nil {
			return err
		}
		f.confirmed(asked)
		select {
		case <-f.wake:
		case <-time.After(leasePause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// confirmed takes a lease since a majority has confirmed that this node leads, after it was asked. Not before the catalog has the
// node: the next leader waits for the leases of those alone, see leases.lead.
func (f *follower) confirmed(asked time.Time) {
	if f.c.Self().Node != 0 {
		f.renew(grant{until: asked.Add(leaseTime)})
	}
}

// renew takes a lease, at once if the copy holds what it must.
func (f *follower) renew(g grant) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.c.catalog.at() < g.index {
		f.waiting = g
		return
	}
	f.waiting = grant{}
	if until := int64(g.until.Sub(f.began)); until > f.until.Load() {
		f.until.Store(until)
	}
	close(f.renewed)
	f.renewed = make(chan struct{})
}

// caughtUp takes the lease that waits for a command which the copy now may hold.
func (f *follower) caughtUp() {
	f.mu.Lock()
	g := f.waiting
	f.mu.Unlock()
	if g.index != 0 {
		f.renew(g)
	}
}

var (
	errSilent      = errors.New("the catalog's leader is silent")
	errOtherLeader = errors.New("the catalog has another leader, or none")
)

// followPause is how often it is looked who leads.
const followPause = 50 * time.Millisecond

// followThere follows a leader on another node until it does not lead any more.
func (f *follower) followThere(ctx context.Context, leader string) error {
	control, err := f.c.network.Control(leader)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	silence := time.AfterFunc(2*leaseTime, func() { cancel(errSilent) })
	defer silence.Stop()
	var others sync.WaitGroup
	defer others.Wait()
	defer cancel(nil)
	others.Go(func() { f.whileLeads(ctx, leader, cancel) })
	stream, err := control.Follow(ctx)
	if err != nil {
		return fmt.Errorf("follow node %s: %w", leader, errors.Join(err, context.Cause(ctx)))
	}
	others.Go(func() { f.tell(ctx, stream) })
	for {
		response, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("follow node %s: %w", leader, errors.Join(err, context.Cause(ctx)))
		}
		silence.Reset(2 * leaseTime)
		for _, command := range response.Commands {
			if err := f.c.catalog.feed(command.Previous, command.Index, command.Command); err != nil {
				f.c.o.OnFatal(fmt.Errorf("catalog: %w", err))
				return err
			}
		}
		f.granted(response)
		f.caughtUp()
	}
}

// whileLeads ends the following of a leader when there is another, or none: the one before may be silent, and would be waited for.
func (f *follower) whileLeads(ctx context.Context, leader string, end context.CancelCauseFunc) {
	ticker := time.NewTicker(followPause)
	defer ticker.Stop()
	for {
		if now, _ := f.c.catalog.leader(); now != leader {
			end(errOtherLeader)
			return
		}
		select {
		case <-f.wake:
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// granted takes the lease that a response may bring. It counts from when it was asked for; others may have been asked for
// since, when the leader's disk or another's is busy.
func (f *follower) granted(response *nodev1.FollowResponse) {
	f.mu.Lock()
	asked, ours := f.asked[response.Ping]
	if ours {
		maps.DeleteFunc(f.asked, func(ping uint64, _ time.Time) bool { return ping <= response.Ping })
	}
	f.mu.Unlock()
	if ours {
		f.renew(grant{response.Index, asked.Add(leaseTime)})
	}
}

// tell says what the copy holds, at once when it changes, and asks for leases.
func (f *follower) tell(ctx context.Context, stream grpc.BidiStreamingClient[nodev1.FollowRequest, nodev1.FollowResponse]) {
	ticker := time.NewTicker(leasePause)
	defer ticker.Stop()
	for ping := true; ; {
		at, more := f.c.catalog.position()
		q := &nodev1.FollowRequest{Node: uint32(f.c.Self().Node), Applied: at}
		if ping {
			f.mu.Lock()
			now := time.Now()
			maps.DeleteFunc(f.asked, func(_ uint64, asked time.Time) bool { return now.Sub(asked) > leaseTime })
			f.ping++
			f.asked[f.ping] = now
			q.Ping = f.ping
			f.mu.Unlock()
		}
		if stream.Send(q) != nil {
			return // Recv tells why
		}
		ping = false
		select {
		case <-more:
			f.caughtUp()
		case <-ticker.C:
			ping = true
		case <-ctx.Done():
			return
		}
	}
}

// waitFresh waits until the copy is known to be current.
func (f *follower) waitFresh(ctx context.Context) error {
	for {
		f.mu.Lock()
		renewed := f.renewed
		f.mu.Unlock()
		if f.fresh() == nil {
			return nil
		}
		select {
		case <-renewed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
