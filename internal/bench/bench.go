// Package bench measures a broker over AMQP or Warren's gRPC API: publishers with confirms, consumers with acknowledgements,
// throughput and latency, and what the brokers' processes spend on each message. It has clients of its own for both, lean
// enough not to be what is measured.
package bench

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/warrenmq/warren/amqp/wire"
)

// The protocols that Run speaks.
const (
	AMQP = "amqp"
	GRPC = "grpc"
)

// Target is the broker that is measured.
type Target struct {
	Protocol              string      // AMQP or GRPC; empty: AMQP. Only Run knows another
	Servers               []string    // host:port; connections are dealt out over them
	User, Password, VHost string      // without a user, the certificate that TLS shows says who it is
	Token                 string      // a bearer token, instead of user and password; GRPC alone takes it
	TLS                   *tls.Config `json:"-"` // nil: plain text
	QueueType             string      // x-queue-type of the queues; empty: the broker's own choice
	PIDs                  []int       // broker processes on this machine whose CPU time and memory count; empty: those that listen at Servers
}

func (t *Target) validate() error {
	if len(t.Servers) == 0 {
		return errors.New("no server")
	}
	if t.Protocol != "" && t.Protocol != AMQP && t.Protocol != GRPC {
		return fmt.Errorf("protocol %q: neither %s nor %s", t.Protocol, AMQP, GRPC)
	}
	if t.Token != "" && t.Protocol != GRPC {
		return errors.New("AMQP takes no bearer token: log in by user and password, or by a certificate")
	}
	return nil
}

// declare is the method that declares a durable queue.
func (t *Target) declare(queue string) *wire.QueueDeclare {
	m := &wire.QueueDeclare{Queue: queue, Durable: true}
	if t.QueueType != "" {
		m.Arguments = wire.Table{"x-queue-type": t.QueueType}
	}
	return m
}

// Options say what is measured.
type Options struct {
	Target
	ConsumerServers []string // where the consumers connect; empty: Servers

	Publishers, Consumers, Queues int
	Size                          int     // bytes of a body
	Confirm                       int     // publishes that may be unconfirmed for each publisher; 0: no confirms
	Prefetch                      int     // deliveries that may be unacknowledged for each consumer; 0: no limit
	AckEvery                      int     // deliveries for each ack; 0: no acks at all (no-ack consumers)
	Rate                          float64 // messages per second for each publisher; 0: as many as it can
	Persistent                    bool
	Warmup, Duration              time.Duration
	Queue                         string // name, or prefix of the names when there are several
	Keep                          bool   // leave the queues and what is in them
	Fanout                        bool   // publish to an exchange that every queue is bound to
	Backlog                       int    // messages that are all published first and then all consumed, instead of both for a time
}

func (o *Options) validate() error {
	if err := o.Target.validate(); err != nil {
		return err
	}
	switch {
	case o.Publishers < 0 || o.Consumers < 0 || o.Publishers+o.Consumers == 0:
		return errors.New("neither publishers nor consumers")
	case o.Queues < 1:
		return errors.New("at least one queue is needed")
	case o.Size < 0 || o.Confirm < 0 || o.Prefetch < 0 || o.Prefetch > 65535 || o.AckEvery < 0 || o.Rate < 0:
		return errors.New("a figure is negative or too large")
	case o.Prefetch > 0 && o.AckEvery > o.Prefetch:
		return fmt.Errorf("an ack for every %d deliveries never comes with a prefetch of %d", o.AckEvery, o.Prefetch)
	case o.Backlog < 0 || o.Backlog > 0 && (o.Publishers == 0 || o.Confirm == 0 || o.Rate > 0):
		return errors.New("a backlog is published by publishers with confirms and without a rate")
	case o.Fanout && o.Backlog > 0:
		return errors.New("a backlog is not made by fanout")
	case o.Duration <= 0 && o.Backlog == 0:
		return errors.New("no duration")
	}
	return nil
}

// Latency is percentiles of a time.
type Latency struct {
	Count         int64
	P50, P90, P99 time.Duration
	P999, Max     time.Duration
}

