package raftnet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// maxServing bounds the requests of one stream that are being answered. A group has three to one other node at most (an
	// append, a heartbeat and a vote), and those that were given up and wait for a busy main loop.
	maxServing = 1024
	// presenceWait is how long a question for a seat that is not here waits for it. It must be below the asker's timeout.
	presenceWait = time.Second
)

// Serve answers the requests on a stream that another node has opened, until it ends. Each has a goroutine of its own, since
// one group's main loop may be busy with its disk while another's is not.
func (t *Transport) Serve(ctx context.Context, s Stream) {
	var sending sync.Mutex
	slots := make(chan struct{}, maxServing)
	var serving sync.WaitGroup
	defer serving.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer s.Close() // before it waits for what is being answered
	stop := context.AfterFunc(ctx, s.Close)
	defer stop()
	for {
		frame, err := s.Recv()
		if err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		serving.Go(func() {
			defer func() { <-slots }()
			answer, ok := t.answer(ctx, frame)
			if !ok {
				t.o.Logger.Warn("malformed Raft request from another node: stream closed")
				s.Close()
				return
			}
			sending.Lock()
			defer sending.Unlock()
			if err := s.Send(answer); err != nil {
				s.Close()
			}
		})
	}
}

// answer gives the answer to a request; false: it makes no sense.
func (t *Transport) answer(ctx context.Context, frame []byte) ([]byte, bool) {
	r := reader{b: frame}
	h, err := cutHeader(&r)
	if err != nil {
		return nil, false
	}
	a := cutAddress(&r)
	command, err := cutRequest(h, &r, &a)
	if err != nil || h.kind == kindSnapshot {
		return nil, false
	}
	ctx, cancel := context.WithTimeout(ctx, t.o.Timeout) // whoever asks has given up by then
	defer cancel()
	if h.kind == kindPresence {
		return t.answerPresence(ctx, h, a.to), true
	}
	g, _ := t.seat(h.group, a.to)
	if g == nil {
		return refusal(h, noSeat(h, a.to)), true
	}
	g.judge(command)
	if q, ok := command.(*raft.AppendEntriesRequest); ok {
		g.skipApplied(q)
	}
	q, vote := command.(*raft.RequestVoteRequest)
	if vote {
		g.deciding.Add(1)
		defer g.deciding.Add(-1)
	}
	response, err := g.ask(ctx, command, nil)
	if vote && err == nil {
		g.voted(q, response)
	}
	return answerFrame(h, response, err), true
}

// noSeat tells that a seat is not on this node.
func noSeat(h header, server string) error {
	return fmt.Errorf("%w: seat %s of group %d", errGroupClosed, server, h.group)
}

// answerPresence answers once a seat is here, or says after a while that it is not.
func (t *Transport) answerPresence(ctx context.Context, h header, server string) []byte {
	ctx, cancel := context.WithTimeout(ctx, presenceWait)
	defer cancel()
	for {
		g, arrived := t.seat(h.group, server)
		if g != nil {
			return answerHead(h, statusOK)
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return refusal(h, noSeat(h, server))
		}
	}
}

func answerFrame(h header, response any, err error) []byte {
	if err != nil {
		return refusal(h, err)
	}
	frame, err := appendAnswer(answerHead(h, statusOK), response)
	if err != nil {
		return refusal(h, err)
	}
	return frame
}

func answerHead(h header, status byte) []byte {
	h.kind, h.status = h.kind|answerBit, status
	return h.append(make([]byte, 0, headerSize+24))
}

func refusal(h header, err error) []byte {
	status := byte(statusError)
	if errors.Is(err, errGroupClosed) {
		status = statusAbsent
	}
	return append(answerHead(h, status), err.Error()...)
}
