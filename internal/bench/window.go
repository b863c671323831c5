package bench

import "sync"

// window is the publishes of one publisher that are not confirmed. Without limit it only numbers them.
type window struct {
	limit int
	more  chan struct{} // has room for one; told when there may be room again

	mu    sync.Mutex // guards what follows
	times []int64    // when each was sent, by tag modulo its length; 0: confirmed
	first uint64     // lowest tag not confirmed
	next  uint64     // tag of the next publish
}

func newWindow(limit int) *window {
	return &window{limit: limit, more: make(chan struct{}, 1), times: make([]int64, max(limit, 1)), first: 1, next: 1}
}

// room waits until something may be published and returns how much; 0 when the connection or the run has ended.
func (w *window) room(gone, done <-chan struct{}) int {
	if w.limit == 0 {
		select {
		case <-gone:
			return 0
		default:
			return maxBatch
		}
	}
	for {
		w.mu.Lock()
		free := w.limit - int(w.next-w.first)
		w.mu.Unlock()
		if free > 0 {
			return free
		}
		select {
		case <-w.more:
		case <-gone:
			return 0
		case <-done:
			return 0
		}
	}
}

func (w *window) sent(at int64) {
	if w.limit == 0 {
		return
	}
	w.mu.Lock()
	w.times[w.next%uint64(len(w.times))] = max(at, 1)
	w.next++
	w.mu.Unlock()
}

// confirm notes the confirm of a range of publishes and calls each with the time every publish that it covers was sent.
func (w *window) confirm(first, last uint64, each func(sent int64)) (count int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for t := max(first, w.first); t <= last && t < w.next; t++ {
		slot := &w.times[t%uint64(len(w.times))]
		if *slot != 0 {
			each(*slot)
			*slot = 0
			count++
		}
	}
	for w.first < w.next && w.times[w.first%uint64(len(w.times))] == 0 {
		w.first++
	}
	return count
}

func (w *window) tell() {
	select {
	case w.more <- struct{}{}:
	default:
	}
}
