package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/warrenmq/warren/amqp/wire"
)

// The kinds of churn: what is done again and again.
const (
	ChurnConnection = "connection" // connect, open a channel, close
	ChurnExclusive  = "exclusive"  // the same with an exclusive queue declared in between
	ChurnQueue      = "queue"      // declare a durable queue and delete it, on one connection
)

// ChurnOptions say what comes and goes.
type ChurnOptions struct {
	Target
	Kind             string
	Workers          int // at the same time, dealt out over the servers
	Warmup, Duration time.Duration
	Queue            string // prefix of the names of durable queues
}

// ChurnResult is what was seen in the measured time.
type ChurnResult struct {
	Seconds     float64
	Cycles      float64 // per second
	CycleTime   Latency
	CPUPerCycle float64 // microseconds, all broker processes
}

// churn is a measurement under way.
type churn struct {
	o         *ChurnOptions
	cycles    atomic.Int64
	measuring atomic.Bool
}

// Churn measures how fast connections or queues come and go.
func Churn(ctx context.Context, o ChurnOptions) (*ChurnResult, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &churn{o: &o}
	times := make([]*hdrhistogram.Histogram, o.Workers)
	failed := make(chan error, o.Workers)
	var workers sync.WaitGroup
	for i := range o.Workers {
		times[i] = newHistogram()
		workers.Go(func() {
			if err := c.work(ctx, i, times[i]); err != nil {
				failed <- err
			}
		})
	}
	processes := o.processes()
	result, err := c.measure(ctx, processes, failed)
	cancel()
	workers.Wait()
	if err != nil {
		return nil, err
	}
	result.CycleTime = summary(times)
	return result, nil
}

func (o *ChurnOptions) validate() error {
	if err := o.Target.validate(); err != nil {
		return err
	}
	switch {
	case o.Kind != ChurnConnection && o.Kind != ChurnExclusive && o.Kind != ChurnQueue:
		return fmt.Errorf("no kind of churn is called %q: %s, %s or %s", o.Kind, ChurnConnection, ChurnExclusive, ChurnQueue)
	case o.Workers < 1 || o.Duration <= 0:
		return errors.New("neither worker nor duration")
	}
	return nil
}

func (c *churn) measure(ctx context.Context, processes map[string]int, failed <-chan error) (*ChurnResult, error) {
	pause := func(d time.Duration) error {
		select {
		case <-time.After(d):
			return nil
		case err := <-failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := pause(c.o.Warmup); err != nil {
		return nil, err
	}
	before := usage{at: time.Now(), published: c.cycles.Load(), brokers: cpuOf(processes)}
	c.measuring.Store(true)
	if err := pause(c.o.Duration); err != nil {
		return nil, err
	}
	c.measuring.Store(false)
	after := usage{at: time.Now(), published: c.cycles.Load(), brokers: cpuOf(processes)}
	seconds, cycles := after.at.Sub(before.at).Seconds(), float64(after.published-before.published)
	_, cpu, _ := spent(before, after, cycles)
	return &ChurnResult{Seconds: seconds, Cycles: cycles / seconds, CPUPerCycle: cpu}, nil
}

// work does cycles until ctx ends. A cycle that has begun is finished: nothing stays behind.
func (c *churn) work(ctx context.Context, worker int, times *hdrhistogram.Histogram) error {
	cycle := c.connection(worker)
	if c.o.Kind == ChurnQueue {
		connection, err := c.dial(worker)
		if err != nil {
			return err
		}
		defer func() { _ = connection.goodbye() }() // what it did is counted already
		cycle = c.queue(connection, worker)
	}
	for n := 0; ctx.Err() == nil; n++ {
		begin := now()
		if err := cycle(n); err != nil {
			return fmt.Errorf("churn of %s, cycle %d: %w", c.o.Kind, n, err)
		}
		c.cycles.Add(1)
		if c.measuring.Load() {
			recordSince(times, begin)
		}
	}
	return nil
}

func (c *churn) dial(worker int) (*client, error) {
	return c.o.dial(context.Background(), c.o.Servers[worker%len(c.o.Servers)])
}

func (c *churn) connection(worker int) func(int) error {
	return func(int) error {
		connection, err := c.dial(worker)
		if err != nil {
			return err
		}
		if c.o.Kind == ChurnExclusive {
			if _, err := ask[*wire.QueueDeclareOk](connection, &wire.QueueDeclare{Exclusive: true}); err != nil {
				return errors.Join(err, connection.socket.Close())
			}
		}
		return connection.goodbye()
	}
}

func (c *churn) queue(connection *client, worker int) func(int) error {
	return func(n int) error {
		name := fmt.Sprintf("%s-%d-%d", c.o.Queue, worker, n)
		if _, err := ask[*wire.QueueDeclareOk](connection, c.o.declare(name)); err != nil {
			return err
		}
		_, err := ask[*wire.QueueDeleteOk](connection, &wire.QueueDelete{Queue: name})
		return err
	}
}
