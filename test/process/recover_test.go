package process

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

// warren runs a command of the binary and returns what it prints.
func (n *Node) warren(args ...string) (string, error) {
	command := exec.Command(n.binary, args...)
	command.Env = CleanEnvironment()
	out, err := command.CombinedOutput()
	return string(out), err
}

// mustRefuse wants a command to fail and to say why.
func (n *Node) mustRefuse(want string, args ...string) {
	n.t.Helper()
	if out, err := n.warren(args...); err == nil || !strings.Contains(out, want) {
		n.t.Errorf("warren %s: %v, %s, want %q", strings.Join(args, " "), err, out, want)
	}
}

// publishAll publishes numbered messages and waits for their confirms.
func publishAll(t *testing.T, n *Node, queue string, count int) {
	t.Helper()
	conn, err := amqp.Dial(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err == nil {
		err = ch.Confirm(false)
	}
	if err == nil {
		_, err = ch.QueueDeclare(queue, true, false, false, false, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	for i := range count {
		confirm, err := ch.PublishWithDeferredConfirm("", queue, false, false, amqp.Publishing{Body: fmt.Append(nil, i), DeliveryMode: amqp.Persistent})
		if err != nil || !confirm.Wait() {
			t.Fatalf("message %d: %v", i, err)
		}
	}
}

// getAll takes everything out of a queue.
func getAll(t *testing.T, n *Node, queue string) (bodies []string) {
	t.Helper()
	conn, err := amqp.Dial(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	for {
		d, ok, err := ch.Get(queue, true)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return bodies
		}
		bodies = append(bodies, string(d.Body))
	}
}

// TestRecover destroys two nodes of three for good and recovers the third with the command. What was confirmed there is there; a
// new node joins; one of the former cluster ends and says why.
func TestRecover(t *testing.T) {
	const count = 40
	c := Start(t, 3, "--shards", "2")
	one, two, three := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	for i := range 3 {
		publishAll(t, one, fmt.Sprintf("recovered%d", i), count)
	}
	args := []string{"recover", "--data-dir", one.DataDir}
	one.mustRefuse("the node must not run", args...)
	// Stopped one by one, so that the survivor has what the others have.
	two.Kill()
	three.Stop()
	aside := three.DataDir + "-aside"
	if err := os.Rename(three.DataDir, aside); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(two.DataDir); err != nil {
		t.Fatal(err)
	}
	one.Kill()
	one.StartAgain()
	Await(t, "the survivor says for what it waits", func() bool {
		out, _ := one.warren("status", "--server", fmt.Sprintf("127.0.0.1:%d", one.HTTPPort))
		return strings.Contains(out, "1 of the 3 nodes that decide are there") && strings.Contains(out, "warren recover")
	})
	one.Kill()

	out, err := one.warren(append(args, "--inspect", "--json")...)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var report struct {
		ClusterID string `json:"cluster_id"`
		Groups    []struct {
			Name     string
			Messages int
		}
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || report.ClusterID == "" || len(report.Groups) != 3 {
		t.Fatalf("%v: %s", err, out)
	}
	one.mustRefuse("say of every other node how it is", args...)
	args = append(args, "--lost", "node2,node3")
	one.mustRefuse("confirm with the id of the cluster that ends, "+report.ClusterID, args...)
	one.mustRefuse("confirm with the id", append(args, "--confirm", "yes")...)
	out, err = one.warren(append(args, "--confirm", report.ClusterID)...)
	if err != nil || !strings.Contains(out, "is recovered as") {
		t.Fatalf("%v: %s", err, out)
	}
	one.Restart()

	// A lost node comes back, and a new one under the other's name.
	if err := os.Rename(aside, three.DataDir); err != nil {
		t.Fatal(err)
	}
	three.StartAgain()
	three.AwaitEnd("the end of a node of the former cluster")
	if log := three.Log(); !strings.Contains(log, "was recovered on") || !strings.Contains(log, "put the data directory aside") {
		t.Errorf("a node of the former cluster does not say why it ends:\n%s", log[max(0, len(log)-2000):])
	}
	two.Restart()
	for i := range 3 {
		bodies := getAll(t, two, fmt.Sprintf("recovered%d", i))
		if len(bodies) != count {
			t.Errorf("%d messages in queue %d, want %d", len(bodies), i, count)
		}
		for k, body := range bodies {
			if body != fmt.Sprint(k) {
				t.Fatalf("message %d of queue %d is %q", k, i, body)
			}
		}
	}
}
