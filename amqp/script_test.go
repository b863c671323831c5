package amqp

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmq/warren/amqp/wire"
	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/internal/amqptest"
)

var rewrite = flag.Bool("rewrite", false, "write what the scripts in testdata answer")

// TestScripts runs testdata: a block is commands, a line of dashes, and every frame that the server sends for them; an
// empty line ends it. Each script is a bubble of testing/synctest: time stands still while anything moves.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runScript(t, file) })
		})
	}
}

func runScript(t *testing.T, file string) {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := &script{t: t, file: file, conns: map[string]*scripted{}, listener: amqptest.NewListener()}
	defer s.end()
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
		t.Errorf("%s answers otherwise (see -rewrite):\n%s", file, difference(string(data), got))
	}
}

// difference shows the first lines that differ.
func difference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range g {
		if i >= len(w) || w[i] != g[i] {
			return fmt.Sprintf("line %d:\n\t%s\nwant:\n\t%s", i+1, strings.Join(g[i:min(i+3, len(g))], "\n\t"), strings.Join(w[min(i, len(w)):min(i+3, len(w))], "\n\t"))
		}
	}
	return fmt.Sprintf("line %d is missing", len(g)+1)
}

// script is a server with connections by name.
type script struct {
	t        *testing.T
	file     string
	server   *Server
	listener *amqptest.Listener
	cluster  *amqptest.Cluster
	serving  sync.WaitGroup
	conns    map[string]*scripted
	replyTo  string   // the last address of direct reply-to seen; $reply-to in a script
	names    []string // of conns, in order
}

// scripted is the client's end of a connection.
type scripted struct {
	socket  net.Conn
	out     chan []byte // to the goroutine that writes
	options []string    // of connect
	last    string      // the last frame taken
	// confirmed are the tags that were confirmed, by channel.
	confirmed map[string]map[int]bool

	mu     sync.Mutex // guards what follows
	frames []string
}

// start runs the server, with options from words.
func (s *script) start(words []string) {
	o := Options{Version: "1.0.0", ClusterName: "test"}
	bo := broker.Options{OperationTimeout: 10 * time.Second}
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		n, _ := strconv.Atoi(value)
		switch key {
		case "announce":
			o.Announce = value
		case "heartbeat":
			o.Heartbeat = time.Duration(n) * time.Second
		case "max-message-size":
			o.MaxMessageSize, bo.MaxMessageSize = int64(n), int64(n)
		case "max-channel-consumers":
			bo.MaxChannelConsumers = n
		case "max-connections":
			o.MaxConnections = n
		default:
			s.t.Fatalf("unknown option %q", word)
		}
	}
	s.cluster = amqptest.NewCluster(s.t, bo)
	o.Broker = s.cluster.Broker
	s.server = NewServer(o)
	s.serving.Go(func() {
		if err := s.server.Serve(s.listener); err != nil {
			s.t.Error(err)
		}
	})
}

func (s *script) end() {
	for _, name := range s.names {
		c := s.conns[name]
		_ = c.socket.Close() // the server may have closed it
		close(c.out)
	}
	if s.server != nil {
		if err := s.server.Shutdown(context.Background()); err != nil {
			s.t.Error(err)
		}
	}
	s.serving.Wait()
}

// unsteady is what differs from run to run.
var unsteady = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`(amq\.(?:gen-|ctag-|rabbitmq\.reply-to\.))[A-Za-z0-9_-]{22}`), "$1*"},
	{regexp.MustCompile(`platform="?go[^ }]*`), "platform=go"},
}

var replyAddress = regexp.MustCompile(`amq\.rabbitmq\.reply-to\.[A-Za-z0-9_-]{22}`)

// run runs one command and returns what every connection gets.
func (s *script) run(line string) (answer []string) {
	words, err := amqptest.Words(strings.ReplaceAll(line, "$reply-to", s.replyTo))
	if err != nil {
		s.t.Fatal(err)
	}
	if s.server == nil {
		if words[0] == "server" {
			s.start(words[1:])
			return nil
		}
		s.start(nil)
	}
	var again string // the channel to be opened again after an error
	if words[0], again = cutStar(words[0]); !s.global(words) {
		s.onConnection(words)
	}
	synctest.Wait()
	if again != "" {
		defer s.reopen(again)
	}
	for _, name := range s.names {
		for _, frame := range s.conns[name].take() {
			if address := replyAddress.FindString(frame); address != "" {
				s.replyTo = address
			}
			answer = append(answer, name+"."+frame)
		}
	}
	for i := range answer {
		for _, u := range unsteady {
			answer[i] = u.pattern.ReplaceAllString(answer[i], u.with)
		}
	}
	return counted(answer)
}