// Result is what was seen in the measured time.
type Result struct {
	Seconds       float64 // of a backlog: until it was drained, or filled where nobody drains it
	Published     float64 // per second; of a backlog: while it was filled
	Confirmed     float64
	Consumed      float64 // of a backlog: while it was drained
	Refused       int64   // negative confirms
	ConfirmTime   Latency
	EndToEnd      Latency
	CPUPerMessage map[string]float64 // by process: microseconds for each message consumed (or published, without consumers)
	CPUTotal      float64            // over all processes
	FillCPU       float64            // of a backlog: microseconds of all processes for each message while it was filled
	ClientCPU     float64            // the bench itself
}

// run is one measurement under way.
type run struct {
	o         Options
	measuring atomic.Bool
	published atomic.Int64
	confirmed atomic.Int64
	consumed  atomic.Int64
	refused   atomic.Int64
	failed    chan error // the first failure of a worker

	mu       sync.Mutex // guards the lists
	confirms []*hdrhistogram.Histogram
	ends     []*hdrhistogram.Histogram
	clients  []conversation
}

// conversation is a connection with what one publisher or one consumer says on it. One goroutine publishes; acks come from
// within events. Both are gathered until flush, or until enough has been.
type conversation interface {
	publish(body []byte) error
	ack(tag uint64) error // of all deliveries up to the tag
	flush() error
	ended() <-chan struct{} // closed when it has ended, with nothing to come any more
	cause() error           // why; valid then
	hangUp()                // ends it
}

// events is what a conversation tells, from one goroutine.
type events struct {
	confirm func(first, last uint64, ack bool)                  // numbers of publishes, from 1 on; a first of 0 is all before last, too
	deliver func(c conversation, tag uint64, body []byte) error // the body is valid until it returns
	batch   func(c conversation) error                          // what has arrived together was told
}

// door is a protocol's way to the broker.
type door interface {
	// declare makes the queues, and with Fanout the exchange.
	declare(ctx context.Context, r *run) error
	// remove deletes them. What fails is left: the figures are there already.
	remove(ctx context.Context, r *run)
	publisher(ctx context.Context, r *run, server, queue string, e events) (conversation, error)
	consumer(ctx context.Context, r *run, server, queue string, e events) (conversation, error)
}

// door returns the one of the target's protocol.
func (t *Target) door() door {
	if t.Protocol == GRPC {
		return grpcDoor{}
	}
	return amqpDoor{}
}

// latencyMax bounds what the histograms hold, in microseconds.
const latencyMax = 600e6

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, latencyMax, 3) }

// recordSince notes the time since a moment of now(); what is beyond the histogram's range is not counted.
func recordSince(h *hdrhistogram.Histogram, then int64) { _ = h.RecordValue(max(1, (now()-then)/1000)) }

// Run measures.
func Run(ctx context.Context, o Options) (*Result, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &run{o: o, failed: make(chan error, 1)}
	var workers sync.WaitGroup
	defer func() {
		cancel()
		for _, c := range r.clients {
			c.hangUp() // wakes the workers that wait in a read or write
		}
		workers.Wait()
		if !o.Keep {
			r.remove()
		}
	}()
	if err := o.door().declare(ctx, r); err != nil {
		return nil, err
	}
	if o.Backlog > 0 {
		return r.fillAndDrain(ctx, &workers)
	}
	for i := range o.Consumers {
		if err := r.consumer(ctx, i); err != nil {
			return nil, err
		}
	}
	for i := range o.Publishers {
		if err := r.publisher(ctx, i, &workers); err != nil {
			return nil, err
		}
	}
	if err := r.wait(ctx, o.Warmup); err != nil {
		return nil, err
	}
	return r.measure(ctx)
}

// remove deletes what was declared.
func (r *run) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	defer cancel()
	r.o.door().remove(ctx, r)
}

// wait lets time pass, unless a worker fails.
func (r *run) wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case err := <-r.failed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *run) fail(err error) {
	select {
	case r.failed <- err:
	default:
	}
}

// usage is a moment of a measurement.
type usage struct {
	at                             time.Time
	published, confirmed, consumed int64
	brokers                        map[string]time.Duration // CPU time by process
	client                         time.Duration
}

func (r *run) usage(processes map[string]int) usage {
	return usage{time.Now(), r.published.Load(), r.confirmed.Load(), r.consumed.Load(), cpuOf(processes), ownCPU()}
}

