package broker

import (
	"testing"
	"time"
)

// TestExtendedDeliveriesAreLateLater extends the oldest of two deliveries: the other is late first.
func TestExtendedDeliveriesAreLateLater(t *testing.T) {
	b := &Broker{}
	ch := &Channel{conn: &Conn{broker: b}, shortest: time.Minute}
	c := &consumer{timeout: time.Minute}
	ch.unacked.add(c, 1, 0)
	ch.unacked.add(c, 2, 0)
	b.now.Store(50)
	if err := ch.Extend(1, false); err != nil {
		t.Fatal(err)
	}
	if err := ch.Extend(3, false); err == nil {
		t.Error("a delivery that is not there was extended")
	}
	if _, late := ch.late(62); late {
		t.Error("late too early")
	}
	if timeout, late := ch.late(63); !late || timeout != time.Minute {
		t.Error("the second is not late")
	}
	ch.timedOut = false
	if err := ch.Extend(0, true); err != nil {
		t.Fatal(err)
	}
	if _, late := ch.late(112); late {
		t.Error("late although extended")
	}
	if _, late := ch.late(113); !late {
		t.Error("not late")
	}
}
