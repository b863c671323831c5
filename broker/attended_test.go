package broker_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/internal/amqptest"
)

// TestUnattendedHandsNothingOn: what waits for a client may be another's by the time that it is taken for it, and a client gets it only if
// it is known not to be. It comes when that is known again, or not at all when the consumer is found gone.
func TestUnattendedHandsNothingOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := amqptest.NewCluster(t, broker.Options{})
		d, ch := openDoor(t, c)
		defer d.conn.Close(t.Context())
		for _, q := range []string{"q", "got"} {
			if _, err := ch.DeclareQueue(t.Context(), &broker.QueueDeclare{Name: q}); err != nil {
				t.Fatal(err)
			}
		}
		wants := func(what string, frames ...string) {
			t.Helper()
			time.Sleep(time.Second)
			if got := d.drain(); !slices.EqualFunc(got, frames, strings.HasPrefix) {
				t.Errorf("%s: %q, want %q", what, got, frames)
			}
		}
		for _, tag := range []string{"a", "b"} {
			if _, err := ch.Consume(t.Context(), &broker.Consume{Queue: "q", Tag: tag}); err != nil {
				t.Fatal(err)
			}
			ch.Started(tag)
		}
		publishOne(t, d, ch, "q")
		wants("at first", "1 deliver a #1 ")
		publishOne(t, d, ch, "q")
		publishOne(t, d, ch, "q")
		publishOne(t, d, ch, "got")
		c.Unattended(true)
		wants("unattended")
		if _, _, err := ch.Get(t.Context(), "got", false); err == nil {
			t.Error("unattended, and basic.get answered with a message")
		}
		c.Unattended(false)
		wants("attended again", "1 deliver b #2 ", "1 deliver a #3 ")
		if _, ok, err := ch.Get(t.Context(), "got", false); !ok || err != nil {
			t.Errorf("what could not be got has not gone back: %v %v", ok, err)
		}
		publishOne(t, d, ch, "q")
		c.Unattended(true)
		wants("unattended once more")
		if _, err := ch.DeleteQueue(t.Context(), "q", false, false); err != nil {
			t.Fatal(err)
		}
		c.Unattended(false)
		wants("gone", "1 cancel a", "1 cancel b")
	})
}
