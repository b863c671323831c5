package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
)

// usage is a moment of a measurement.
type usage struct {
	at                             time.Time
	published, confirmed, consumed int64
	brokers, client                time.Duration // CPU time
}

func (r *runner) usage() usage {
	return usage{time.Now(), r.published.Load(), r.confirmed.Load(), r.consumed.Load(), cpuOf(r.c.PIDs), ownCPU()}
}

// spent is microseconds for each of n messages.
func spent(before, after usage, n float64) (brokers, client float64) {
	n = max(n, 1)
	return (after.brokers - before.brokers).Seconds() * 1e6 / n, (after.client - before.client).Seconds() * 1e6 / n
}

// clockTick is the unit of CPU time in /proc.
const clockTick = time.Second / 100

func cpuOf(pids []int) (total time.Duration) {
	for _, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // it has ended
		}
		f := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		if len(f) > 12 {
			user, _ := strconv.ParseInt(f[11], 10, 64)
			system, _ := strconv.ParseInt(f[12], 10, 64)
			total += time.Duration(user+system) * clockTick
		}
	}
	return total
}

func ownCPU() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func residentOf(pids []int) map[string]int64 {
	held := map[string]int64{}
	for _, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			continue // it has ended
		}
		if f := strings.Fields(string(data)); len(f) > 1 {
			pages, _ := strconv.ParseInt(f[1], 10, 64)
			held[strconv.Itoa(pid)] = pages * int64(os.Getpagesize())
		}
	}
	return held
}

// churnResult has the names of the suite's own.
type churnResult struct {
	Seconds, Cycles float64
	CycleTime       latency
	CPUPerCycle     float64
}

// churn connects and closes, or makes and deletes streams, again and again.
func churn(ctx context.Context, c *command) (*churnResult, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var cycles atomic.Int64
	var measuring atomic.Bool
	failed := make(chan error, c.Churn.Workers)
	var all []*times
	var workers sync.WaitGroup
	for worker := range c.Churn.Workers {
		t := newTimes()
		all = append(all, t)
		cycle, end, err := c.cycle(worker)
		if err != nil {
			return nil, err
		}
		workers.Go(func() {
			defer end()
			for n := 0; ctx.Err() == nil; n++ {
				begin := now()
				if err := cycle(n); err != nil {
					failed <- err
					return
				}
				cycles.Add(1)
				if measuring.Load() {
					t.since(begin)
				}
			}
		})
	}
	wait := func(d time.Duration) error {
		select {
		case <-time.After(d):
			return nil
		case err := <-failed:
			return err
		}
	}
	if err := wait(c.Churn.Warmup); err != nil {
		return nil, err
	}
	before := usage{at: time.Now(), published: cycles.Load(), brokers: cpuOf(c.PIDs)}
	measuring.Store(true)
	if err := wait(c.Churn.Duration); err != nil {
		return nil, err
	}
	measuring.Store(false)
	after := usage{at: time.Now(), published: cycles.Load(), brokers: cpuOf(c.PIDs)}
	cancel()
	workers.Wait()
	seconds, n := after.at.Sub(before.at).Seconds(), float64(after.published-before.published)
	cpu, _ := spent(before, after, n)
	return &churnResult{seconds, n / seconds, summary(all), cpu}, nil
}

// cycle is what one worker does again and again, and what it does at the end.
func (c *command) cycle(worker int) (cycle func(n int) error, end func(), err error) {
	if c.Churn.Kind == "connection" {
		return func(int) error {
			conn, _, err := c.connect(worker)
			if err != nil {
				return err
			}
			conn.Close()
			return nil
		}, func() {}, nil
	}
	conn, js, err := c.connect(worker)
	if err != nil {
		return nil, nil, err
	}
	return func(n int) error {
		name := fmt.Sprintf("%s-%d-%d", c.Churn.Queue, worker, n)
		ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
		defer cancel()
		if _, err := declare(ctx, js, name, false); err != nil {
			return err
		}
		return js.DeleteStream(ctx, name)
	}, conn.Close, nil
}

// memoryResult has the names of the suite's own.
type memoryResult struct {
	Before, After                         map[string]int64
	PerUnit, PerNode, Seconds, CPUPerUnit float64
}

// memory gives the servers connections or messages to hold.
func memory(ctx context.Context, c *command) (*memoryResult, error) {
	r := &memoryResult{Before: residentOf(c.PIDs)}
	before := usage{at: time.Now(), brokers: cpuOf(c.PIDs)}
	var conns []*nats.Conn
	defer func() {
		for _, conn := range conns {
			conn.Close()
		}
	}()
	for i := range c.Memory.Connections {
		conn, _, err := c.connect(i)
		if err != nil {
			return nil, err
		}
		conns = append(conns, conn)
	}
	if c.Memory.Messages > 0 {
		fill := *c
		fill.Run = &runOptions{Publishers: 1, Queues: 1, Size: c.Memory.Size, Confirm: 2000, Queue: c.Memory.Queue, Keep: true, Backlog: c.Memory.Messages}
		if _, err := run(ctx, &fill); err != nil {
			return nil, err
		}
	}
	after := usage{at: time.Now(), brokers: cpuOf(c.PIDs)}
	time.Sleep(c.Memory.Settle)
	r.After = residentOf(c.PIDs)
	n := float64(max(1, c.Memory.Connections+c.Memory.Messages))
	r.Seconds = after.at.Sub(before.at).Seconds()
	r.CPUPerUnit, _ = spent(before, after, n)
	for pid, was := range r.Before {
		r.PerUnit += float64(r.After[pid]-was) / n
	}
	r.PerNode = r.PerUnit / max(1, float64(len(r.Before)))
	return r, nil
}