// counted writes a long run of equal lines as one.
func counted(lines []string) (out []string) {
	for len(lines) > 0 {
		n := 1
		for n < len(lines) && lines[n] == lines[0] {
			n++
		}
		if n <= 10 {
			out = append(out, lines[:n]...)
		} else {
			out = append(out, fmt.Sprintf("%s, %d times", lines[0], n))
		}
		lines = lines[n:]
	}
	return out
}

// cutStar cuts off the star of NAME.CHANNEL*, which says that a channel or connection that ends for an error is opened
// again, without a word in the script.
func cutStar(word string) (name, again string) {
	if name, ok := strings.CutSuffix(word, "*"); ok {
		return name, name
	}
	return word, ""
}

// reopen opens a channel again.
func (s *script) reopen(where string) {
	name, number, _ := strings.Cut(where, ".")
	channel, _ := strconv.Atoi(number)
	c := s.conns[name]
	switch {
	case strings.Contains(c.last, " connection.close "):
		c.out <- wire.AppendMethodFrame(nil, 0, &wire.ConnectionCloseOk{})
		synctest.Wait()
		s.connect(name, c.options)
		c = s.conns[name]
		c.out <- wire.AppendMethodFrame(nil, uint16(channel), &wire.ChannelOpen{})
	case strings.Contains(c.last, " channel.close "):
		c.out <- wire.AppendMethodFrame(wire.AppendMethodFrame(nil, uint16(channel), &wire.ChannelCloseOk{}), uint16(channel), &wire.ChannelOpen{})
	default:
		return
	}
	synctest.Wait()
	c.take()
}

// global runs the commands about no connection, or about one that is to be.
func (s *script) global(words []string) bool {
	args := words[1:]
	b := s.cluster.Broker
	switch words[0] {
	case "dial":
		s.dial(args[0], args[1:])
	case "connect":
		s.connect(args[0], args[1:])
	case "sleep":
		d, err := time.ParseDuration(args[0])
		if err != nil {
			s.t.Fatal(err)
		}
		time.Sleep(d)
	case "user":
		s.cluster.PutUser(args[0], args[1], args[2:]...)
	case "delete-user":
		s.cluster.DeleteUser(args[0])
	case "vhost":
		s.cluster.CreateVHost(args[0])
	case "delete-vhost":
		s.cluster.DeleteVHost(args[0])
	case "permit": // user configure write read
		s.cluster.Permit(args[0], args[1], args[2], args[3])
	case "alarm":
		b.Alarm(strings.Join(args, " "))
	case "hold", "release":
		n, _ := strconv.Atoi(args[0])
		if words[0] == "hold" {
			s.cluster.Hold(amqptest.Shard(n))
		} else {
			s.cluster.Release(amqptest.Shard(n))
		}
	case "shard":
		n, _ := strconv.Atoi(args[0])
		s.cluster.PickNext(amqptest.Shard(n))
	case "refuse":
		s.cluster.Refuse(s.cluster.Find(args[0]).ID)
	case "failing": // how messages cannot be read: KIND, or no
		kinds := map[string]error{"internal": errors.New("checksum"), "unavailable": amqptest.Unavailable(), "no": nil}
		s.cluster.SetFailing(kinds[args[0]])
	case "slow": // how long a message takes to be read
		d, err := time.ParseDuration(args[0])
		if err != nil {
			s.t.Fatal(err)
		}
		s.cluster.SetSlow(d)
	case "close-connections":
		b.CloseConnections(args[0])
	case "shutdown":
		s.serving.Go(func() { _ = s.server.Shutdown(context.Background()) }) // end waits for it as well
	default:
		return false
	}
	return true
}

