package broker

import (
	"context"
	"sync"
)

// window bounds what a connection has published and not yet seen applied, in bytes and messages. A batch enters while
// there is room, so that the last one may go beyond the bound by its size.
type window struct {
	maxBytes, maxBehind, maxMessages int

	mu              sync.Mutex // guards what follows
	bytes, messages int
	behind          bool          // maxBehind bounds the bytes instead of maxBytes
	room            chan struct{} // closed when there is room again; nil: nobody waits
}

// enter waits for room and takes it. An empty window lets anything in.
func (w *window) enter(ctx context.Context, bytes, messages int) error {
	for {
		wait := w.tryEnter(bytes, messages)
		if wait == nil {
			return nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *window) tryEnter(bytes, messages int) (wait <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.full() {
		if w.room == nil {
			w.room = make(chan struct{})
		}
		return w.room
	}
	w.bytes += bytes
	w.messages += messages
	return nil
}

// force takes room whether there is any or not.
func (w *window) force(bytes, messages int) {
	w.mu.Lock()
	w.bytes += bytes
	w.messages += messages
	w.mu.Unlock()
}

func (w *window) full() bool {
	most := w.maxBytes
	if w.behind {
		most = w.maxBehind
	}
	return w.bytes >= most || w.messages >= w.maxMessages
}

// done is leave for what was applied. behind tells whether consumers of its shard wait for their settles.
func (w *window) done(bytes, messages int, behind bool) {
	w.mu.Lock()
	w.behind = behind
	w.mu.Unlock()
	w.leave(bytes, messages)
}

func (w *window) leave(bytes, messages int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bytes -= bytes
	w.messages -= messages
	if w.room != nil && !w.full() {
		close(w.room)
		w.room = nil
	}
}
