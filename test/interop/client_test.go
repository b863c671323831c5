package interop

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/warrenmq/warren/client"
	"github.com/warrenmq/warren/test/process"
)

// TestTheClientSurvivesKills runs a program that publishes numbers and consumes them by the Go SDK, while the node that it
// uses is killed again and again. Nothing is lost, nothing is in the queue twice, the order is kept, and the program
// never sees an error.
func TestTheClientSurvivesKills(t *testing.T) {
	kills, perSecond, least := 3, 1000, 10_000
	if os.Getenv("WARREN_LARGE") != "" {
		kills, perSecond, least = 10, 2000, 100_000
	}
	cluster := process.Start(t, 3)
	var addresses []string
	for _, n := range cluster.Nodes {
		addresses = append(addresses, n.GRPCAddress())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	c, err := client.New(addresses, client.WithLogger(slog.New(slog.NewTextHandler(testLog{t}, nil))))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	queue := queueName(t)
	if _, err := c.DeclareQueue(ctx, client.Queue{Name: queue, Durable: true}); err != nil {
		t.Fatal(err)
	}
	p, err := c.Publisher(client.WithMaxUnconfirmed(1000, 0))
	if err != nil {
		t.Fatal(err)
	}
	k, err := c.Consume(ctx, queue)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()

	var killed atomic.Bool // all kills are done
	var consumed atomic.Int64
	total := make(chan int, 1)
	go func() { total <- publishUntil(t, ctx, p, queue, perSecond, least, &killed) }()
	finished := make(chan struct{})
	go func() { defer close(finished); consumeAll(t, ctx, k, total, &consumed) }()

	for i := range kills {
		// The program goes on after each kill before the next.
		for before := consumed.Load(); consumed.Load() < before+500 && !t.Failed() && ctx.Err() == nil; {
			time.Sleep(10 * time.Millisecond)
		}
		st, err := c.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range cluster.Nodes {
			if n.Name == st.Node {
				t.Logf("kill %d: %s, %d consumed", i+1, n.Name, consumed.Load())
				n.Kill()
				n.Restart()
			}
		}
	}
	killed.Store(true)
	<-finished
	if err := p.Close(ctx); err != nil {
		t.Error(err)
	}
	t.Logf("%d messages", consumed.Load())
}

// publishUntil publishes numbers at a rate until all kills are done, and at least so many, and returns how many.
func publishUntil(t *testing.T, ctx context.Context, p *client.Publisher, queue string, perSecond, least int, killed *atomic.Bool) int {
	limit := rate.NewLimiter(rate.Limit(perSecond), perSecond/10)
	n := 0
	for ; n < least || !killed.Load(); n++ {
		if limit.Wait(ctx) != nil || t.Failed() {
			break
		}
		err := p.PublishAsync(ctx, client.Message{RoutingKey: queue, Body: []byte(strconv.Itoa(n))}, func(err error) {
			if err != nil {
				t.Errorf("message %d: %v", n, err)
			}
		})
		if err != nil {
			t.Error(err)
			break
		}
	}
	if err := p.Flush(ctx); err != nil {
		t.Error(err)
	}
	return n
}

// consumeAll consumes until every number has come, and then until the queue is silent.
func consumeAll(t *testing.T, ctx context.Context, k *client.Consumer, total <-chan int, consumed *atomic.Int64) {
	seen := map[int]bool{}
	last := -1 // of those not redelivered
	wanted := -1
	for wanted < 0 || len(seen) < wanted {
		nextCtx, cancel := context.WithTimeout(ctx, time.Second)
		d, err := k.Next(nextCtx)
		cancel()
		select {
		case wanted = <-total:
		default:
		}
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			continue // while nothing comes
		}
		if err != nil {
			t.Errorf("%d of %d consumed: %v", len(seen), wanted, err)
			return
		}
		n, err := strconv.Atoi(string(d.Body))
		switch {
		case err != nil:
			t.Error(err)
		case seen[n] && !d.Redelivered:
			t.Errorf("message %d is in the queue twice", n)
		case !d.Redelivered && n < last:
			t.Errorf("message %d after %d", n, last)
		}
		if !d.Redelivered {
			last = n
		}
		seen[n] = true
		consumed.Store(int64(len(seen)))
		if err := d.Ack(); err != nil && !errors.Is(err, client.ErrLost) {
			t.Error(err)
		}
	}
	// What would be there twice would come now.
	quiet, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for {
		d, err := k.Next(quiet)
		if err != nil {
			return
		}
		if !d.Redelivered {
			t.Errorf("%s came though all had come", d.Body)
		}
		_ = d.Ack()
	}
}

// testLog writes to a test's log.
type testLog struct{ t *testing.T }

// Write logs a line.
func (l testLog) Write(b []byte) (int, error) {
	l.t.Logf("%s", b[:len(b)-1])
	return len(b), nil
}