// dial NAME [from=IP]
func (s *script) dial(name string, args []string) {
	from := net.IPv4(127, 0, 0, 1)
	for _, arg := range args {
		if ip, ok := strings.CutPrefix(arg, "from="); ok {
			from = net.ParseIP(ip)
		}
	}
	socket, err := s.listener.Dial(from)
	if err != nil {
		s.t.Fatal(err)
	}
	c := &scripted{socket: socket, out: make(chan []byte, 100), confirmed: map[string]map[int]bool{}}
	if old := s.conns[name]; old != nil {
		_ = old.socket.Close() // replaced
		close(old.out)
	} else {
		s.names = append(s.names, name)
	}
	s.conns[name] = c
	go c.read()
	go c.write()
}

// read collects what comes.
func (c *scripted) read() {
	in := wire.NewScanner(c.socket, 1<<20)
	for {
		f, ok, err := in.Next()
		switch {
		case err != nil: // the answer to a protocol header
			raw, _ := in.ReadRaw(in.Buffered())
			c.add(fmt.Sprintf("0 %q", raw))
		case ok:
			c.add(amqptest.FrameText(f))
			continue
		}
		if in.Fill() != nil {
			if n := in.Buffered(); n > 0 {
				raw, _ := in.ReadRaw(n)
				c.add(fmt.Sprintf("0 %q", raw))
			}
			c.add("0 closed")
			return
		}
	}
}

func (c *scripted) write() {
	for data := range c.out {
		if _, err := c.socket.Write(data); err != nil {
			return
		}
	}
}

func (c *scripted) add(frame string) {
	c.mu.Lock()
	c.frames = append(c.frames, frame)
	c.mu.Unlock()
}

func (c *scripted) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	frames := c.confirms(c.frames)
	c.frames, c.last = nil, ""
	// The order is one of each channel's own.
	slices.SortStableFunc(frames, func(a, b string) int { return cmp.Compare(channelOf(a), channelOf(b)) })
	for _, frame := range frames {
		if !confirmLine.MatchString(frame) {
			c.last = frame
		}
	}
	return frames
}

var confirmLine = regexp.MustCompile(`^\d+ (late )?n?acked `)

var confirmFrame = regexp.MustCompile(`^(\d+) basic\.(n?ack) delivery-tag=(\d+)( multiple)?$`)

// confirms writes the confirms of a channel as one line when they are of more than one message: how they are told, by
// and by or together, depends on the moment. Those that come after the end of their channel are late.
func (c *scripted) confirms(frames []string) (out []string) {
	told := map[string][]int{}  // tags, by channel and answer
	late := map[string]string{} // channels that have ended
	for _, frame := range frames {
		m := confirmFrame.FindStringSubmatch(frame)
		if m == nil {
			if number, rest, _ := strings.Cut(frame, " "); strings.HasPrefix(rest, "channel.close ") {
				late[number] = "late "
			}
			out = append(out, frame)
			continue
		}
		tag, _ := strconv.Atoi(m[3])
		of := c.confirmed[m[1]]
		if of == nil {
			of = map[int]bool{}
			c.confirmed[m[1]] = of
		}
		key := m[1] + " " + late[m[1]] + m[2] + "ed"
		for t := tag; t > 0 && !of[t]; t-- {
			of[t] = true
			told[key] = append(told[key], t)
			if m[4] == "" {
				break
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(told)) {
		tags := told[key]
		slices.Sort(tags)
		out = append(out, key+" "+strings.Trim(fmt.Sprint(tags), "[]"))
	}
	return out
}

// channelOf returns the channel of a frame; what closes the connection counts as the last.
func channelOf(frame string) int {
	if strings.HasPrefix(frame, "0 close") || strings.HasPrefix(frame, "0 connection.close") {
		return 1 << 16
	}
	number, _, _ := strings.Cut(frame, " ")
	n, _ := strconv.Atoi(number)
	return n
}

// connect NAME [user= password= vhost= mechanism= from= can=…] [fields of tune-ok]: the handshake, of which only what
// goes wrong is shown.
func (s *script) connect(name string, args []string) {
	s.dial(name, args)
	c := s.conns[name]
	c.options = args
	l := amqptest.Login{User: "guest", Password: "guest"}
	l.Properties = wire.Table{"capabilities": wire.Table{}}
	tune, vhost, stop := &wire.ConnectionTuneOk{ChannelMax: channelMax, FrameMax: frameMax}, "/", ""
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		n, _ := strconv.Atoi(value)
		switch key {
		case "user":
			l.User = value
		case "password":
			l.Password = value
		case "vhost":
			vhost = value
		case "mechanism":
			l.Mechanism = value
		case "can":
			for capability := range strings.SplitSeq(value, ",") {
				l.Properties["capabilities"].(wire.Table)[capability] = true
			}
		case "heartbeat":
			tune.Heartbeat = uint16(n)
		case "frame-max":
			tune.FrameMax = uint32(n)
		case "channel-max":
			tune.ChannelMax = uint16(n)
		case "until":
			stop = value
		}
	}
	if l.Mechanism == "" {
		l.Mechanism = "PLAIN"
	}
	steps := []struct {
		name, answer string
		send         []byte
	}{
		{"start", "0 connection.start ", []byte(amqptest.Header)},
		{"tune", "0 connection.tune ", wire.AppendMethodFrame(nil, 0, &wire.ConnectionStartOk{ClientProperties: l.Properties, Mechanism: l.Mechanism, Response: l.Response(), Locale: "en_US"})},
		{"tuned", "", wire.AppendMethodFrame(nil, 0, tune)},
		{"open", "0 connection.open-ok", wire.AppendMethodFrame(nil, 0, &wire.ConnectionOpen{VirtualHost: vhost})},
	}
	for _, step := range steps {
		c.out <- step.send
		synctest.Wait()
		c.mu.Lock()
		failed := step.answer == "" && len(c.frames) > 0 || step.answer != "" && (len(c.frames) != 1 || !strings.HasPrefix(c.frames[0], step.answer))
		if !failed {
			c.frames = nil
		}
		c.mu.Unlock()
		if failed || step.name == stop {
			return
		}
	}
}

// onConnection runs NAME.CHANNEL command [& command…], or NAME command; what it sends goes in one piece.
func (s *script) onConnection(words []string) {
	name, number, _ := strings.Cut(words[0], ".")
	c := s.conns[name]
	if c == nil {
		s.t.Fatalf("%s: no connection %q", s.file, name)
	}
	channel, _ := strconv.Atoi(number)
	if words[1] == "hang-up" {
		_ = c.socket.Close() // it is the end either way
		return
	}
	var data []byte
	for command := range splitAt(words[1:], "&") {
		data = s.encode(data, uint16(channel), command)
	}
	c.out <- data
}

func splitAt(words []string, at string) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		for {
			i := slices.Index(words, at)
			if i < 0 {
				yield(words)
				return
			}
			if !yield(words[:i]) {
				return
			}
			words = words[i+1:]
		}
	}
}

