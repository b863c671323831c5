package process

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/tlsfiles"
)

// backupMessages is how many messages the backup is of: 1,000,000 with WARREN_LARGE, or as many as WARREN_BACKUP_MESSAGES says.
func backupMessages(t *testing.T) int {
	if text := os.Getenv("WARREN_BACKUP_MESSAGES"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if os.Getenv("WARREN_LARGE") != "" {
		return 1_000_000
	}
	return 4000
}

const (
	backupQueues = 4
	// unsettledAtBackup is how many messages of the first queue are out with a consumer.
	unsettledAtBackup = 10
	// Bounds of resident memory, whatever the number of messages: of the command, and of a node.
	commandMemory = 128 << 20
	nodeMemory    = 1 << 30
)

// TestBackup backs three nodes with TLS up while messages are published and one of the nodes is killed, and restores into one node,
// and, with many messages, into three: what was confirmed before the backup began is there, in order.
func TestBackup(t *testing.T) {
	total := backupMessages(t)
	certs := newCertificates(t, "guest")
	source := Start(t, 3, append(tlsFlags(certs), "--shards", "4")...)
	node := source.Nodes[0]
	dial := func() (*amqp.Connection, error) {
		return amqp.DialTLS("amqps://guest:guest@localhost:"+strconv.Itoa(node.AMQPPort)+"/", clientTLS(t, certs, "", ""))
	}
	load := startNumbers(t, dial, total/backupQueues)
	memory := watchMemory(source.Nodes)

	file := filepath.Join(t.TempDir(), "cluster.backup")
	before := load.confirmedNow()
	killed := make(chan struct{})
	go func() { // when a third of the file is there
		defer close(killed)
		for {
			if list, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".cluster.backup.*")); len(list) == 1 {
				if info, err := os.Stat(list[0]); err == nil && info.Size() > int64(total)*1024/3 {
					break
				}
			}
			if _, err := os.Stat(file); err == nil {
				break // it was too quick
			}
			time.Sleep(time.Millisecond)
		}
		source.Nodes[1].Kill()
	}()
	took, used := runCommand(t, node, "backup", file, "--server", "localhost:"+strconv.Itoa(node.HTTPPort), "--tls-ca", filepath.Join(certs, tlsfiles.CACert))
	<-killed
	t.Logf("backup of %d messages: %v, %d MiB of memory at most; of a node: %d MiB", total, took, used>>20, memory.stop()>>20)
	load.stop()
	for i, refused := range load.refused {
		if len(refused) > 0 {
			t.Logf("%s: the cluster refused %d messages", numbersQueue(i), len(refused))
		}
	}
	bounded(t, "the backup's command", used, commandMemory)
	bounded(t, "a node that was backed up", memory.most.Load(), nodeMemory)
	source.stop()

	sizes := []int{1}
	if total >= 10_000 {
		sizes = append(sizes, 3)
	}
	for _, nodes := range sizes {
		t.Run(fmt.Sprintf("%d nodes", nodes), func(t *testing.T) {
			target := Start(t, nodes, "--shards", "4")
			memory := watchMemory(target.Nodes)
			took, used := runCommand(t, target.Nodes[0], "restore", file, "--server", "127.0.0.1:"+strconv.Itoa(target.Nodes[0].HTTPPort))
			t.Logf("restored into %d nodes: %v, %d MiB of memory at most; of a node: %d MiB", nodes, took, used>>20, memory.stop()>>20)
			bounded(t, "the restore's command", used, commandMemory)
			bounded(t, "a node that was restored", memory.most.Load(), nodeMemory)
			for i := range backupQueues {
				load.check(t, target.Nodes[nodes-1], i, before[i])
			}
		})
	}
}

func bounded(t *testing.T, what string, used, most int64) {
	t.Helper()
	if !RaceDetector && used > most {
		t.Errorf("%s took %d MiB, more than %d", what, used>>20, most>>20)
	}
}

// runCommand runs the binary and tells how long it took and how much memory.
func runCommand(t *testing.T, n *Node, args ...string) (took time.Duration, memory int64) {
	t.Helper()
	c := exec.Command(n.binary, args...)
	c.Env = CleanEnvironment()
	began := time.Now()
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("warren %s: %v\n%s", args[0], err, out)
	}
	t.Logf("%s", out)
	return time.Since(began), c.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
}

// memoryWatch is the most that any of some nodes has taken.
type memoryWatch struct {
	most atomic.Int64
	quit chan struct{}
	work sync.WaitGroup
}

func watchMemory(nodes []*Node) *memoryWatch {
	w := &memoryWatch{quit: make(chan struct{})}
	w.work.Go(func() {
		for {
			for _, n := range nodes {
				if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", n.Pid())); err == nil { // one that was killed has none
					if words := strings.Fields(string(data)); len(words) > 1 {
						pages, _ := strconv.ParseInt(words[1], 10, 64)
						w.most.Store(max(w.most.Load(), pages*int64(os.Getpagesize())))
					}
				}
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-w.quit:
				return
			}
		}
	})
	return w
}

