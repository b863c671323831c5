package broker

// fifo is a queue that keeps its memory. The zero value is empty.
type fifo[T any] struct {
	items []T
	at    int // items before it have been taken
}

func (q *fifo[T]) len() int { return len(q.items) - q.at }

func (q *fifo[T]) push(items ...T) {
	if q.at > 0 && len(q.items)+len(items) > cap(q.items) && q.at >= len(q.items)/2 {
		n := copy(q.items, q.items[q.at:])
		clear(q.items[n:])
		q.items, q.at = q.items[:n], 0
	}
	q.items = append(q.items, items...)
}

// head returns the item that is next. The queue must not be empty.
func (q *fifo[T]) head() *T { return &q.items[q.at] }

func (q *fifo[T]) pop() T {
	item := q.items[q.at]
	clear(q.items[q.at : q.at+1])
	if q.at++; q.at == len(q.items) {
		q.items, q.at = q.items[:0], 0
	}
	return item
}

// unpop puts items back before the others.
func (q *fifo[T]) unpop(items []T) {
	if q.at >= len(items) {
		q.at -= len(items)
		copy(q.items[q.at:], items)
		return
	}
	q.items = append(append(make([]T, 0, len(items)+q.len()), items...), q.items[q.at:]...)
	q.at = 0
}

// all returns what waits, in order, and empties the queue.
func (q *fifo[T]) all() []T {
	items := q.items[q.at:]
	*q = fifo[T]{}
	return items
}
