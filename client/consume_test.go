package client_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warrenmq/warren/client"
)

// TestOwnLock: an exclusive consumer, or one with a named temporary queue, that has lost its node is told that the queue is
// held by somebody, which is itself. It waits for that to pass, but not for ever.
func TestOwnLock(t *testing.T) {
	lost := func(stream consumeServer) error {
		if err := stream.Send(startedResponse); err != nil {
			return err
		}
		return status.Error(codes.Unavailable, "lost")
	}
	delivering := func(stream consumeServer) error {
		if err := deliver(stream, "hello"); err != nil {
			return err
		}
		<-stream.Context().Done()
		return nil
	}
	for name, locked := range map[string]error{
		"locked":        refused(t, codes.FailedPrecondition, client.ResourceLocked, "queue 'q' in vhost '/' in exclusive use"),
		"of old":        refused(t, codes.PermissionDenied, client.AccessRefused, "queue 'q' in vhost '/' in exclusive use"),
		"no permission": refused(t, codes.PermissionDenied, client.AccessRefused, "read access to queue 'q' in vhost '/' refused for user 'u'"),
	} {
		passes := name != "no permission"
		refusing := func(consumeServer) error { return locked }
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k, err := serveScript(t, &scriptedConsuming{script: []func(consumeServer) error{lost, refusing, refusing, refusing, delivering}}).Consume(t.Context(), "q", client.WithExclusive())
				if err != nil {
					t.Fatal(err)
				}
				if d, err := k.Next(t.Context()); (err == nil) != passes || passes && string(d.Body) != "hello" {
					t.Errorf("came %v, %v", d, err)
				}
			})
		})
		t.Run(name+" for ever", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := serveScript(t, &scriptedConsuming{script: []func(consumeServer) error{lost, refusing}})
				k, err := c.Consume(t.Context(), "q", client.WithExclusive())
				if err != nil {
					t.Fatal(err)
				}
				begun := time.Now()
				var refusal *client.Error
				if _, err := k.Next(t.Context()); !errors.As(err, &refusal) || refusal.Text != status.Convert(locked).Message() {
					t.Errorf("it ended with %v", err)
				}
				if took := time.Since(begun); passes != (took >= time.Minute) || took > 3*time.Minute {
					t.Errorf("it ended after %v", took)
				}
				begun = time.Now()
				if _, err := c.Consume(t.Context(), "q", client.WithExclusive()); !errors.As(err, &refusal) || time.Since(begun) > time.Second {
					t.Errorf("one that never had the queue was told %v after %v", err, time.Since(begun))
				}
			})
		})
	}
}

// TestOwnLockBesideAnOutage: while no node can decide anything no lock passes either, so that time does not count.
func TestOwnLockBesideAnOutage(t *testing.T) {
	locked := refused(t, codes.FailedPrecondition, client.ResourceLocked, "queue 'q' in vhost '/' in exclusive use")
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		var outage func(stream consumeServer) error
		script := []func(consumeServer) error{
			func(stream consumeServer) error {
				if err := stream.Send(startedResponse); err != nil {
					return err
				}
				return status.Error(codes.Unavailable, "lost")
			},
			func(consumeServer) error { return locked },
			func(stream consumeServer) error { return outage(stream) }, // and what it becomes
		}
		outage = func(consumeServer) error {
			if time.Since(begun) > 3*time.Minute {
				outage = func(consumeServer) error {
					outage = func(stream consumeServer) error {
						if err := deliver(stream, "hello"); err != nil {
							return err
						}
						<-stream.Context().Done()
						return nil
					}
					return locked
				}
			}
			return status.Error(codes.Unavailable, "no majority")
		}
		k, err := serveScript(t, &scriptedConsuming{script: script}).Consume(t.Context(), "q", client.WithExclusive())
		if err != nil {
			t.Fatal(err)
		}
		if d, err := k.Next(t.Context()); err != nil || string(d.Body) != "hello" {
			t.Errorf("came %v, %v", d, err)
		}
	})
}

// TestWhatCameBeforeTheEnd has a queue deleted whose messages have been received, and settled by that: they are given out.
func TestWhatCameBeforeTheEnd(t *testing.T) {
	gone := refused(t, codes.NotFound, client.NotFound, "no queue 'q'")
	synctest.Test(t, func(t *testing.T) {
		const messages = 200
		c := serveScript(t, &scriptedConsuming{script: []func(consumeServer) error{func(stream consumeServer) error {
			if err := deliver(stream, make([]string, messages)...); err != nil {
				return err
			}
			return gone
		}}})
		k, err := c.Consume(t.Context(), "q", client.WithAutoSettle())
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // it has ended
		got := 0
		for _, err = range k.Messages(t.Context()) {
			if err == nil {
				got++
			}
		}
		if got != messages || !errors.Is(err, &client.Error{Reason: client.NotFound}) {
			t.Errorf("%d of %d messages were given out, then %v", got, messages, err)
		}
	})
}

// TestGetWhoseStreamFails: a message that has come is what Get returns, however its stream ends.
func TestGetWhoseStreamFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := serveScript(t, &scriptedConsuming{})
		for _, body := range []string{"1", "2"} {
			if d, err := c.Get(t.Context(), "q", true); err != nil || string(d.Body) != body {
				t.Errorf("got %v, %v instead of %s", d, err, body)
			}
		}
	})
}
