package broker_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/internal/amqptest"
	"github.com/warrenmq/warren/raftfsm/queue"
)

var rewrite = flag.Bool("rewrite", false, "write what the scripts in testdata answer")

// TestScripts runs testdata: a block is commands, a line of dashes, and what they answer; an empty line ends it.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runScript(t, file) }) // of the waits only those that nothing ends are waited out
		})
	}
}

func runScript(t *testing.T, file string) {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := newScript(t)
	var out strings.Builder
	for block := range strings.SplitSeq(strings.TrimRight(string(data), "\n")+"\n", "\n\n") {
		commands, _, found := strings.Cut(block+"\n", "----\n")
		if !found {
			out.WriteString(strings.TrimRight(block, "\n") + "\n\n") // a comment
			continue
		}
		var answer strings.Builder
		for line := range strings.Lines(commands) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				for _, text := range s.run(line) {
					answer.WriteString(text + "\n")
				}
			}
		}
		out.WriteString(commands + "----\n" + answer.String() + "\n")
	}
	got := strings.TrimRight(out.String(), "\n") + "\n"
	if *rewrite {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if got != string(data) {
		t.Errorf("%s answers otherwise (see -rewrite):\n%s", file, got)
	}
}

// script is a cluster with connections by name.
type script struct {
	t       *testing.T
	cluster *amqptest.Cluster
	doors   map[string]*door
	open    []string
	chans   map[string]*broker.Channel
}

func newScript(t *testing.T) *script {
	s := &script{t: t, doors: map[string]*door{}, chans: map[string]*broker.Channel{}}
	s.cluster = amqptest.NewCluster(t, broker.Options{OperationTimeout: 50 * time.Millisecond, FreshTimeout: time.Millisecond, MaxMessageSize: 1 << 20})
	return s
}

// run runs one command: what it answers, then what every connection gets.
func (s *script) run(line string) []string {
	words := strings.Fields(line)
	var answer []string
	if name, number, ok := strings.Cut(words[0], "."); ok {
		answer = s.onChannel(name, number, words[1], words[2:])
	} else {
		answer = s.global(words[0], words[1:])
	}
	for _, name := range s.open {
		for _, frame := range s.doors[name].drain() {
			answer = append(answer, name+": "+frame)
		}
	}
	for i := range answer {
		answer[i] = generated.ReplaceAllString(answer[i], "$1*")
	}
	return answer
}

var generated = regexp.MustCompile(`(amq\.(?:gen-|ctag-|rabbitmq\.reply-to\.))[A-Za-z0-9_-]{22}`)

func (s *script) global(command string, args []string) []string {
	b := s.cluster.Broker
	switch command {
	case "login":
		id, err := b.Login(context.Background(), args[0], args[1], !slices.Contains(args, "remote"))
		if err != nil {
			return explainError(err)
		}
		return []string{"ok " + id.User}
	case "connect":
		return s.connect(args)
	case "flush":
		return explainError(s.doors[args[0]].conn.Flush(shortly()))
	case "close":
		s.doors[args[0]].conn.Close(context.Background())
	case "hold":
		s.cluster.Hold(shardNamed(args[0]))
	case "release":
		s.cluster.Release(shardNamed(args[0]))
	case "shard":
		s.cluster.PickNext(shardNamed(args[0]))
	case "refuse":
		q := s.cluster.Find(args[0])
		s.cluster.Refuse(q.ID)
	case "lose": // a queue that its shard does not have any more
		q := s.cluster.Find(args[0])
		s.cluster.Lose(q.ID)
	case "cut-off":
		s.cluster.SetCutOff(args[0] == "yes")
	case "alarm":
		b.Alarm(strings.Join(args, " "))
	case "user":
		s.cluster.PutUser(args[0], args[1], args[2:]...)
	case "delete-user":
		s.cluster.DeleteUser(args[0])
	case "vhost":
		s.cluster.CreateVHost(args[0])
	case "delete-vhost":
		s.cluster.DeleteVHost(args[0])
	case "permit": // user configure write read
		s.cluster.Permit(args[0], pattern(args[1]), pattern(args[2]), pattern(args[3]))
	case "restore": // the whole catalog anew
		s.cluster.ReadCatalog(b.CatalogRestored)
	default:
		s.t.Fatalf("unknown command %q", command)
	}
	return nil
}

func pattern(text string) string {
	if text == "-" {
		return ""
	}
	return text
}

