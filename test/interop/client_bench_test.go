package interop

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/client"
	"github.com/warrenmq/warren/test/process"
)

const (
	benchSize        = 1024
	benchUnconfirmed = 2000
	benchCredit      = 256
	benchAckEvery    = 64
)

// cpu is the CPU time of this process.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// brokerCPU is the CPU time of a node, in the hundredths of a second that the kernel tells.
func brokerCPU(b *testing.B, n *process.Node) time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.Pid()))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+2:])) // from the third on
	var ticks time.Duration
	for _, field := range fields[11:13] {
		t, err := strconv.Atoi(field)
		if err != nil {
			b.Fatal(err)
		}
		ticks += time.Duration(t)
	}
	return ticks * 10 * time.Millisecond
}

// report tells what the client and the broker spent on each message that was published, confirmed, consumed and
// acknowledged.
func report(b *testing.B, node *process.Node, f func()) {
	b.ResetTimer()
	before, beforeBroker, begin := cpu(b), brokerCPU(b, node), time.Now()
	f()
	b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/1e3/float64(b.N), "client-µs/msg")
	b.ReportMetric(float64((brokerCPU(b, node)-beforeBroker).Nanoseconds())/1e3/float64(b.N), "broker-µs/msg")
	b.ReportMetric(float64(b.N)/time.Since(begin).Seconds(), "msg/s")
}

// BenchmarkClients compares what the Go SDK and amqp091-go spend on a message of 1 KiB, and how many go through one node.
func BenchmarkClients(b *testing.B) {
	node := process.Start(b, 1, "--profiles").Nodes[0]
	b.Run("grpc", func(b *testing.B) { benchSDK(b, node) })
	b.Run("amqp091", func(b *testing.B) { benchAMQP091(b, node) })
}

func benchSDK(b *testing.B, node *process.Node) {
	ctx := context.Background()
	c, err := client.New([]string{node.GRPCAddress()})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	if _, err := c.DeclareQueue(ctx, client.Queue{Name: "bench-grpc", Durable: true}); err != nil {
		b.Fatal(err)
	}
	p, err := c.Publisher(client.WithMaxUnconfirmed(benchUnconfirmed, 0))
	if err != nil {
		b.Fatal(err)
	}
	k, err := c.Consume(ctx, "bench-grpc", client.WithCredit(benchCredit))
	if err != nil {
		b.Fatal(err)
	}
	defer k.Close()
	body := make([]byte, benchSize)
	report(b, node, func() {
		var publishing sync.WaitGroup
		publishing.Go(func() {
			for range b.N {
				if err := p.PublishAsync(ctx, client.Message{RoutingKey: "bench-grpc", Body: body}, nil); err != nil {
					b.Error(err)
					return
				}
			}
			if err := p.Flush(ctx); err != nil {
				b.Error(err)
			}
		})
		for range b.N {
			d, err := k.Next(ctx)
			if err != nil {
				b.Fatal(err)
			}
			if err := d.Ack(); err != nil {
				b.Fatal(err)
			}
		}
		publishing.Wait()
	})
	if err := p.Close(ctx); err != nil {
		b.Error(err)
	}
}

func benchAMQP091(b *testing.B, node *process.Node) {
	open := func() *amqp.Channel {
		conn, err := amqp.Dial(node.URL())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = conn.Close() })
		ch, err := conn.Channel()
		if err != nil {
			b.Fatal(err)
		}
		return ch
	}
	out, in := open(), open()
	if _, err := out.QueueDeclare("bench-amqp", true, false, false, false, nil); err != nil {
		b.Fatal(err)
	}
	if err := out.Confirm(false); err != nil {
		b.Fatal(err)
	}
	confirms := out.NotifyPublish(make(chan amqp.Confirmation, benchUnconfirmed))
	if err := in.Qos(benchCredit, 0, false); err != nil {
		b.Fatal(err)
	}
	deliveries, err := in.Consume("bench-amqp", "", false, false, false, false, nil)
	if err != nil {
		b.Fatal(err)
	}
	body := make([]byte, benchSize)
	report(b, node, func() {
		var publishing sync.WaitGroup
		window := make(chan struct{}, benchUnconfirmed)
		publishing.Go(func() {
			for range b.N {
				<-confirms
				<-window
			}
		})
		publishing.Go(func() {
			for range b.N {
				window <- struct{}{}
				if err := out.PublishWithContext(context.Background(), "", "bench-amqp", false, false, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: body}); err != nil {
					b.Error(err)
					return
				}
			}
		})
		for i := range b.N {
			d := <-deliveries
			if i%benchAckEvery == benchAckEvery-1 || i == b.N-1 {
				if err := d.Ack(true); err != nil {
					b.Fatal(err)
				}
			}
		}
		publishing.Wait()
	})
}
