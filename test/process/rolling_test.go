package process

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// inFlight is how many messages of a traveller wait for their confirms at most.
const inFlight = 20

// traveller is a client that publishes numbered messages with confirms to a queue of its own and consumes them. When its
// node goes, it comes back at the next one.
type traveller struct {
	t     *testing.T
	nodes []*Node
	at    int // index of the node that it is connected to
	queue string
	stop  chan struct{}
	ended chan struct{}

	mu        sync.Mutex // guards what follows
	next      int
	begun     []int // the first message of each connection
	last      int   // that came without being marked as redelivered
	confirmed map[int]bool
	seen      map[int]int
	wrong     []string       // what came as it must not
	ends      map[int]string // by node: how a connection to it ended
	failed    error
}

func newTraveller(t *testing.T, nodes []*Node, at int) *traveller {
	return &traveller{t: t, nodes: nodes, at: at, queue: fmt.Sprintf("rolling%d", at), stop: make(chan struct{}), ended: make(chan struct{}),
		last: -1, confirmed: map[int]bool{}, seen: map[int]int{}, ends: map[int]string{}}
}

func (v *traveller) run() {
	defer close(v.ended)
	for {
		v.mu.Lock()
		at := v.at
		v.mu.Unlock()
		err := v.visit(v.nodes[at])
		if err == nil {
			return
		}
		v.mu.Lock()
		var reason *amqp.Error
		switch {
		case errors.As(err, &reason) && reason.Code == amqp.ConnectionForced:
			v.ends[at] += "320 "
		case !strings.HasSuffix(v.ends[at], err.Error()+" "):
			v.ends[at] += err.Error() + " "
		}
		v.at = (at + 1) % len(v.nodes)
		v.mu.Unlock()
		time.Sleep(20 * time.Millisecond) // where no node runs, the next one does not either
	}
}

// visit publishes and consumes at a node until the traveller is to stop (nil) or the connection ends (why).
func (v *traveller) visit(n *Node) error {
	conn, err := amqp.Dial(n.URL())
	if err != nil {
		return err
	}
	defer conn.Close()
	closed := &ending{came: conn.NotifyClose(make(chan *amqp.Error, 1))}
	// why prefers what the server said to what a call made of it.
	why := func(err error) error {
		if reason := closed.wait(); reason != nil {
			return reason
		}
		return err
	}
	ch, err := conn.Channel()
	if err != nil {
		return why(err)
	}
	if _, err := ch.QueueDeclare(v.queue, true, false, false, false, nil); err != nil {
		return why(err)
	}
	if err := ch.Confirm(false); err != nil {
		return why(err)
	}
	deliveries, err := ch.Consume(v.queue, "", false, false, false, false, nil)
	if err != nil {
		return why(err)
	}
	v.mu.Lock()
	v.begun = append(v.begun, v.next)
	v.mu.Unlock()
	consumed := make(chan struct{})
	go func() {
		defer close(consumed)
		for d := range deliveries {
			v.note(&d)
			_ = d.Ack(false) // a connection that ends is told below
		}
	}()
	defer func() { _ = conn.Close(); <-consumed }()
	waiting := map[int]*amqp.DeferredConfirmation{}
	first := v.next
	for {
		select {
		case <-v.stop:
			for ; first < v.next; first++ {
				if end, err := v.await(conn, closed, first, waiting[first]); end {
					return err
				}
			}
			// What is on its way comes first.
			Await(v.t, "the last deliveries", func() bool { return v.missing() == 0 || conn.IsClosed() })
			return nil
		default:
		}
		v.mu.Lock()
		number := v.next
		v.next++
		v.mu.Unlock()
		confirm, err := ch.PublishWithDeferredConfirm("", v.queue, true, false, amqp.Publishing{Body: fmt.Append(nil, number), DeliveryMode: amqp.Persistent})
		if err != nil {
			return why(err)
		}
		waiting[number] = confirm
		for ; number-first >= inFlight-1; first++ {
			if end, err := v.await(conn, closed, first, waiting[first]); end {
				return err
			}
			delete(waiting, first)
		}
	}
}

// ending is how a connection ended, which the library tells once: whoever hears it keeps it for the others.
type ending struct {
	came   chan *amqp.Error
	reason *amqp.Error
}

func (e *ending) wait() *amqp.Error { return e.note(<-e.came) }

// note takes what has come; nil comes for ever once the reason has.
func (e *ending) note(came *amqp.Error) *amqp.Error {
	if came != nil {
		e.reason = came
	}
	return e.reason
}

// await waits for a message's confirm. It ends the visit, with the reason, when the connection has ended, and without one when the message
// was refused.
func (v *traveller) await(conn *amqp.Connection, closed *ending, number int, confirm *amqp.DeferredConfirmation) (end bool, err error) {
	var reason *amqp.Error
	select {
	case <-confirm.Done():
	case came := <-closed.came:
		reason = closed.note(came)
	}
	switch {
	case reason == nil && !conn.IsClosed() && !confirm.Acked():
		v.fail(fmt.Errorf("message %d was refused", number))
		return true, nil
	case confirm.Acked():
		v.mu.Lock()
		v.confirmed[number] = true
		v.mu.Unlock()
		return false, nil
	case reason == nil: // the library tells what is open as done then
		reason = closed.wait()
	}
	if reason == nil {
		return true, errors.New("closed")
	}
	return true, reason
}