func shardNamed(text string) queue.ShardID {
	if text == "local" {
		return queue.LocalShard | 1
	}
	n, _ := strconv.Atoi(text)
	return queue.ShardID(n)
}

// connect NAME [user [vhost]]
func (s *script) connect(args []string) []string {
	args = append(args, []string{"", "guest", "/"}[len(args):]...)
	d := &door{t: s.t, wakes: make(chan struct{}, 1)}
	conn, err := s.cluster.Broker.Open(context.Background(), &broker.Identity{User: args[1]}, args[2], broker.ConnOptions{Name: args[0], Events: d})
	if err != nil {
		return explainError(err)
	}
	d.conn = conn
	s.doors[args[0]] = d
	s.open = append(s.open, args[0])
	return nil
}

// shortly bounds what a script waits for: long enough for a busy machine, since few scripts wait for its end.
func shortly() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	context.AfterFunc(ctx, cancel)
	return ctx
}

var kindNames = map[broker.Kind]string{broker.Internal: "internal", broker.NotFound: "not-found", broker.AccessRefused: "access-refused", broker.ResourceLocked: "resource-locked",
	broker.PreconditionFailed: "precondition-failed", broker.NotAllowed: "not-allowed", broker.NotImplemented: "not-implemented", broker.Unavailable: "unavailable", broker.Exists: "exists"}

func explainError(err error) []string {
	var refusal *broker.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refusal):
		return []string{kindNames[refusal.Kind] + ": " + refusal.Text}
	}
	return []string{"error: " + err.Error()}
}

func name(word string) string {
	if word == "-" {
		return ""
	}
	return word
}

func (s *script) onChannel(connName, number, command string, words []string) []string {
	d := s.doors[connName]
	key := connName + "." + number
	if s.chans[key] == nil {
		n, _ := strconv.Atoi(number)
		s.chans[key] = d.conn.OpenChannel(uint16(n))
	}
	ch := s.chans[key]
	plain, values, table := broker.ParseOptions(words)
	has := func(flag string) bool { return slices.Contains(plain, flag) }
	arg := func(i int) string { return replyAddress(name(append(plain, "-", "-", "-", "-")[i])) }
	ctx := context.Background()
	var answer []string
	var err error
	switch command {
	case "declare":
		var ok broker.QueueOK
		ok, err = ch.DeclareQueue(ctx, &broker.QueueDeclare{Name: arg(0), Passive: has("passive"), Durable: !has("transient"), Exclusive: has("exclusive"), AutoDelete: has("auto-delete"), Arguments: table})
		if err == nil {
			answer = append(answer, fmt.Sprintf("ok %s messages=%d consumers=%d", ok.Name, ok.Messages, ok.Consumers))
		}
	case "declare-exchange":
		err = ch.DeclareExchange(ctx, &broker.ExchangeDeclare{Name: arg(0), Type: arg(1), Passive: has("passive"), Durable: !has("transient"), AutoDelete: has("auto-delete"), Internal: has("internal"), Arguments: table})
	case "delete-exchange":
		err = ch.DeleteExchange(ctx, arg(0), has("if-unused"))
	case "bind":
		err = ch.BindQueue(ctx, &broker.Binding{Source: arg(0), Destination: arg(1), RoutingKey: arg(2), Arguments: table})
	case "unbind":
		err = ch.UnbindQueue(ctx, &broker.Binding{Source: arg(0), Destination: arg(1), RoutingKey: arg(2), Arguments: table})
	case "bind-exchange":
		err = ch.BindExchange(ctx, &broker.Binding{Source: arg(0), Destination: arg(1), RoutingKey: arg(2), Arguments: table})
	case "unbind-exchange":
		err = ch.UnbindExchange(ctx, &broker.Binding{Source: arg(0), Destination: arg(1), RoutingKey: arg(2), Arguments: table})
	case "purge", "delete":
		var n uint64
		if command == "purge" {
			n, err = ch.PurgeQueue(ctx, arg(0))
		} else {
			n, err = ch.DeleteQueue(ctx, arg(0), has("if-unused"), has("if-empty"))
		}
		if err == nil {
			answer = append(answer, fmt.Sprintf("ok %d", n))
		}
	case "qos":
		n, _ := strconv.Atoi(arg(0))
		size, _ := strconv.Atoi(values["size"])
		err = ch.Qos(uint32(size), uint16(n), has("global"))
	case "consume":
		var tag string
		tag, err = ch.Consume(ctx, &broker.Consume{Queue: arg(0), Tag: arg(1), NoAck: has("no-ack"), Exclusive: has("exclusive"), Arguments: table})
		if err == nil {
			answer = append(answer, "ok "+tag)
			ch.Started(tag)
		}
	case "cancel":
		err = ch.Cancel(ctx, arg(0))
	case "get":
		var m *broker.Outgoing
		var ok bool
		m, ok, err = ch.Get(ctx, arg(0), has("no-ack"))
		if ok {
			answer = append(answer, fmt.Sprintf("%s left=%d", message(m), m.MessageCount))
		} else if err == nil {
			answer = append(answer, "empty")
		}
	case "ack", "nack", "reject":
		tag, _ := strconv.ParseUint(arg(0), 10, 64)
		switch command {
		case "ack":
			err = ch.Ack(tag, has("multiple"))
		case "nack":
			err = ch.Nack(tag, has("multiple"), has("requeue"))
		default:
			err = ch.Reject(tag, has("requeue"))
		}
	case "recover":
		err = ch.Recover(!has("no-requeue"))
	case "confirm":
		err = ch.ConfirmSelect()
	case "tx":
		err = ch.TxSelect()
	case "commit":
		err = ch.TxCommit(ctx)
	case "rollback":
		err = ch.TxRollback(ctx)
	case "update-secret":
		err = d.conn.UpdateSecret(ctx, arg(0))
	case "publish", "publish-only":
		body := []byte(arg(2))
		if n, sizeErr := strconv.Atoi(values["size"]); sizeErr == nil {
			body = make([]byte, n)
		}
		err = ch.Publish(ctx, &broker.Publish{Exchange: []byte(arg(0)), RoutingKey: []byte(arg(1)), Mandatory: has("mandatory"), Immediate: has("immediate"),
			Properties: broker.EncodeProperties(values, table), Body: body})
	case "close":
		ch.Close(ctx)
		delete(s.chans, key)
	default:
		s.t.Fatalf("unknown command %q", command)
	}
	if err == nil && command != "publish-only" && command != "close" {
		err = d.conn.Flush(shortly())
	}
	return append(answer, explainError(err)...)
}

