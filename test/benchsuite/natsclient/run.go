package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// result has the names of the suite's own result.
type result struct {
	Seconds, Published, Confirmed, Consumed float64
	Refused                                 int64
	ConfirmTime, EndToEnd                   latency
	CPUTotal, FillCPU, ClientCPU            float64
}

type latency struct {
	Count                    int64
	P50, P90, P99, P999, Max time.Duration
}

// runner is a measurement under way.
type runner struct {
	c         *command
	o         *runOptions
	measuring atomic.Bool

	published, confirmed, consumed, refused atomic.Int64

	failed chan error
	done   chan struct{}
	ends   []*times
	acks   []*times
}

// times is a histogram that several goroutines use.
type times struct {
	mu sync.Mutex // guards h
	h  *hdrhistogram.Histogram
}

func newTimes() *times { return &times{h: hdrhistogram.New(1, 600e6, 3)} }

func (t *times) since(then int64) {
	t.mu.Lock()
	_ = t.h.RecordValue(max(1, (now()-then)/1000)) // beyond the range: not counted
	t.mu.Unlock()
}

func summary(all []*times) latency {
	total := newTimes().h
	for _, t := range all {
		t.mu.Lock()
		total.Merge(t.h)
		t.mu.Unlock()
	}
	at := func(q float64) time.Duration { return time.Duration(total.ValueAtQuantile(q)) * time.Microsecond }
	return latency{total.TotalCount(), at(50), at(90), at(99), at(99.9), time.Duration(total.Max()) * time.Microsecond}
}

var epoch = time.Now()

func now() int64 { return int64(time.Since(epoch)) }

func (r *runner) queueName(i int) string {
	if r.o.Queues == 1 || r.o.Fanout {
		return r.o.Queue
	}
	return fmt.Sprintf("%s-%d", r.o.Queue, i%r.o.Queues)
}

func (r *runner) streams() int {
	if r.o.Fanout {
		return 1
	}
	return r.o.Queues
}

func (r *runner) fail(err error) {
	select {
	case r.failed <- err:
	default:
	}
}

func (r *runner) wait(d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case err := <-r.failed:
		return err
	}
}

func run(ctx context.Context, c *command) (*result, error) {
	r := &runner{c: c, o: c.Run, failed: make(chan error, 1), done: make(chan struct{})}
	conn, js, err := c.connect(0)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	for i := range r.streams() {
		if _, err := declare(ctx, js, r.queueName(i), r.o.Fanout); err != nil {
			return nil, err
		}
	}
	if !r.o.Keep {
		defer func() {
			for i := range r.streams() {
				ctx, cancel := context.WithTimeout(ctx, askTimeout)
				_ = js.DeleteStream(ctx, r.queueName(i)) // measured already
				cancel()
			}
		}()
	}
	defer close(r.done)
	if r.o.Backlog > 0 {
		return r.fillAndDrain(ctx)
	}
	if err := r.consumers(ctx); err != nil {
		return nil, err
	}
	if err := r.publishers(); err != nil {
		return nil, err
	}
	if err := r.wait(r.o.Warmup); err != nil {
		return nil, err
	}
	before := r.usage()
	r.measuring.Store(true)
	if err := r.wait(r.o.Duration); err != nil {
		return nil, err
	}
	r.measuring.Store(false)
	after := r.usage()
	res := &result{Seconds: after.at.Sub(before.at).Seconds(), Refused: r.refused.Load()}
	in, out := float64(after.published-before.published), float64(after.consumed-before.consumed)
	res.Published, res.Consumed = in/res.Seconds, out/res.Seconds
	res.Confirmed = float64(after.confirmed-before.confirmed) / res.Seconds
	messages := out
	if r.o.Consumers == 0 {
		messages = in
	}
	res.CPUTotal, res.ClientCPU = spent(before, after, messages)
	res.ConfirmTime, res.EndToEnd = summary(r.acks), summary(r.ends)
	return res, nil
}