func (w *memoryWatch) stop() int64 {
	close(w.quit)
	w.work.Wait()
	return w.most.Load()
}

// numbersLoad publishes numbers from 0 on to each queue, one publisher each.
type numbersLoad struct {
	t         *testing.T
	confirmed [backupQueues]atomic.Int64 // all numbers below have an outcome
	refused   [backupQueues]map[int]bool // numbers that were not confirmed but refused; the publisher's until it has ended
	quit      chan struct{}
	work      sync.WaitGroup
}

func numbersQueue(i int) string { return fmt.Sprintf("numbers-%d", i) }

// startNumbers returns when each queue has so many, and goes on, slower.
func startNumbers(t *testing.T, dial func() (*amqp.Connection, error), each int) *numbersLoad {
	t.Helper()
	l := &numbersLoad{t: t, quit: make(chan struct{})}
	c, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	var filled sync.WaitGroup
	for i := range backupQueues {
		l.refused[i] = map[int]bool{}
		filled.Add(1)
		l.work.Go(func() { l.publish(c, i, each, filled.Done) })
	}
	filled.Wait()
	ch, err := c.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.Qos(unsettledAtBackup, 0, false); err != nil {
		t.Fatal(err)
	}
	out, err := ch.Consume(numbersQueue(0), "", false, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range unsettledAtBackup {
		<-out
	}
	return l
}

const numbersWindow = 500 // messages that are published before their confirms are waited for

func (l *numbersLoad) publish(c *amqp.Connection, i, each int, filled func()) {
	filled = sync.OnceFunc(filled)
	defer filled()
	ch, err := c.Channel()
	if err == nil {
		err = ch.Confirm(false)
	}
	if err == nil {
		_, err = ch.QueueDeclare(numbersQueue(i), true, false, false, false, nil)
	}
	filler := strings.Repeat(".", 1024-8)
	for n := 0; err == nil; {
		if n >= each {
			filled()
			select {
			case <-l.quit:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
		var outcomes []*amqp.DeferredConfirmation
		first := n
		for range min(numbersWindow, max(each-n, 20)) {
			var outcome *amqp.DeferredConfirmation
			outcome, err = ch.PublishWithDeferredConfirm("", numbersQueue(i), false, false,
				amqp.Publishing{DeliveryMode: amqp.Persistent, MessageId: strconv.Itoa(n), Body: fmt.Appendf(nil, "%8d%s", n, filler)})
			if err != nil {
				break
			}
			outcomes = append(outcomes, outcome)
			n++
		}
		for k, outcome := range outcomes { // a node that is cut off for a while refuses what it cannot route
			if !outcome.Wait() {
				l.refused[i][first+k] = true
			}
		}
		l.confirmed[i].Store(int64(n))
	}
	l.t.Errorf("publish to %s: %v", numbersQueue(i), err)
}

func (l *numbersLoad) confirmedNow() (n [backupQueues]int64) {
	for i := range n {
		n[i] = l.confirmed[i].Load()
	}
	return n
}

func (l *numbersLoad) stop() {
	close(l.quit)
	l.work.Wait()
}

// check consumes a queue: of its numbers none is missing but those that were refused, and those that were confirmed are there.
func (l *numbersLoad) check(t *testing.T, n *Node, i int, confirmed int64) {
	t.Helper()
	c, err := amqp.Dial(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ch, err := c.Channel()
	if err != nil {
		t.Fatal(err)
	}
	q, err := ch.QueueDeclarePassive(numbersQueue(i), true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	out, err := ch.Consume(q.Name, "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	redelivered := 0
	next := 0
	for range q.Messages {
		select {
		case d := <-out:
			for l.refused[i][next] && d.MessageId != strconv.Itoa(next) {
				next++
			}
			if strings.TrimSpace(string(d.Body[:8])) != strconv.Itoa(next) || d.MessageId != strconv.Itoa(next) || len(d.Body) != 1024 {
				t.Fatalf("%s: %q (%s) where %d should be", q.Name, d.Body[:8], d.MessageId, next)
			}
			next++
			if d.Redelivered {
				redelivered++
			}
		case <-time.After(2 * time.Minute):
			t.Fatalf("%s: message %d of %d does not come", q.Name, next, q.Messages)
		}
	}
	for l.refused[i][next] {
		next++
	}
	if int64(next) < confirmed {
		t.Fatalf("%s ends before %d, and all below %d were confirmed", q.Name, next, confirmed)
	}
	if want := unsettledAtBackup; i == 0 && redelivered != want || i > 0 && redelivered != 0 {
		t.Errorf("%s: %d are redelivered", q.Name, redelivered)
	}
}
