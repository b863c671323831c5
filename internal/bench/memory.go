package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/warrenmq/warren/amqp/wire"
)

// MemoryOptions say what the broker is given to hold: exactly one of connections, queues and messages is more than zero.
type MemoryOptions struct {
	Target
	Connections int           // idle, each with an open channel; dealt out over the servers
	Queues      int           // durable and empty
	Messages    int           // of Size bytes, persistent, in one queue
	Size        int           // bytes
	Settle      time.Duration // between the last of them and the measurement, so that garbage is collected
	Queue       string        // name, or prefix of the names
	Keep        bool          // leave queues and messages
}

// MemoryResult is how much more the processes hold. What a runtime keeps for later counts as held: on a node that has not been
// used before, it is little.
type MemoryResult struct {
	Before, After map[string]int64 // resident bytes by process
	PerUnit       float64          // bytes that each connection, queue or message costs, in all processes together
	PerNode       float64          // the same divided by the processes
	Seconds       float64          // that it took to make them
	CPUPerUnit    float64          // microseconds of all processes
}

func (o *MemoryOptions) validate() error {
	if err := o.Target.validate(); err != nil {
		return err
	}
	kinds := 0
	for _, n := range []int{o.Connections, o.Queues, o.Messages} {
		if n < 0 {
			return errors.New("a figure is negative")
		}
		kinds += min(n, 1)
	}
	if kinds != 1 {
		return errors.New("one of connections, queues and messages is measured at a time")
	}
	return nil
}

// Memory measures what the broker's processes hold more once they have been given something.
func Memory(ctx context.Context, o MemoryOptions) (*MemoryResult, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	processes := o.processes()
	if len(processes) == 0 {
		return nil, errors.New("no process of the broker was found on this machine")
	}
	result := &MemoryResult{Before: residentOf(processes)}
	before := usage{at: time.Now(), brokers: cpuOf(processes)}
	n := o.Connections + o.Queues + o.Messages
	release, err := o.make(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	after := usage{at: time.Now(), brokers: cpuOf(processes)}
	result.Seconds = after.at.Sub(before.at).Seconds()
	_, result.CPUPerUnit, _ = spent(before, after, float64(n))
	select {
	case <-time.After(o.Settle):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	result.After = residentOf(processes)
	for name, was := range result.Before {
		result.PerUnit += float64(result.After[name]-was) / float64(n)
	}
	result.PerNode = result.PerUnit / float64(len(result.Before))
	return result, nil
}

// make makes what is to be held; release takes it away again.
func (o *MemoryOptions) make(ctx context.Context) (release func(), err error) {
	switch {
	case o.Connections > 0:
		return o.connect(ctx)
	case o.Queues > 0:
		return o.declareAll(ctx)
	}
	return o.publishAll(ctx)
}

// makers is how many connections or queues are made at the same time.
const makers = 32

// each calls make for 0 to n-1 by several workers, worker by worker in order, until one fails.
func each(ctx context.Context, n int, work func(ctx context.Context, worker, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var workers sync.WaitGroup
	for worker := range min(makers, n) {
		workers.Go(func() {
			for i := worker; i < n && ctx.Err() == nil; i += makers {
				if err := work(ctx, worker, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}

func (o *MemoryOptions) client(ctx context.Context, i int) (*client, error) {
	return o.dial(ctx, o.Servers[i%len(o.Servers)])
}

func (o *MemoryOptions) connect(ctx context.Context) (release func(), err error) {
	clients := make([]*client, o.Connections)
	release = func() {
		for _, c := range clients {
			if c != nil {
				_ = c.goodbye() // it is measured already
			}
		}
	}
	err = each(ctx, o.Connections, func(ctx context.Context, _, i int) (err error) {
		clients[i], err = o.client(ctx, i)
		return err
	})
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// withClients calls work with one connection for each worker.
func (o *MemoryOptions) withClients(ctx context.Context, n int, work func(c *client, i int) error) error {
	var clients [makers]*client
	defer func() {
		for _, c := range clients {
			if c != nil {
				_ = c.goodbye() // all was answered
			}
		}
	}()
	return each(ctx, n, func(ctx context.Context, worker, i int) (err error) {
		if clients[worker] == nil {
			if clients[worker], err = o.client(ctx, worker); err != nil {
				return err
			}
		}
		return work(clients[worker], i)
	})
}

func (o *MemoryOptions) declareAll(ctx context.Context) (release func(), err error) {
	name := func(i int) string { return fmt.Sprintf("%s-%d", o.Queue, i) }
	err = o.withClients(ctx, o.Queues, func(c *client, i int) error {
		_, err := ask[*wire.QueueDeclareOk](c, o.declare(name(i)))
		return err
	})
	release = func() {
		if o.Keep {
			return
		}
		_ = o.withClients(context.WithoutCancel(ctx), o.Queues, func(c *client, i int) error { // measured already
			_, err := ask[*wire.QueueDeleteOk](c, &wire.QueueDelete{Queue: name(i)})
			return err
		})
	}
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}

func (o *MemoryOptions) publishAll(ctx context.Context) (release func(), err error) {
	_, err = Run(ctx, Options{Target: o.Target, Publishers: 1, Queues: 1, Size: o.Size, Confirm: 2000, Persistent: true, Queue: o.Queue,
		Keep: true, Backlog: o.Messages})
	if err != nil {
		return nil, err
	}
	return func() {
		if !o.Keep {
			r := &run{o: Options{Target: o.Target, Queues: 1, Queue: o.Queue}}
			r.remove()
		}
	}, nil
}