func (r *runner) fillAndDrain(ctx context.Context) (*result, error) {
	r.measuring.Store(true)
	begin := r.usage()
	if err := r.publishers(); err != nil {
		return nil, err
	}
	n := int64(r.o.Backlog)
	if err := r.reached(&r.confirmed, n); err != nil {
		return nil, err
	}
	filled := r.usage()
	if refused := r.refused.Load(); refused > 0 {
		return nil, fmt.Errorf("%d of the backlog's messages were refused", refused)
	}
	res := &result{Seconds: filled.at.Sub(begin.at).Seconds()}
	res.Published = float64(n) / res.Seconds
	res.Confirmed = res.Published
	res.FillCPU, res.ClientCPU = spent(begin, filled, float64(n))
	if r.o.Consumers > 0 {
		if err := r.consumers(ctx); err != nil {
			return nil, err
		}
		if err := r.reached(&r.consumed, n); err != nil {
			return nil, err
		}
		drained := r.usage()
		res.Seconds = drained.at.Sub(filled.at).Seconds()
		res.Consumed = float64(n) / res.Seconds
		res.CPUTotal, res.ClientCPU = spent(filled, drained, float64(n))
	}
	res.ConfirmTime, res.EndToEnd = summary(r.acks), summary(r.ends)
	return res, nil
}

func (r *runner) reached(counter *atomic.Int64, n int64) error {
	for counter.Load() < n {
		if err := r.wait(10 * time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

const stampSize = 8

// consumers pull as many as the prefetch allows and acknowledge each: a work queue knows no other way.
func (r *runner) consumers(ctx context.Context) error {
	for i := range r.o.Consumers {
		conn, js, err := r.c.connect(i)
		if err != nil {
			return err
		}
		stream, err := js.Stream(ctx, r.queueName(i))
		if err != nil {
			return err
		}
		name := "all"
		if r.o.Fanout {
			name = fmt.Sprint("consumer", i)
		}
		consumer, err := stream.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{Durable: name, AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: max(1, r.o.Prefetch)})
		if err != nil {
			return err
		}
		ends := newTimes()
		r.ends = append(r.ends, ends)
		consuming, err := consumer.Consume(func(m jetstream.Msg) {
			if body := m.Data(); len(body) >= stampSize && r.measuring.Load() {
				ends.since(int64(binary.LittleEndian.Uint64(body)))
			}
			if err := m.Ack(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
				r.fail(err)
			}
			r.consumed.Add(1)
		}, jetstream.PullMaxMessages(max(1, r.o.Prefetch)))
		if err != nil {
			return err
		}
		go func() {
			<-r.done
			consuming.Stop()
			conn.Close()
		}()
	}
	return nil
}

func (r *runner) publishers() error {
	for i := range r.o.Publishers {
		conn, js, err := r.c.connect(i)
		if err != nil {
			return err
		}
		acks := newTimes()
		r.acks = append(r.acks, acks)
		go func() {
			defer conn.Close()
			r.publish(js, r.queueName(i), i, acks)
		}()
	}
	return nil
}

// sent is a publish whose acknowledgement is to come.
type sent struct {
	at  int64
	ack jetstream.PubAckFuture
}

// publish publishes until the run is done, or the publisher's share of the backlog is sent. Acknowledgements are waited for in
// the order of the publishes, in which a stream sends them.
func (r *runner) publish(js jetstream.JetStream, queue string, i int, acks *times) {
	window := make(chan sent, max(1, r.o.Confirm)-1) // one more is in the hand of the goroutine below
	if r.o.Confirm <= 1 {
		window = make(chan sent)
	}
	ended := make(chan struct{})
	free := make(chan struct{}, max(1, r.o.Confirm))
	go func() {
		defer close(ended)
		for s := range window {
			select {
			case <-s.ack.Ok():
				if r.measuring.Load() {
					acks.since(s.at)
				}
			case <-s.ack.Err():
				r.refused.Add(1)
			case <-r.done:
				return
			}
			r.confirmed.Add(1)
			<-free
		}
	}()
	defer func() { close(window); <-ended }()
	share := int64(-1)
	if r.o.Backlog > 0 {
		share = int64((r.o.Backlog + i) / r.o.Publishers)
	}
	begin := time.Now()
	for n := int64(0); n != share; n++ {
		if r.o.Rate > 0 {
			for int64(time.Since(begin).Seconds()*r.o.Rate)+1 <= n {
				time.Sleep(time.Duration(float64(time.Second) / r.o.Rate))
			}
		}
		select {
		case free <- struct{}{}:
		case <-r.done:
			return
		}
		body := make([]byte, r.o.Size) // the client keeps it until it is acknowledged
		at := now()
		if len(body) >= stampSize {
			binary.LittleEndian.PutUint64(body, uint64(at))
		}
		ack, err := js.PublishMsgAsync(&nats.Msg{Subject: queue, Data: body})
		if err != nil {
			r.refused.Add(1)
			<-free
			continue
		}
		r.published.Add(1)
		select {
		case window <- sent{at, ack}:
		case <-ended:
			return
		}
	}
}
