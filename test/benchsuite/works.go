package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/warrenmq/warren/internal/bench"
)

// values are what a work measured, by metric.
type values map[string]float64

// The metrics. Rates are per second, CPU is microseconds for each message (or connection, queue) of all broker processes.
const (
	published  = "published/s"
	consumed   = "consumed/s"
	cpu        = "broker CPU µs"
	fillCPU    = "filling: broker CPU µs"
	clientCPU  = "client CPU µs"
	confirmP50 = "confirm p50 ms"
	confirmP99 = "confirm p99 ms"
	endP50     = "end to end p50 ms"
	endP99     = "end to end p99 ms"
	endP999    = "end to end p99.9 ms"
	cycles     = "cycles/s"
	cycleP99   = "cycle p99 ms"
	residentMB = "resident MiB per node"
	bytesEach  = "bytes each on its nodes"
	gapMillis  = "longest confirm ms"
	refused    = "refused"
	readyMs    = "ready after ms"
	peakMB     = "peak resident MiB per node"
	madePerSec = "made/s"
)

// work is one thing that is measured.
type work struct {
	name, title string
	group       string // of the report
	fresh       bool   // needs nodes that have done nothing yet
	spoils      bool   // leaves nodes that nothing more should be measured on
	alone       bool   // of Warren alone, and once: it would take the others too long
	do          func(ctx context.Context, o *options, b broker) (values, error)
}

// chosen tells whether its name begins with one of the prefixes.
func (w work) chosen(prefixes string) bool {
	for prefix := range strings.SplitSeq(prefixes, ",") {
		if strings.HasPrefix(w.name, prefix) {
			return true
		}
	}
	return false
}

// The groups of the report, in its order.
const (
	throughputGroup = "Throughput"
	backlogGroup    = "Backlog"
	fanoutGroup     = "Fanout to ten queues"
	latencyGroup    = "Latency, 1 KiB"
	churnGroup      = "Coming and going"
	memoryGroup     = "Memory"
	faultGroup      = "Failover and restart"
	scaleGroup      = "Scale: Warren alone, once"
)

// works is the whole matrix.
func works(o *options) []work {
	all := []work{
		{name: "memory-idle", title: "three nodes with nothing", group: memoryGroup, do: idle},
		{name: "memory-connections", title: "1,000 idle connections", group: memoryGroup, do: func(ctx context.Context, o *options, b broker) (values, error) {
			v, err := held(b.memory(ctx, bench.MemoryOptions{Connections: o.scaled(1000), Settle: settle, Queue: "suite"}))
			if err == nil {
				v[bytesEach] *= nodes // each is on one node alone
			}
			return v, err
		}},
	}
	for _, queues := range []int{1, 10} {
		for _, size := range []int{16, 1 << 10, 16 << 10, 1 << 20} {
			all = append(all, throughput(size, queues, false), throughput(size, queues, true))
		}
	}
	for _, size := range []int{16, 1 << 10, 16 << 10} {
		all = append(all, drain(size))
	}
	all = append(all, fanout(16), fanout(1<<10), atRate(1000), atRate(5000), oneAtATime())
	for _, kind := range []struct{ name, title string }{
		{bench.ChurnConnection, "connect, open a channel, close"},
		{bench.ChurnExclusive, "connect, declare an exclusive queue, close"},
		{bench.ChurnQueue, "declare and delete a replicated queue"},
	} {
		all = append(all, churnOf(kind.name, kind.title))
	}
	return append(all,
		work{name: "memory-queues", title: "10,000 empty queues", group: memoryGroup, fresh: true, spoils: true, do: func(ctx context.Context, o *options, b broker) (values, error) {
			return held(b.memory(ctx, bench.MemoryOptions{Queues: o.scaled(10000), Settle: settle, Queue: "suite", Keep: true}))
		}},
		work{name: "memory-messages", title: "1,000,000 messages of 1 KiB", group: memoryGroup, fresh: true, spoils: true, do: func(ctx context.Context, o *options, b broker) (values, error) {
			return held(b.memory(ctx, bench.MemoryOptions{Messages: o.scaled(1000000), Size: 1024, Settle: settle, Queue: "suite", Keep: true}))
		}},
		work{name: "failover", title: "kill -9 of a node that leads, at 500 messages/s through another", group: faultGroup, fresh: true, spoils: true, do: failover},
		work{name: "restart", title: "a killed node with a backlog of 100,000 × 1 KiB serves again", group: faultGroup, fresh: true, spoils: true, do: restart},
		work{name: "scale-queues", title: "100,000 empty queues, and 1 KiB in and out beside them", group: scaleGroup, fresh: true, spoils: true, alone: true, do: manyQueues},
		work{name: "scale-backlog", title: "10,000,000 × 1 KiB, filled, then drained", group: scaleGroup, fresh: true, spoils: true, alone: true, do: deepQueue},
	)
}

