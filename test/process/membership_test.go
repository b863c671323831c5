package process

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// clusterView is what a node says of the cluster.
type clusterView struct {
	Nodes []struct {
		Name, State     string
		Replicas, Leads int
	}
	Moves          int
	LeadersAway    int `json:"leaders_away"`
	Problems       []string
	MachineVersion int    `json:"machine_version"`
	HeldBack       string `json:"held_back"`
}

func (n *Node) view() (*clusterView, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/api/warren/overview", n.HTTPPort), nil)
	if err != nil {
		return nil, err
	}
	request.SetBasicAuth("guest", "guest")
	response, err := probes.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", response.StatusCode)
	}
	v := new(clusterView)
	return v, json.NewDecoder(response.Body).Decode(v)
}

// healthy waits until every node sees a cluster of just these nodes without a problem, with nothing left to move, and replicas
// and leaders even within one.
func healthy(t *testing.T, nodes []*Node, replicas int) {
	t.Helper()
	var why string
	well := func() bool {
		for _, n := range nodes {
			v, err := n.view()
			if err != nil {
				why = n.Name + ": " + err.Error()
				return false
			}
			why = fmt.Sprintf("%s: %+v", n.Name, v)
			if len(v.Nodes) != len(nodes) || v.Moves+v.LeadersAway > 0 || len(v.Problems) > 0 {
				return false
			}
			least, most, leads, total := 1<<30, 0, [2]int{1 << 30, 0}, 0
			for _, m := range v.Nodes {
				least, most, total = min(least, m.Replicas), max(most, m.Replicas), total+m.Replicas
				leads[0], leads[1] = min(leads[0], m.Leads), max(leads[1], m.Leads)
			}
			if most-least > 1 || leads[1]-leads[0] > 1 || total != replicas {
				return false
			}
		}
		return true
	}
	for end := time.Now().Add(10 * time.Minute); !well(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the cluster does not become healthy: %s", why)
		}
	}
}

// steady is a client of a node that stays: it publishes at a rate with confirms, and consumes. It must not see an error, and
// nothing may be lost or come twice.
type steady struct {
	t    *testing.T
	node *Node
	rate int // messages a second
	quit chan struct{}
	work sync.WaitGroup

	published, confirmed, refused, consumed atomic.Int64
	longest                                 atomic.Int64 // between two confirms, ns
}