// encode appends the bytes of a command.
func (s *script) encode(data []byte, channel uint16, words []string) []byte {
	fail := func(err error) {
		if err != nil {
			s.t.Fatalf("%s: %q: %v", s.file, words, err)
		}
	}
	switch words[0] {
	case "bytes":
		return append(data, words[1]...)
	case "frame": // TYPE PAYLOAD
		kind, err := strconv.Atoi(words[1])
		fail(err)
		return amqptest.AppendFrame(data, byte(kind), channel, []byte(words[2]))
	case "header": // SIZE [properties]
		size, err := strconv.ParseUint(words[1], 10, 64)
		fail(err)
		p, err := amqptest.ParseProperties(words[2:])
		fail(err)
		return amqptest.AppendFrame(data, wire.FrameHeader, channel, p.Append(binary.BigEndian.AppendUint64([]byte{0, 60, 0, 0}, size)))
	case "body": // TEXT or size=N
		return amqptest.AppendFrame(data, wire.FrameBody, channel, bodyOf(words[1]))
	case "publish": // EXCHANGE KEY BODY [mandatory] [immediate] [properties]
		rest := words[4:]
		flag := func(name string) bool {
			i := slices.Index(rest, name)
			if i >= 0 {
				rest = slices.Delete(slices.Clone(rest), i, i+1)
			}
			return i >= 0
		}
		mandatory, immediate := flag("mandatory"), flag("immediate")
		p, err := amqptest.ParseProperties(rest)
		fail(err)
		return wire.AppendPublish(data, channel, words[1], words[2], mandatory, immediate, p.Append(nil), bodyOf(words[3]), frameMax)
	}
	m, err := amqptest.ParseMethod(words)
	fail(err)
	return wire.AppendMethodFrame(data, channel, m)
}

func bodyOf(text string) []byte {
	if n, ok := strings.CutPrefix(text, "size="); ok {
		size, _ := strconv.Atoi(n)
		return make([]byte, size)
	}
	return []byte(text)
}