// replyAddress lets a script name the last reply-to that a connection has seen.
func replyAddress(key string) string {
	if key == "$reply-to" {
		return string(lastReplyTo)
	}
	return key
}

var lastReplyTo []byte

// message prints an outgoing message.
func message(m *broker.Outgoing) string {
	text := fmt.Sprintf("#%d %s/%s", m.Tag, m.Exchange, m.RoutingKey)
	if m.Redelivered {
		text += " redelivered"
	}
	var p broker.Properties
	if err := p.Parse(m.Properties); err != nil {
		return text + " " + err.Error()
	}
	if p.ReplyTo != nil {
		lastReplyTo = slices.Clone(p.ReplyTo)
		text += " reply-to=" + string(p.ReplyTo)
	}
	if p.Headers != nil {
		text += fmt.Sprintf(" headers=%v", broker.DecodeTable(p.Headers, 0))
	}
	if len(m.Body) > 40 {
		return text + fmt.Sprintf(" %d bytes", len(m.Body))
	}
	return text + " " + string(m.Body)
}

// drain takes what waits, as a front door's writer does.
func (d *door) drain() []string {
	d.frames = d.frames[:0]
	for more := true; more; {
		var err error
		if more, err = d.conn.Drain(d, 1<<20); err != nil {
			d.t.Fatal(err)
		}
		d.conn.Written()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	frames := append(slices.Clone(d.frames), d.events...)
	d.events = nil
	return frames
}

func (d *door) frame(channel uint16, format string, args ...any) {
	d.frames = append(d.frames, fmt.Sprintf("%d ", channel)+fmt.Sprintf(format, args...))
}

func (d *door) Deliver(channel uint16, tag string, m *broker.Outgoing) {
	d.frame(channel, "deliver %s %s", tag, message(m))
}

func (d *door) Return(channel uint16, code uint16, text string, exchange, key, _, body []byte) {
	d.frame(channel, "return %d %s %s/%s %s", code, text, exchange, key, body)
}

func (d *door) Confirm(channel uint16, tag uint64, multiple bool, o broker.Outcome) {
	what := map[bool]string{true: "ack", false: "nack"}[o.Acked()]
	if multiple {
		what += " through"
	}
	d.frame(channel, "%s %d", what, tag)
}

func (d *door) CancelConsumer(channel uint16, tag string) { d.frame(channel, "cancel %s", tag) }