func (v *traveller) fail(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.failed = err
}

func (v *traveller) note(d *amqp.Delivery) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var number int
	if _, err := fmt.Sscan(string(d.Body), &number); err != nil {
		v.failed = err
		return
	}
	v.seen[number]++
	v.judge(number, d.Redelivered)
}

// judge tells what is wrong with a message that came: twice without being marked as redelivered; marked, though it was published on the
// connection that still lives; or after a later one of its connection.
func (v *traveller) judge(number int, redelivered bool) {
	switch {
	case redelivered:
		if number >= v.begun[len(v.begun)-1] {
			v.wrong = append(v.wrong, fmt.Sprintf("%d is marked as redelivered, and its connection lives", number))
		}
		return
	case v.seen[number] > 1:
		v.wrong = append(v.wrong, fmt.Sprintf("%d came twice", number))
	case number < v.last && !slices.ContainsFunc(v.begun, func(first int) bool { return number < first && first <= v.last }):
		v.wrong = append(v.wrong, fmt.Sprintf("%d came after %d", number, v.last))
	}
	v.last = number
}

func (v *traveller) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.confirmed)
}

// missing is how many confirmed messages have not come.
func (v *traveller) missing() (count int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for number := range v.confirmed {
		if v.seen[number] == 0 {
			count++
		}
	}
	return count
}

// TestATravellerJudges: each kind of wrong delivery is told.
func TestATravellerJudges(t *testing.T) {
	type delivery struct {
		number      int
		redelivered bool
	}
	for _, c := range []struct {
		name  string
		begun []int
		came  []delivery
		want  string
	}{
		{"in order", []int{0}, []delivery{{0, false}, {1, false}, {3, false}}, ""},
		{"twice", []int{0}, []delivery{{0, false}, {0, false}}, "0 came twice"},
		{"out of order", []int{0}, []delivery{{1, false}, {0, false}}, "0 came after 1"},
		{"an older connection's comes late", []int{0, 5}, []delivery{{6, false}, {4, false}}, ""},
		{"out of order on a later connection", []int{0, 5}, []delivery{{7, false}, {6, false}}, "6 came after 7"},
		{"again after a lost connection", []int{0, 5}, []delivery{{3, false}, {3, true}, {4, true}, {5, false}}, ""},
		{"marked on a connection that lives", []int{0, 5}, []delivery{{5, true}}, "5 is marked"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := newTraveller(t, nil, 0)
			v.begun = c.begun
			for _, d := range c.came {
				v.seen[d.number]++
				v.judge(d.number, d.redelivered)
			}
			if wrong := strings.Join(v.wrong, "; "); (wrong == "") != (c.want == "") || !strings.Contains(wrong, c.want) {
				t.Errorf("told %q, want %q", wrong, c.want)
			}
		})
	}
}

// TestRollingRestart stops and starts each of three nodes gracefully under load. Nothing confirmed is lost, nothing comes
// twice unmarked or out of order, nor marked to a client that kept its node, clients of a node that is stopped are told 320 (connection-forced) and go on elsewhere, and no other client
// notices.
func TestRollingRestart(t *testing.T) {
	c := Start(t, 3)
	travellers := travel(t, c.Nodes)
	flow := func(what string) { t.Helper(); flowing(t, travellers, what) }
	flow("before")
	for i, n := range c.Nodes {
		at := make([]int, len(travellers))
		before := make([]string, len(travellers))
		for k, v := range travellers {
			v.mu.Lock()
			at[k], before[k] = v.at, fmt.Sprint(v.ends)
			v.mu.Unlock()
		}
		n.Stop()
		flow(n.Name + " is stopped")
		n.Restart()
		flow(n.Name + " is back")
		for k, v := range travellers {
			v.mu.Lock()
			ends := fmt.Sprint(v.ends)
			told := v.ends[i]
			v.mu.Unlock()
			switch {
			case at[k] == i && told != "320 ":
				t.Errorf("client %d of %s, which was stopped, saw %q", k, n.Name, told)
			case at[k] != i && ends != before[k]:
				t.Errorf("client %d, not of %s, saw %s", k, n.Name, ends)
			}
		}
	}
	arrived(t, travellers)
}

// travel starts a traveller at each node.
func travel(t *testing.T, nodes []*Node) (travellers []*traveller) {
	for i := range nodes {
		v := newTraveller(t, nodes, i)
		travellers = append(travellers, v)
		go v.run()
	}
	return travellers
}

// flowing waits until every client has had a hundred confirms more.
func flowing(t *testing.T, travellers []*traveller, what string) {
	t.Helper()
	for i, v := range travellers {
		start := v.count()
		Await(t, fmt.Sprintf("%s: confirms of client %d", what, i), func() bool { return v.count() >= start+100 })
	}
}

// arrived ends the travels: nothing is lost, nothing came twice.
func arrived(t *testing.T, travellers []*traveller) {
	t.Helper()
	total := 0
	for i, v := range travellers {
		close(v.stop)
		<-v.ended
		if v.failed != nil {
			t.Errorf("client %d: %v", i, v.failed)
		}
		if lost := v.missing(); lost > 0 || len(v.wrong) > 0 {
			t.Errorf("client %d: %d lost; %q", i, lost, v.wrong)
		}
		total += v.count()
	}
	t.Logf("%d messages confirmed", total)
}