// spent is microseconds of CPU time that each process used between two moments, and all together, for each of n messages.
func spent(before, after usage, n float64) (byProcess map[string]float64, total, client float64) {
	byProcess, n = map[string]float64{}, max(n, 1)
	for name, was := range before.brokers {
		micros := (after.brokers[name] - was).Seconds() * 1e6 / n
		byProcess[name] = micros
		total += micros
	}
	return byProcess, total, (after.client - before.client).Seconds() * 1e6 / n
}

func (r *run) measure(ctx context.Context) (*Result, error) {
	processes := r.o.processes(r.o.ConsumerServers...)
	before := r.usage(processes)
	r.measuring.Store(true)
	if err := r.wait(ctx, r.o.Duration); err != nil {
		return nil, err
	}
	r.measuring.Store(false)
	after := r.usage(processes)
	seconds := after.at.Sub(before.at).Seconds()
	res := &Result{Seconds: seconds, Refused: r.refused.Load()}
	in, out := float64(after.published-before.published), float64(after.consumed-before.consumed)
	res.Published, res.Consumed = in/seconds, out/seconds
	res.Confirmed = float64(after.confirmed-before.confirmed) / seconds
	messages := out
	if r.o.Consumers == 0 {
		messages = in
	}
	res.CPUPerMessage, res.CPUTotal, res.ClientCPU = spent(before, after, messages)
	r.latencies(res)
	return res, nil
}

// latencies ends the workers and reads their histograms.
func (r *run) latencies(res *Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.clients {
		c.hangUp()
	}
	for _, c := range r.clients {
		<-c.ended()
	}
	res.ConfirmTime, res.EndToEnd = summary(r.confirms), summary(r.ends)
}

// fillAndDrain publishes the whole backlog, waits for its confirms, and then has it consumed.
func (r *run) fillAndDrain(ctx context.Context, workers *sync.WaitGroup) (*Result, error) {
	processes := r.o.processes(r.o.ConsumerServers...)
	r.measuring.Store(true)
	begin := r.usage(processes)
	for i := range r.o.Publishers {
		if err := r.publisher(ctx, i, workers); err != nil {
			return nil, err
		}
	}
	n := int64(r.o.Backlog)
	if err := r.reached(ctx, &r.confirmed, n); err != nil {
		return nil, err
	}
	filled := r.usage(processes)
	if refused := r.refused.Load(); refused > 0 {
		return nil, fmt.Errorf("%d of the backlog's messages were refused", refused)
	}
	res := &Result{Seconds: filled.at.Sub(begin.at).Seconds()}
	res.Published = float64(n) / res.Seconds
	res.Confirmed = res.Published
	res.CPUPerMessage, res.FillCPU, res.ClientCPU = spent(begin, filled, float64(n))
	if r.o.Consumers > 0 {
		for i := range r.o.Consumers {
			if err := r.consumer(ctx, i); err != nil {
				return nil, err
			}
		}
		if err := r.reached(ctx, &r.consumed, n); err != nil {
			return nil, err
		}
		drained := r.usage(processes)
		res.Seconds = drained.at.Sub(filled.at).Seconds()
		res.Consumed = float64(n) / res.Seconds
		res.CPUPerMessage, res.CPUTotal, res.ClientCPU = spent(filled, drained, float64(n))
	}
	r.latencies(res)
	return res, nil
}

