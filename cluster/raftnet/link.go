package raftnet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// link is this node's stream of requests to another node, for all groups. It is made when it is needed and given up when it
// fails, or takes no more; what waits for an answer then fails. A request that is not answered in time fails alone: the
// group there may be busy, and the others are not.
type link struct {
	t    *Transport
	uuid string

	ready  chan struct{} // closed when stream or err is set
	stream Stream
	once   sync.Once
	ended  chan struct{} // closed with the link's end
	err    error         // why; to be read after ended

	sending sync.Mutex // held to send

	mu      sync.Mutex // guards what follows
	last    uint64
	waiting map[uint64]chan []byte
}

// openTimeout bounds the opening of a stream; the library tries again by itself.
const openTimeout = 2 * time.Second

func (t *Transport) link(uuid string) *link {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.links[uuid]
	if l == nil && t.closed {
		l = &link{t: t, err: raft.ErrTransportShutdown, ended: make(chan struct{})}
		close(l.ended)
		l.once.Do(func() {})
	} else if l == nil {
		l = &link{t: t, uuid: uuid, ready: make(chan struct{}), ended: make(chan struct{}), waiting: map[uint64]chan []byte{}}
		t.links[uuid] = l
		go l.run()
	}
	return l
}

func (l *link) run() {
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	s, err := l.t.o.Open(ctx, l.uuid, false)
	cancel()
	if err != nil {
		l.fail(fmt.Errorf("%w: %w", errUnreachable, err))
		close(l.ready)
		return
	}
	l.stream = s
	close(l.ready)
	defer s.Close()
	for !l.over() {
		frame, err := s.Recv()
		if err == nil {
			err = l.take(frame)
		}
		if err != nil {
			l.fail(err)
		}
	}
}

func (l *link) over() bool {
	select {
	case <-l.ended:
		return true
	default:
		return false
	}
}

// take hands an answer to who waits for it.
func (l *link) take(frame []byte) error {
	r := reader{b: frame}
	h, err := cutHeader(&r)
	if err != nil {
		return err
	}
	l.mu.Lock()
	waiting := l.waiting[h.id]
	delete(l.waiting, h.id)
	l.mu.Unlock()
	if waiting != nil {
		waiting <- frame
	}
	return nil
}

// fail ends the link; the next request makes another.
func (l *link) fail(err error) {
	l.once.Do(func() {
		l.err = err
		l.t.mu.Lock()
		if l.t.links[l.uuid] == l {
			delete(l.t.links, l.uuid)
		}
		l.t.mu.Unlock()
		close(l.ended)
		select {
		case <-l.ready:
			if l.stream != nil {
				l.stream.Close()
			}
		default: // run sees the end
		}
	})
}

// errUnreachable tells that a node does not take a stream now.
var errUnreachable = errors.New("node cannot be reached")

var (
	errTimeout = errors.New("no answer in time")
	errStuck   = errors.New("the stream takes no more")
)

// call sends a request and waits for its answer. payload, if not nil, completes the head.
func (t *Transport) call(ctx context.Context, to string, group uint32, head []byte, payload func([]byte) [][]byte, response any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, t.o.Timeout, errTimeout)
	defer cancel()
	frame, err := t.link(NodeOf(to)).exchange(ctx, head, payload)
	if err != nil {
		return fmt.Errorf("group %d: request to %s: %w", group, to, err)
	}
	return readAnswer(frame, response)
}

func (l *link) exchange(ctx context.Context, head []byte, payload func([]byte) [][]byte) ([]byte, error) {
	select {
	case <-l.ready:
	case <-l.ended:
		return nil, l.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	id, answer := l.expect()
	le.PutUint64(head[8:], id)
	parts := [][]byte{head}
	if payload != nil {
		parts = payload(head)
	}
	if err := l.send(parts); err != nil {
		l.fail(err)
		return nil, l.err // what ended the link first: Send fails because of it
	}
	select {
	case frame := <-answer:
		return frame, nil
	case <-l.ended:
		return nil, l.err
	case <-ctx.Done():
		l.mu.Lock()
		delete(l.waiting, id)
		l.mu.Unlock()
		return nil, context.Cause(ctx)
	}
}

// expect makes a place for the answer to a request.
func (l *link) expect() (id uint64, answer chan []byte) {
	answer = make(chan []byte, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	l.waiting[l.last] = answer
	return l.last, answer
}

func (l *link) send(parts [][]byte) error {
	l.sending.Lock()
	defer l.sending.Unlock()
	if l.over() {
		return l.err
	}
	stuck := time.AfterFunc(l.t.o.Timeout, func() { l.fail(errStuck) })
	defer stuck.Stop()
	return l.stream.Send(parts...)
}

// readAnswer reads an answer into the response.
func readAnswer(frame []byte, response any) error {
	r := reader{b: frame}
	h, err := cutHeader(&r)
	if err != nil {
		return err
	}
	switch h.status {
	case statusOK:
	case statusAbsent:
		return fmt.Errorf("the other node refused: %w: %s", errAbsent, r.b)
	default:
		return fmt.Errorf("the other node refused: %s", r.b)
	}
	return cutAnswer(&r, response)
}
