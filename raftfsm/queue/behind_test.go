package queue

import "testing"

// TestBehind: a settle tells that its consumer waited for it, if there was something to wait for.
func TestBehind(t *testing.T) {
	q := MakeQueueID(1, 1)
	for _, c := range []struct {
		name    string
		backlog int
		outcome Outcome
		want    bool
	}{
		{"more is ready", 3, Ack, true},
		{"nothing is ready", 2, Ack, false},
		{"what it gives back is ready", 2, Requeue, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRun(t)
			r.b.Configure(q, &Settings{Name: "q"})
			r.b.Attach(q, 1, &AttachOptions{Credit: 2})
			r.enqueue(q, c.backlog, []byte("x"))
			r.commit()
			if r.out.Behind {
				t.Error("behind before anything is settled")
			}
			r.b.Settle(1, c.outcome, Range{1, 1})
			r.commit()
			if r.out.Behind != c.want {
				t.Errorf("behind: %v", r.out.Behind)
			}
		})
	}
}
