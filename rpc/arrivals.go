package rpc

import "sync"

// readAhead is how much of a stream of messages is received before it is wanted, in bytes, and one request more.
const readAhead = 120 << 10

// arrivals are a stream's requests that have been received and not taken. Who takes them learns whether more has arrived,
// which gRPC does not tell: what has arrived together travels together, however the client has cut it into requests.
type arrivals struct {
	mu      sync.Mutex // guards what follows
	changed sync.Cond  // told of everything
	waiting []*publishRequest
	bytes   int   // of them
	err     error // why no more will come
	stopped bool  // nobody takes any more
}

func newArrivals() *arrivals {
	a := &arrivals{}
	a.changed.L = &a.mu
	return a
}

// put adds a request. It waits for room, and returns false when nobody takes any more.
func (a *arrivals) put(r *publishRequest) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.bytes >= readAhead && !a.stopped {
		a.changed.Wait()
	}
	if a.stopped {
		return false
	}
	a.waiting = append(a.waiting, r)
	a.bytes += r.size()
	a.changed.Broadcast()
	return true
}

// end tells that nothing more will come.
func (a *arrivals) end(err error) {
	a.mu.Lock()
	a.err = err
	a.changed.Broadcast()
	a.mu.Unlock()
}

// take waits for a request and returns it, and whether there is another; or why none will come.
func (a *arrivals) take() (r *publishRequest, more bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.waiting) == 0 && a.err == nil {
		a.changed.Wait()
	}
	if len(a.waiting) == 0 {
		return nil, false, a.err
	}
	r = a.waiting[0]
	a.waiting[0] = nil
	if a.waiting = a.waiting[1:]; len(a.waiting) == 0 {
		a.waiting = nil // an idle stream holds none
	}
	a.bytes -= r.size()
	a.changed.Broadcast()
	return r, len(a.waiting) > 0, nil
}

// stop lets go of what waits; nobody takes any more.
func (a *arrivals) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped = true
	for _, r := range a.waiting {
		r.release()
	}
	a.waiting = nil
	a.changed.Broadcast()
}