// reached waits until a counter has come so far. It looks a hundred times a second: a backlog takes seconds.
func (r *run) reached(ctx context.Context, counter *atomic.Int64, n int64) error {
	for counter.Load() < n {
		if err := r.wait(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func summary(all []*hdrhistogram.Histogram) Latency {
	total := newHistogram()
	for _, h := range all {
		total.Merge(h)
	}
	at := func(q float64) time.Duration { return time.Duration(total.ValueAtQuantile(q)) * time.Microsecond }
	return Latency{Count: total.TotalCount(), P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: time.Duration(total.Max()) * time.Microsecond}
}

func (r *run) queueName(i int) string {
	if r.o.Queues == 1 {
		return r.o.Queue
	}
	return fmt.Sprintf("%s-%d", r.o.Queue, i%r.o.Queues)
}

// exchange is where publishers publish to: the default exchange, which routes by the queue's name, or the one of the fanout.
func (r *run) exchange() string {
	if r.o.Fanout {
		return r.o.Queue + "-fanout"
	}
	return ""
}

// stampSize is what a body needs to carry the time it was published.
const stampSize = 8

// epoch makes times of this process comparable and small.
var epoch = time.Now()

func now() int64 { return int64(time.Since(epoch)) }

// consumer starts one consumer.
func (r *run) consumer(ctx context.Context, i int) error {
	servers := r.o.ConsumerServers
	if len(servers) == 0 {
		servers = r.o.Servers
	}
	ends := newHistogram()
	r.ends = append(r.ends, ends)
	var acked uint64
	seen := int64(0)
	c, err := r.o.door().consumer(ctx, r, servers[i%len(servers)], r.queueName(i), events{
		deliver: func(c conversation, tag uint64, body []byte) error {
			seen++
			if len(body) >= stampSize && r.measuring.Load() {
				recordSince(ends, int64(binary.LittleEndian.Uint64(body)))
			}
			if r.o.AckEvery == 0 || tag-acked < uint64(r.o.AckEvery) {
				return nil
			}
			acked = tag
			return c.ack(tag)
		},
		batch: func(c conversation) error {
			r.consumed.Add(seen)
			seen = 0
			return c.flush()
		},
	})
	if err != nil {
		return err
	}
	r.began(ctx, c)
	return nil
}

// began notes a conversation. One that ends before the measurement does is a failure.
func (r *run) began(ctx context.Context, c conversation) {
	r.mu.Lock()
	r.clients = append(r.clients, c)
	r.mu.Unlock()
	go func() {
		<-c.ended()
		if ctx.Err() == nil {
			r.fail(fmt.Errorf("a connection ended: %w", c.cause()))
		}
	}()
}

// publisher starts one publisher.
func (r *run) publisher(ctx context.Context, i int, workers *sync.WaitGroup) error {
	window := newWindow(r.o.Confirm)
	confirms := newHistogram()
	r.confirms = append(r.confirms, confirms)
	c, err := r.o.door().publisher(ctx, r, r.o.Servers[i%len(r.o.Servers)], r.queueName(i), events{
		confirm: func(first, last uint64, ack bool) {
			if !ack {
				r.refused.Add(1)
			}
			at, measuring := now(), r.measuring.Load()
			n := window.confirm(first, last, func(sent int64) {
				if measuring {
					_ = confirms.RecordValue(max(1, (at-sent)/1000)) // beyond the range: not counted
				}
			})
			r.confirmed.Add(int64(n))
		},
		batch: func(conversation) error { window.tell(); return nil },
	})
	if err != nil {
		return err
	}
	r.began(ctx, c)
	workers.Go(func() {
		if err := r.publish(ctx, c, i, window); err != nil && ctx.Err() == nil {
			r.fail(err)
		}
	})
	return nil
}

// publish publishes until ctx or the connection ends, or the publisher's share of the backlog is sent.
func (r *run) publish(ctx context.Context, c conversation, i int, w *window) error {
	share := int64(-1) // of the backlog; negative: until the end
	if r.o.Backlog > 0 {
		share = int64((r.o.Backlog + i) / r.o.Publishers) // the shares' sum is the backlog
	}
	body := make([]byte, r.o.Size)
	begin, sent := time.Now(), int64(0)
	for ctx.Err() == nil && sent != share {
		batch := w.room(c.ended(), ctx.Done())
		if batch == 0 {
			return nil
		}
		if r.o.Rate > 0 {
			due := int64(time.Since(begin).Seconds()*r.o.Rate) + 1 - sent
			if due <= 0 {
				time.Sleep(time.Duration(float64(time.Second) / r.o.Rate))
				continue
			}
			batch = min(batch, int(due))
		}
		if batch = min(batch, maxBatch); share >= 0 {
			batch = int(min(int64(batch), share-sent))
		}
		for range batch {
			at := now()
			if len(body) >= stampSize {
				binary.LittleEndian.PutUint64(body, uint64(at))
			}
			w.sent(at)
			if err := c.publish(body); err != nil {
				return err
			}
		}
		if err := c.flush(); err != nil {
			return err
		}
		sent += int64(batch)
		r.published.Add(int64(batch))
	}
	return nil
}

// maxBatch bounds how many publishes are made before the window is looked at again.
const maxBatch = 256
