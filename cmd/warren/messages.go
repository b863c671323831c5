package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/warrenmq/warren/client"
)

// messageRow is a message in JSON, in and out.
type messageRow struct {
	Exchange        string         `json:"exchange,omitempty"`
	RoutingKey      string         `json:"routing_key,omitempty"`
	Redelivered     bool           `json:"redelivered,omitempty"` // out only
	Headers         map[string]any `json:"headers,omitempty"`
	ContentType     string         `json:"content_type,omitempty"`
	ContentEncoding string         `json:"content_encoding,omitempty"`
	Transient       bool           `json:"transient,omitempty"`
	Priority        uint8          `json:"priority,omitempty"`
	CorrelationID   string         `json:"correlation_id,omitempty"`
	ReplyTo         string         `json:"reply_to,omitempty"`
	ExpirationMS    int64          `json:"expiration_ms,omitempty"`
	MessageID       string         `json:"message_id,omitempty"`
	Timestamp       *time.Time     `json:"timestamp,omitempty"`
	Type            string         `json:"type,omitempty"`
	UserID          string         `json:"user_id,omitempty"`
	AppID           string         `json:"app_id,omitempty"`
	Body            *string        `json:"body,omitempty"`
	BodyBase64      []byte         `json:"body_base64,omitempty"` // instead of body: what is not UTF-8
}

// message is the row as it is published.
func (r *messageRow) message() client.Message {
	m := client.Message{Exchange: r.Exchange, RoutingKey: r.RoutingKey, Body: r.BodyBase64, Headers: r.Headers, ContentType: r.ContentType,
		ContentEncoding: r.ContentEncoding, Transient: r.Transient, Priority: r.Priority, CorrelationID: r.CorrelationID, ReplyTo: r.ReplyTo,
		Expiration: time.Duration(r.ExpirationMS) * time.Millisecond, MessageID: r.MessageID, Type: r.Type, UserID: r.UserID, AppID: r.AppID}
	if r.Body != nil {
		m.Body = []byte(*r.Body)
	}
	if r.Timestamp != nil {
		m.Timestamp = *r.Timestamp
	}
	return m
}

func rowOf(m *client.Message, redelivered bool) messageRow {
	r := messageRow{Exchange: m.Exchange, RoutingKey: m.RoutingKey, Redelivered: redelivered, Headers: inJSON(m.Headers), ContentType: m.ContentType,
		ContentEncoding: m.ContentEncoding, Transient: m.Transient, Priority: m.Priority, CorrelationID: m.CorrelationID, ReplyTo: m.ReplyTo,
		ExpirationMS: m.Expiration.Milliseconds(), MessageID: m.MessageID, Type: m.Type, UserID: m.UserID, AppID: m.AppID}
	if !m.Timestamp.IsZero() {
		timestamp := inYears(m.Timestamp)
		r.Timestamp = &timestamp
	}
	if utf8.Valid(m.Body) {
		body := string(m.Body)
		r.Body = &body
	} else {
		r.BodyBase64 = m.Body
	}
	return r
}

// show prints a message: its body and a line's end, or an object.
func (a *access) show(out io.Writer, m *client.Message, redelivered bool) error {
	if a.json {
		return json.NewEncoder(out).Encode(rowOf(m, redelivered))
	}
	_, err := fmt.Fprintf(out, "%s\n", m.Body)
	return err
}

const (
	// maxLine bounds a line of input, in bytes.
	maxLine = 64 << 20
	// progressPeriod is how often long work tells how far it is.
	progressPeriod = time.Second
	// interruptedTimeout bounds the wait for the outcome of what was published before an interruption.
	interruptedTimeout = 2 * time.Second
)

// publishing is what `warren publish` is told.
type publishing struct {
	access
	message   client.Message
	headers   []string
	jsonInput bool
	count     int
}

