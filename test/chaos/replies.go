package chaos

import (
	"strings"
	"sync"
)

// replies is what RPC clients and servers know of their open questions, by correlation id.
type replies struct {
	mu      sync.Mutex // guards what follows
	open    map[string]*reply
	asked   int
	arrives int
	returns int // replies that were returned since their client was gone
}

// reply is what its server heard of it.
type reply struct{ confirmed, returned bool }

func newReplies() *replies { return &replies{open: map[string]*reply{}} }

// expect notes a question.
func (r *replies) expect(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	r.open[id] = &reply{}
}

// sent notes what became of the server's reply. One that was returned is judged by its client, which alone knows whether
// its connection, and so its queue, still lives.
func (r *replies) sent(id string, confirmed, returned bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	open := r.open[id]
	if open == nil { // it has arrived, or its client is gone
		if returned {
			r.returns++
		}
		return
	}
	open.confirmed = open.confirmed || confirmed
	open.returned = open.returned || returned
}

// missing says what is wrong when a reply did not arrive on a connection that lived; nothing when no server has answered.
func (r *replies) missing(id string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch open := r.open[id]; {
	case open == nil:
		return ""
	case open.confirmed:
		return "the reply to " + id + " was confirmed to its server and did not arrive"
	case open.returned:
		return "the reply to " + id + " was returned as unroutable, though the connection with its queue lives"
	}
	return ""
}

// arrived notes that the client has its reply.
func (r *replies) arrived(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.arrives++
	delete(r.open, id)
}

// gone forgets the questions of a client whose reply queue is gone.
func (r *replies) gone(prefix string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range r.open {
		if strings.HasPrefix(id, prefix) {
			delete(r.open, id)
		}
	}
}
