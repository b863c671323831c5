package interop

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/warrenmq/warren/test/process"
)

// TestTutorialOneNode runs the tutorial's programs against a node alone.
func TestTutorialOneNode(t *testing.T) {
	needPika(t)
	c := process.Start(t, 1)
	tutorial(t, c.Nodes[0], c.Nodes[0])
	t.Run("persistent messages survive a kill", func(t *testing.T) { survivesKill(t, c.Nodes[0]) })
}

// TestTutorialEveryPair runs them with the sender on one node and the receiver on another, for every pair of three.
func TestTutorialEveryPair(t *testing.T) {
	needPika(t)
	c := process.Start(t, 3)
	for i, from := range c.Nodes {
		for j, to := range c.Nodes {
			if i != j {
				t.Run(from.Name+" to "+to.Name, func(t *testing.T) { tutorial(t, from, to) })
			}
		}
	}
}

func tutorial(t *testing.T, from, to *process.Node) {
	for _, s := range []struct {
		name string
		run  func(*testing.T, *process.Node, *process.Node)
	}{
		{"hello", hello}, {"work queue", workQueue}, {"redelivery", redelivery}, {"fair dispatch", fairDispatch},
		{"fanout", fanout}, {"direct", direct}, {"topic", topic}, {"headers", headers}, {"rpc", rpc},
	} {
		t.Run(s.name, func(t *testing.T) { s.run(t, from, to) })
	}
}

// queueName is new for every test, so that one test's leftovers are not another's.
func queueName(t *testing.T) string {
	return strings.NewReplacer("/", "-", " ", "_").Replace(t.Name())
}

func want(t *testing.T, got []string, lines ...string) {
	t.Helper()
	if !slices.Equal(got, lines) {
		t.Fatalf("got  %q\nwant %q", got, lines)
	}
}

func hello(t *testing.T, from, to *process.Node) {
	receiver := listen(t, to, "receive.py")
	run(t, from, "send.py")
	want(t, receiver.waitReceived(1), `Received 'Hello World!'`)
}

// workQueue checks that three workers share the tasks in turn.
func workQueue(t *testing.T, from, to *process.Node) {
	queue := queueName(t)
	var workers []*program
	for range 3 {
		workers = append(workers, listen(t, to, "worker.py", queue))
	}
	run(t, from, "new_task.py", queue, "0", "1", "2", "3", "4", "5", "6", "7", "8")
	seen := map[string]bool{}
	for _, worker := range workers {
		lines := worker.waitReceived(6)
		for _, line := range lines {
			if strings.HasPrefix(line, "Received") {
				seen[line] = true
			}
		}
		if len(lines) != 6 {
			t.Fatalf("a worker has %q, not three tasks of nine", lines)
		}
	}
	if len(seen) != 9 {
		t.Fatalf("tasks came more than once or not at all: %v", seen)
	}
}

// redelivery checks that a killed worker's task goes to another, marked.
func redelivery(t *testing.T, from, to *process.Node) {
	queue := queueName(t)
	first := listen(t, to, "worker.py", queue, "hang")
	run(t, from, "new_task.py", queue, "precious")
	want(t, first.waitReceived(1), `Received 'precious' redelivered=False`)
	first.kill()
	second := listen(t, to, "worker.py", queue)
	want(t, second.waitReceived(2), `Received 'precious' redelivered=True`, `Done 'precious'`)
}

// fairDispatch checks that a busy worker gets nothing new while another is free.
func fairDispatch(t *testing.T, from, to *process.Node) {
	queue := queueName(t)
	busy := listen(t, to, "worker.py", queue, "fair", "hang")
	run(t, from, "new_task.py", queue, "first")
	busy.waitReceived(1)
	free := listen(t, to, "worker.py", queue, "fair")
	run(t, from, "new_task.py", queue, "a", "b", "c")
	free.waitReceived(6)
	want(t, busy.received(), `Received 'first' redelivered=False`)
}

func fanout(t *testing.T, from, to *process.Node) {
	one, two := listen(t, to, "receive_logs.py"), listen(t, to, "receive_logs.py")
	run(t, from, "emit_log.py", "info: hello")
	want(t, one.waitReceived(1), "info: hello")
	want(t, two.waitReceived(1), "info: hello")
}

func direct(t *testing.T, from, to *process.Node) {
	errors := listen(t, to, "receive_logs_keyed.py", "direct", "error")
	all := listen(t, to, "receive_logs_keyed.py", "direct", "info", "warning", "error")
	run(t, from, "emit_log_keyed.py", "direct", "info", "fine")
	run(t, from, "emit_log_keyed.py", "direct", "error", "broken")
	want(t, all.waitReceived(2), "info:fine", "error:broken")
	want(t, errors.waitReceived(1), "error:broken")
}

func topic(t *testing.T, from, to *process.Node) {
	everything := listen(t, to, "receive_logs_keyed.py", "topic", "#")
	kernel := listen(t, to, "receive_logs_keyed.py", "topic", "kern.*")
	critical := listen(t, to, "receive_logs_keyed.py", "topic", "*.critical")
	both := listen(t, to, "receive_logs_keyed.py", "topic", "kern.*", "*.critical")
	run(t, from, "emit_log_keyed.py", "topic", "kern.critical", "A critical kernel error")
	run(t, from, "emit_log_keyed.py", "topic", "cron.info", "ran")
	run(t, from, "emit_log_keyed.py", "topic", "cron.critical", "late")
	run(t, from, "emit_log_keyed.py", "topic", "kern.info", "up")
	want(t, everything.waitReceived(4), "kern.critical:A critical kernel error", "cron.info:ran", "cron.critical:late", "kern.info:up")
	want(t, kernel.waitReceived(2), "kern.critical:A critical kernel error", "kern.info:up")
	want(t, critical.waitReceived(2), "kern.critical:A critical kernel error", "cron.critical:late")
	want(t, both.waitReceived(3), "kern.critical:A critical kernel error", "cron.critical:late", "kern.info:up")
}

func headers(t *testing.T, from, to *process.Node) {
	all := listen(t, to, "receive_headers.py", "all", "type=report", "format=pdf")
	anyOf := listen(t, to, "receive_headers.py", "any", "type=report", "format=pdf")
	run(t, from, "emit_headers.py", "a text report", "type=report", "format=text")
	run(t, from, "emit_headers.py", "a log", "type=log", "format=text")
	run(t, from, "emit_headers.py", "a report", "type=report", "format=pdf")
	want(t, anyOf.waitReceived(2), "a text report", "a report")
	want(t, all.waitReceived(1), "a report")
}

func rpc(t *testing.T, from, to *process.Node) {
	server := listen(t, to, "rpc_server.py")
	want(t, run(t, from, "rpc_client.py", "queue", "4", "10"), "[.] Got 3", "[.] Got 55")
	want(t, run(t, from, "rpc_client.py", "direct", "30"), "[.] Got 832040")
	server.kill()
}

// survivesKill publishes persistent tasks, kills the node and finds all of them, in order, after a restart.
func survivesKill(t *testing.T, node *process.Node) {
	queue := queueName(t)
	run(t, node, "confirm_task.py", queue, "200")
	node.Kill()
	node.Restart()
	var lines []string
	for i := range 200 {
		lines = append(lines, fmt.Sprintf("[x] Got 'task %d' mode=2", i))
	}
	want(t, run(t, node, "drain.py", queue), append(lines, "[x] Empty")...)
}