func publishCommand() *cobra.Command {
	var p publishing
	c := &cobra.Command{
		Use:   "publish [BODY]",
		Short: "Publish messages and wait until the cluster has stored them.",
		Long: "Publish messages and wait until the cluster has stored them. Without BODY, each line of the input is a message; with\n" +
			"--json-input, each line is an object as get, consume and peek print it with --json: of the flags that describe a message, only\n" +
			"--exchange and --key go with it, and count instead of what a line says.",
		Example: "  warren publish --key orders 'a new order'\n" +
			"  warren publish --exchange logs --key app.error --header host=web1 < errors.log\n" +
			"  warren consume orders --count 10 --json | warren publish --json-input --key copies",
		Args: cobra.MaximumNArgs(1),
	}
	p.register(c.Flags())
	f := c.Flags()
	f.StringVar(&p.message.Exchange, "exchange", "", "exchange (default: the one that routes to the queue named by --key)")
	f.StringVar(&p.message.RoutingKey, "key", "", "routing key")
	f.StringArrayVar(&p.headers, "header", nil, "NAME=VALUE, repeatable; a value that is JSON counts as such")
	f.StringVar(&p.message.ContentType, "content-type", "", "MIME type of the body")
	f.StringVar(&p.message.CorrelationID, "correlation-id", "", "correlation id")
	f.StringVar(&p.message.ReplyTo, "reply-to", "", "queue for replies")
	f.StringVar(&p.message.MessageID, "message-id", "", "message id")
	f.StringVar(&p.message.Type, "type", "", "type of the message")
	f.Uint8Var(&p.message.Priority, "priority", 0, "priority")
	f.DurationVar(&p.message.Expiration, "expiration", 0, "how long it may wait in a queue; 0: for ever")
	f.BoolVar(&p.message.Transient, "transient", false, "delivery mode 1")
	f.BoolVar(&p.jsonInput, "json-input", false, "lines of input are JSON")
	f.IntVar(&p.count, "count", 1, "publish BODY so many times")
	for _, other := range []string{"header", "content-type", "correlation-id", "reply-to", "message-id", "type", "priority", "expiration", "transient", "count"} {
		c.MarkFlagsMutuallyExclusive("json-input", other)
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		switch {
		case p.jsonInput && len(args) > 0:
			return errors.New("with --json-input messages come from the input, and there is no BODY")
		case len(args) == 0 && c.Flags().Changed("count"):
			return errors.New("--count is for BODY, and there is none")
		}
		headers, err := parseArguments(p.headers)
		if err != nil {
			return err
		}
		if len(headers) > 0 {
			p.message.Headers = headers
		}
		return p.publish(c, args)
	}
	return c
}

func (p *publishing) publish(cmd *cobra.Command, args []string) error {
	ctx, c, end, err := p.connect(cmd.Context(), false)
	if err != nil {
		return err
	}
	defer end()
	publisher, err := c.Publisher()
	if err != nil {
		return err
	}
	var s tally
	stop := progress(cmd.ErrOrStderr(), "confirmed", &s.confirmed)
	defer stop()
	each := p.lines(ctx, cmd.InOrStdin())
	if len(args) == 1 {
		each = p.repeated(args[0])
	}
	err = each(func(m client.Message) error {
		room, cancel := context.WithTimeout(ctx, p.timeout)
		defer cancel()
		return cmp.Or(s.failure(), publisher.PublishAsync(room, m, s.done))
	})
	waiting, most := ctx, p.timeout
	if ctx.Err() != nil {
		err = errInterrupted
		waiting, most = context.WithoutCancel(ctx), min(p.timeout, interruptedTimeout)
	}
	flush, cancel := context.WithTimeout(waiting, most)
	defer cancel()
	err = errors.Join(err, publisher.Close(flush))
	if failure := s.failure(); failure != nil {
		err = failure
	}
	if err != nil {
		return fmt.Errorf("%d messages confirmed: %w", s.confirmed.Load(), err)
	}
	stop()
	return p.say(cmd.OutOrStdout(), map[string]any{"confirmed": s.confirmed.Load()}, "%d confirmed", s.confirmed.Load())
}

var errInterrupted = errors.New("interrupted")

// tally counts outcomes; the first failure ends the work.
type tally struct {
	confirmed atomic.Int64
	failed    atomic.Pointer[error]
}

func (s *tally) done(err error) {
	if err == nil {
		s.confirmed.Add(1)
	} else {
		s.failed.CompareAndSwap(nil, &err)
	}
}