// settle is how long brokers may collect their garbage before their memory is read.
const settle = 10 * time.Second

func (o *options) scaled(n int) int { return max(1, int(float64(n)*o.scale)) }

func sizeName(size int) string {
	switch {
	case size >= 1<<20:
		return fmt.Sprintf("%d MiB", size>>20)
	case size >= 1<<10:
		return fmt.Sprintf("%d KiB", size>>10)
	}
	return fmt.Sprintf("%d B", size)
}

func shortSize(size int) string { return strings.ReplaceAll(strings.ToLower(sizeName(size)), " ", "") }

// windowBytes bounds what all publishers of a run may have unconfirmed, so that large messages do not only wait.
const windowBytes = 32 << 20

// base is what all runs have in common: a window of 2000, a prefetch of 256, an ack for every 64; of large messages less.
func (o *options) base(size int) bench.Options { return o.baseOf(size, 1) }

// baseOf is base with as many queues, publishers and consumers.
func (o *options) baseOf(size, queues int) bench.Options {
	b := bench.Options{Publishers: queues, Consumers: queues, Queues: queues, Size: size, Confirm: max(4, min(2000, windowBytes/size/queues)),
		Prefetch: 256, AckEvery: 64, Persistent: true, Warmup: o.warmup, Duration: o.duration, Queue: "suite"}
	if size >= 1<<20 {
		b.Prefetch, b.AckEvery = 32, 8
	}
	return b
}