func startSteady(t *testing.T, n *Node, rate int) *steady {
	t.Helper()
	s := &steady{t: t, node: n, rate: rate, quit: make(chan struct{})}
	conn, err := amqp.Dial(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	queue := "steady-" + n.Name
	if _, err := ch.QueueDeclare(queue, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	if err := ch.Qos(500, 0, false); err != nil {
		t.Fatal(err)
	}
	deliveries, err := ch.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	confirms := ch.NotifyPublish(make(chan amqp.Confirmation, 1<<16))
	s.work.Go(func() { s.publish(ch, queue) })
	s.work.Go(func() { s.confirm(confirms) })
	s.work.Go(func() { s.consume(deliveries) })
	t.Cleanup(func() {
		select {
		case reason := <-closed:
			t.Errorf("client of %s: its channel was closed: %v", n.Name, reason)
		default:
		}
		_ = conn.Close() // its node is about to end as well
	})
	return s
}

const steadyTick = 10 * time.Millisecond

func (s *steady) publish(ch *amqp.Channel, queue string) {
	ticker := time.NewTicker(steadyTick)
	defer ticker.Stop()
	began := time.Now()
	filler := strings.Repeat(".", 1000)
	for {
		select {
		case <-ticker.C:
		case <-s.quit:
			return
		}
		for due := int64(time.Since(began).Seconds() * float64(s.rate)); s.published.Load() < due; s.published.Add(1) {
			if s.published.Load()-s.confirmed.Load() > 1<<15 {
				break // confirms come first
			}
			body := fmt.Sprintf("%d %s", s.published.Load(), filler)
			if err := ch.Publish("", queue, true, false, amqp.Publishing{Body: []byte(body), DeliveryMode: amqp.Persistent}); err != nil {
				s.t.Errorf("client of %s: publish: %v", s.node.Name, err)
				return
			}
		}
	}
}

func (s *steady) confirm(confirms <-chan amqp.Confirmation) {
	last := time.Now()
	for c := range confirms {
		if !c.Ack {
			s.refused.Add(1)
		}
		now := time.Now()
		s.longest.Store(max(s.longest.Load(), int64(now.Sub(last))))
		last = now
		s.confirmed.Add(1)
	}
}

// consume wants the numbers in order, each once.
func (s *steady) consume(deliveries <-chan amqp.Delivery) {
	for d := range deliveries {
		text, _, _ := strings.Cut(string(d.Body), " ")
		if number, err := strconv.ParseInt(text, 10, 64); err != nil || number != s.consumed.Load() || d.Redelivered {
			s.t.Errorf("client of %s: got %q (redelivered: %v) after %d messages", s.node.Name, text, d.Redelivered, s.consumed.Load())
			return
		}
		s.consumed.Add(1)
		if err := d.Ack(false); err != nil {
			s.t.Errorf("client of %s: ack: %v", s.node.Name, err)
			return
		}
	}
}

// end stops publishing and waits until everything is confirmed and consumed.
func (s *steady) end() {
	s.t.Helper()
	close(s.quit)
	Await(s.t, "what the client of "+s.node.Name+" published", func() bool {
		published := s.published.Load()
		return s.confirmed.Load() == published && s.consumed.Load() == published || s.refused.Load() > 0 || s.t.Failed()
	})
	if n := s.refused.Load(); n > 0 {
		s.t.Errorf("client of %s: %d messages were refused", s.node.Name, n)
	}
	s.t.Logf("client of %s: %d confirmed, %d consumed, %v at most between confirms", s.node.Name, s.confirmed.Load(), s.consumed.Load(),
		time.Duration(s.longest.Load()).Round(time.Millisecond))
}

// run runs a command of the binary against the first node.
func (c *Cluster) run(args ...string) {
	c.t.Helper()
	command := exec.Command(c.binary, append(args, "--server", "127.0.0.1:"+strconv.Itoa(c.Nodes[0].HTTPPort))...)
	command.Env = CleanEnvironment()
	if out, err := command.CombinedOutput(); err != nil {
		c.t.Fatalf("warren %v: %v\n%s", args, err, out)
	}
}

// TestGrowAndShrink goes from three nodes to five and back under load: with WARREN_LARGE to seven between, under 5,000 messages a
// second. Clients of the nodes that stay notice nothing, and at each step replicas and leaders are even within one.
func TestGrowAndShrink(t *testing.T) {
	const stay, shards, replicas = 3, 8, 3
	rate, steps := 300, []int{2}
	if os.Getenv("WARREN_LARGE") != "" {
		rate, steps = 5000, []int{2, 2}
	}
	c := Start(t, stay, "--shards", strconv.Itoa(shards))
	healthy(t, c.Nodes, shards*replicas)
	var clients []*steady
	for _, n := range c.Nodes {
		clients = append(clients, startSteady(t, n, rate/stay))
	}
	for _, more := range steps {
		began := time.Now()
		c.Grow(more)
		healthy(t, c.Nodes, shards*replicas)
		t.Logf("%d nodes after %v", len(c.Nodes), time.Since(began).Round(time.Millisecond))
	}
	for len(c.Nodes) > stay {
		began := time.Now()
		last := c.Nodes[len(c.Nodes)-1]
		c.run("leave", last.Name)
		last.AwaitEnd(last.Name + " ends")
		if !last.state.Success() {
			t.Errorf("%s has left and ended with %v", last.Name, last.state)
		}
		if report := last.badReport(); report != "" {
			t.Errorf("%s: its log has what must not be there:\n%s", last.Name, report)
		}
		c.Nodes = c.Nodes[:len(c.Nodes)-1]
		healthy(t, c.Nodes, shards*replicas)
		t.Logf("%d nodes after %v", len(c.Nodes), time.Since(began).Round(time.Millisecond))
	}
	for _, s := range clients {
		s.end()
	}
}

// TestAllStartAgain kills all nodes under load and starts them at once, in random order, with other addresses for one another: 20
// times with WARREN_LARGE. It is one healthy cluster again each time, and nothing confirmed is lost.
func TestAllStartAgain(t *testing.T) {
	const nodes, shards = 3, 8
	times := 2
	if os.Getenv("WARREN_LARGE") != "" {
		times = 20
	}
	c := Start(t, nodes, "--shards", strconv.Itoa(shards))
	travellers := travel(t, c.Nodes)
	var took []time.Duration
	for round := range times {
		flowing(t, travellers, fmt.Sprintf("before round %d", round))
		var ending sync.WaitGroup
		for _, n := range c.Nodes {
			ending.Go(n.Kill)
		}
		ending.Wait()
		c.Move()
		began := time.Now()
		for _, i := range rand.Perm(nodes) {
			c.Nodes[i].StartAgain()
		}
		for _, n := range c.Nodes {
			n.WaitReady()
		}
		healthy(t, c.Nodes, shards*nodes)
		took = append(took, time.Since(began))
	}
	flowing(t, travellers, "after the last round")
	arrived(t, travellers)
	slices.Sort(took)
	t.Logf("healthy %d times: after %v at least, %v in the middle, %v at most", times, took[0].Round(time.Millisecond),
		took[times/2].Round(time.Millisecond), took[times-1].Round(time.Millisecond))
}