func (s *tally) failure() error {
	if err := s.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// repeated gives the same message several times.
func (p *publishing) repeated(body string) func(func(client.Message) error) error {
	return func(f func(client.Message) error) error {
		m := p.message
		m.Body = []byte(body)
		for range p.count {
			if err := f(m); err != nil {
				return err
			}
		}
		return nil
	}
}

// lines gives a message for each line of the input, until ctx ends.
func (p *publishing) lines(ctx context.Context, in io.Reader) func(func(client.Message) error) error {
	return func(f func(client.Message) error) error {
		lines, ended := make(chan []byte), make(chan error, 1)
		go func() { // it may wait in a read when ctx ends
			scanner := bufio.NewScanner(in)
			scanner.Buffer(make([]byte, 64<<10), maxLine)
			defer func() { ended <- scanner.Err(); close(lines) }()
			for scanner.Scan() {
				select {
				case lines <- bytes.Clone(scanner.Bytes()):
				case <-ctx.Done():
					return
				}
			}
		}()
		for n := 1; ; n++ {
			select {
			case line, more := <-lines:
				if !more {
					return cmp.Or(ctx.Err(), <-ended)
				}
				m, err := p.parse(line)
				if err != nil {
					return fmt.Errorf("line %d: %w", n, err)
				}
				if err := f(m); err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

func (p *publishing) parse(line []byte) (client.Message, error) {
	m := p.message
	if !p.jsonInput {
		m.Body = line
		return m, nil
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	d.DisallowUnknownFields()
	var r messageRow
	if err := d.Decode(&r); err != nil {
		return m, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return m, errors.New("there is more than one object")
	}
	if r.Headers != nil {
		r.Headers, _ = withNumbers(r.Headers).(map[string]any)
	}
	given := r.message()
	given.Exchange = cmp.Or(p.message.Exchange, given.Exchange)
	given.RoutingKey = cmp.Or(p.message.RoutingKey, given.RoutingKey)
	if given.UserID != p.user {
		given.UserID = "" // of whoever published it first
	}
	return given, nil
}

// progress tells a number now and then on a terminal, until the function that it returns is called.
func progress(out io.Writer, what string, n *atomic.Int64) (stop func()) {
	file, ok := out.(*os.File)
	if !ok {
		return func() {}
	}
	if info, err := file.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(progressPeriod)
		defer ticker.Stop()
		told := false
		for {
			select {
			case <-ticker.C:
				fmt.Fprintf(out, "\r%d %s ", n.Load(), what)
				told = true
			case <-quit:
				if told {
					fmt.Fprint(out, "\r\x1b[K")
				}
				return
			}
		}
	}()
	var once atomic.Bool
	return func() {
		if !once.Swap(true) {
			close(quit)
			<-done
		}
	}
}

func getCommand() *cobra.Command {
	var a access
	var count int
	var requeue bool
	c := &cobra.Command{Use: "get QUEUE", Short: "Take messages out of a queue.", Args: cobra.ExactArgs(1),
		Long:    "Take messages out of a queue and print them. A message is gone once it was printed. An empty queue is no error.",
		Example: "  warren get orders\n  warren get orders --count 10 --json"}
	a.register(c.Flags())
	c.Flags().IntVar(&count, "count", 1, "how many at most")
	c.Flags().BoolVar(&requeue, "requeue", false, "give them back afterwards, marked as redelivered (peek does not mark them)")
	c.RunE = a.run(func(ctx context.Context, c *client.Client, out io.Writer, args []string) error {
		var got []*client.Delivery
		for range count {
			d, err := c.Get(ctx, args[0], false)
			if errors.Is(err, client.ErrEmpty) {
				break
			}
			if err != nil {
				return err
			}
			if err := a.show(out, &d.Message, d.Redelivered); err != nil {
				return err
			}
			if requeue {
				got = append(got, d)
			} else if err := d.Ack(); err != nil {
				return err
			}
		}
		for _, d := range got {
			if err := d.Requeue(); err != nil {
				return err
			}
		}
		return nil
	})
	return c
}

func consumeCommand() *cobra.Command {
	var a access
	var count, credit int
	c := &cobra.Command{Use: "consume QUEUE", Short: "Print a queue's messages as they come, until interrupted.", Args: cobra.ExactArgs(1),
		Long:    "Print a queue's messages as they come, until interrupted or after --count. A message is gone once it was printed.",
		Example: "  warren consume orders\n  warren consume orders --json --count 100 > orders.json"}
	a.register(c.Flags())
	c.Flags().IntVar(&count, "count", 0, "end after so many; 0: never")
	c.Flags().IntVar(&credit, "credit", 100, "messages that may be on their way")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, c, end, err := a.connect(cmd.Context(), false)
		if err != nil {
			return err
		}
		defer end()
		starting, cancel := context.WithTimeout(ctx, a.timeout)
		defer cancel()
		if count > 0 {
			credit = min(credit, count)
		}
		k, err := c.Consume(starting, args[0], client.WithCredit(credit))
		if err != nil {
			return err
		}
		defer k.Close()
		return a.consume(ctx, k, cmd.OutOrStdout(), count)
	}
	return c
}

func (a *access) consume(ctx context.Context, k *client.Consumer, out io.Writer, count int) error {
	shown := 0
	for d, err := range k.Messages(ctx) {
		if ctx.Err() != nil {
			return nil // interrupted
		}
		if err != nil {
			return err
		}
		if err := a.show(out, &d.Message, d.Redelivered); err != nil {
			return err
		}
		if err := d.Ack(); err != nil && !errors.Is(err, client.ErrLost) {
			return err
		}
		if shown++; shown == count {
			return nil
		}
	}
	return nil
}

func peekCommand() *cobra.Command {
	var a access
	var count, skip, cut uint32
	c := &cobra.Command{Use: "peek QUEUE", Short: "Look at a queue's messages without taking them.", Args: cobra.ExactArgs(1),
		Example: "  warren peek orders --count 10\n  warren peek orders --skip 100 --json"}
	a.register(c.Flags())
	c.Flags().Uint32Var(&count, "count", 1, "how many at most, up to 100")
	c.Flags().Uint32Var(&skip, "skip", 0, "how many to pass over from the head")
	c.Flags().Uint32Var(&cut, "max-bytes", 0, "print so much of a body; 0: all of it")
	c.RunE = a.run(func(ctx context.Context, c *client.Client, out io.Writer, args []string) error {
		messages, err := c.Peek(ctx, args[0], skip, count, cut)
		if err != nil {
			return err
		}
		for i := range messages {
			if err := a.show(out, &messages[i].Message, messages[i].Redelivered); err != nil {
				return err
			}
		}
		return nil
	})
	return c
}