func throughput(size, queues int, consumers bool) work {
	w := work{name: fmt.Sprintf("publish-%s-%dq", shortSize(size), queues), title: fmt.Sprintf("%s, %s, publish only", sizeName(size), count(queues, "queue")), group: throughputGroup}
	if consumers {
		w.name, w.title = fmt.Sprintf("both-%s-%dq", shortSize(size), queues), fmt.Sprintf("%s, %s, in and out", sizeName(size), count(queues, "queue"))
	}
	w.do = func(ctx context.Context, o *options, b broker) (values, error) {
		r := o.baseOf(size, queues)
		if !consumers {
			r.Consumers = 0
		}
		return flow(b.run(ctx, r))
	}
	return w
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// backlogBytes bounds a backlog: 500,000 messages, or fewer large ones.
const backlogBytes = 1 << 30

func drain(size int) work {
	n := min(500000, backlogBytes/size)
	return work{name: "drain-" + shortSize(size), title: fmt.Sprintf("%d × %s, filled, then drained", n, sizeName(size)), group: backlogGroup,
		do: func(ctx context.Context, o *options, b broker) (values, error) {
			r := o.base(size)
			// All of it is acknowledged: the last ones too.
			r.Backlog = max(r.AckEvery, o.scaled(n)/r.AckEvery*r.AckEvery)
			return flow(b.run(ctx, r))
		}}
}

func fanout(size int) work {
	return work{name: "fanout-" + shortSize(size), title: sizeName(size) + ", one publisher, ten consumers", group: fanoutGroup,
		do: func(ctx context.Context, o *options, b broker) (values, error) {
			r := o.base(size)
			r.Fanout, r.Queues, r.Consumers = true, 10, 10
			return flow(b.run(ctx, r))
		}}
}

func atRate(rate int) work {
	return work{name: fmt.Sprintf("rate-%d", rate), title: fmt.Sprintf("%d messages/s", rate), group: latencyGroup,
		do: func(ctx context.Context, o *options, b broker) (values, error) {
			r := o.base(1024)
			r.Rate, r.AckEvery = float64(rate), 1
			return flow(b.run(ctx, r))
		}}
}

func oneAtATime() work {
	return work{name: "one-at-a-time", title: "one message at a time, publish only", group: latencyGroup,
		do: func(ctx context.Context, o *options, b broker) (values, error) {
			r := o.base(1024)
			r.Confirm, r.Consumers = 1, 0
			return flow(b.run(ctx, r))
		}}
}

// flow is a run's figures as values.
func flow(r *bench.Result, err error) (values, error) {
	if err != nil {
		return nil, err
	}
	v := values{published: r.Published, cpu: r.CPUTotal, clientCPU: r.ClientCPU, confirmP50: ms(r.ConfirmTime.P50), confirmP99: ms(r.ConfirmTime.P99),
		gapMillis: ms(r.ConfirmTime.Max)}
	if r.FillCPU > 0 {
		v[fillCPU] = r.FillCPU
	}
	if r.Consumed > 0 {
		v[consumed] = r.Consumed
	}
	if r.EndToEnd.Count > 0 {
		v[endP50], v[endP99], v[endP999] = ms(r.EndToEnd.P50), ms(r.EndToEnd.P99), ms(r.EndToEnd.P999)
	}
	return v, nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func churnOf(kind, title string) work {
	return work{name: "churn-" + kind, title: title, group: churnGroup, do: func(ctx context.Context, o *options, b broker) (values, error) {
		r, err := b.churn(ctx, bench.ChurnOptions{Kind: kind, Workers: 4, Warmup: o.warmup, Duration: o.duration, Queue: "suite-churn"})
		if err != nil {
			return nil, err
		}
		return values{cycles: r.Cycles, cycleP99: ms(r.CycleTime.P99), cpu: r.CPUPerCycle}, nil
	}}
}

func held(r *bench.MemoryResult, err error) (values, error) {
	if err != nil {
		return nil, err
	}
	total, processes := int64(0), 0
	for _, bytes := range r.After {
		total += bytes
		processes++
	}
	if processes == 0 {
		return nil, errors.New("the broker's processes were not found")
	}
	each := r.PerUnit / nodes
	return values{bytesEach: each, residentMB: float64(total) / nodes / (1 << 20), cpu: r.CPUPerUnit}, nil
}

// idle waits before it looks, as the others do.
func idle(ctx context.Context, _ *options, b broker) (values, error) {
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return values{residentMB: float64(b.resident()) / nodes / (1 << 20)}, nil
}

// Failover: twelve queues, so that on a broker that places leaders as it likes each node leads some. They are declared through
// the node that is killed, where RabbitMQ then has all their leaders.
const (
	failoverQueues = 12
	failoverRate   = 500.0 // messages per second, all queues together
	failoverBefore = 3 * time.Second
	failoverAfter  = 12 * time.Second
)

func failover(ctx context.Context, o *options, b broker) (values, error) {
	for i := range failoverQueues {
		if err := b.declareAt(ctx, 0, fmt.Sprintf("suite-failover-%d", i)); err != nil {
			return nil, err
		}
	}
	r := o.base(1024)
	r.Servers, r.Queue, r.Queues, r.Publishers, r.Consumers = []string{"1"}, "suite-failover", failoverQueues, failoverQueues, 0
	r.Rate, r.Duration, r.Keep = failoverRate/failoverQueues, failoverBefore+failoverAfter, true
	killed := make(chan error, 1)
	// The broker's processes are looked up before one of them is gone.
	timer := time.AfterFunc(r.Warmup+failoverBefore, func() { killed <- b.kill(0) })
	defer timer.Stop()
	result, err := b.run(ctx, r)
	if err != nil {
		return nil, err
	}
	select {
	case err := <-killed:
		if err != nil {
			return nil, err
		}
	default:
		return nil, errors.New("the run was over before the node was killed")
	}
	return values{gapMillis: ms(result.ConfirmTime.Max), refused: float64(result.Refused), published: result.Published}, nil
}

func restart(ctx context.Context, o *options, b broker) (values, error) {
	r := o.base(1024)
	r.Backlog, r.Consumers, r.Keep = o.scaled(100000), 0, true
	if _, err := b.run(ctx, r); err != nil {
		return nil, err
	}
	const victim = 2
	if err := b.kill(victim); err != nil {
		return nil, err
	}
	begin := time.Now()
	if err := b.again(ctx, victim); err != nil {
		return nil, err
	}
	deadline := begin.Add(startTimeout)
	for {
		err := b.ready(ctx, victim)
		if err == nil {
			return values{readyMs: ms(time.Since(begin))}, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("the node does not serve: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// manyQueues declares the queues, and looks whether the rest goes on as it does without them.
func manyQueues(ctx context.Context, o *options, b broker) (values, error) {
	n := o.scaled(100_000)
	m, err := b.memory(ctx, bench.MemoryOptions{Queues: n, Settle: settle, Queue: "suite-many", Keep: true})
	v, err := held(m, err)
	if err != nil {
		return nil, err
	}
	beside, err := flow(b.run(ctx, o.base(1024)))
	if err != nil {
		return nil, err
	}
	beside[bytesEach], beside[residentMB], beside[madePerSec] = v[bytesEach], v[residentMB], float64(n)/m.Seconds
	return beside, nil
}

// deepQueue fills one queue far beyond what memory and page cache hold and drains it.
func deepQueue(ctx context.Context, o *options, b broker) (values, error) {
	r := o.base(1024)
	r.Backlog = o.scaled(10_000_000) / r.AckEvery * r.AckEvery
	// Each node has each message once, and while it is drained perhaps a part of it again.
	if free, need := freeBytes(o.dir), int64(r.Backlog)*1024*nodes*3/2; free < need {
		return nil, fmt.Errorf("%s has %d MiB free, and this takes %d: %w", o.dir, free>>20, need>>20, errNotThere)
	}
	v, err := flow(b.run(ctx, r))
	if err != nil {
		return nil, err
	}
	v[peakMB] = float64(b.peak()) / nodes / (1 << 20)
	return v, nil
}
