package raftnet

import (
	"context"
	"fmt"
	"sync"
)

// maxServing bounds the requests of one stream that are being answered. A group has three to one other node at most: an
// append, a heartbeat and a vote.
const maxServing = 1024

// Serve answers the requests on a stream that another node has opened, until it ends. Each has a goroutine of its own, since
// one group's main loop may be busy with its disk while another's is not.
func (t *Transport) Serve(ctx context.Context, s Stream) {
	defer s.Close()
	var sending sync.Mutex
	slots := make(chan struct{}, maxServing)
	var serving sync.WaitGroup
	defer serving.Wait()
	done := make(chan struct{})
	defer close(done)
	stop := context.AfterFunc(ctx, s.Close)
	defer stop()
	for {
		frame, err := s.Recv()
		if err != nil {
			return
		}
		slots <- struct{}{}
		serving.Go(func() {
			defer func() { <-slots }()
			answer, ok := t.answer(frame, done)
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
func (t *Transport) answer(frame []byte, done <-chan struct{}) ([]byte, bool) {
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
	g := t.group(h.group)
	if g == nil || g.server != a.to {
		return refusal(h, fmt.Errorf("%w: seat %s of group %d", errGroupClosed, a.to, h.group)), true
	}
	response, err := g.ask(command, nil, done)
	return answerFrame(h, response, err), true
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
	return append(answerHead(h, statusError), err.Error()...)
}
