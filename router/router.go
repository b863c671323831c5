// Package router holds the exchange types and a routing table that is read without a lock: bindings, routing key and
// headers in; destinations out.
//
// A Table is the routing of one virtual host. One writer at a time changes it; any number of readers look exchanges up
// and route messages meanwhile, through atomic pointers to data that never changes once it can be seen. A change copies
// the path from the root of what it touches (see trie.go), so it costs the same few microseconds whether the exchange
// has ten bindings or a million, and a reader sees the bindings of one exchange as they were at one moment.
//
// The package leaves to others: what a destination is (to it a number), declaring and checking names and permissions,
// listing bindings, durability, and removing what is auto-deleted.
package router

import "unsafe"

// Dest is a queue as its caller knows it; the router only compares it.
type Dest uint64

// Message is what routing needs to know of a message. The router neither keeps nor changes it.
type Message struct {
	RoutingKey []byte
	// CC holds further routing keys (the headers CC and BCC); nil when there are none.
	CC [][]byte
	// Headers returns the message's header table in the Go types that Args names. It is called only when a headers
	// exchange is met, and then once for each Route; nil means that there are no headers.
	Headers func() map[string]any
}

// text views bytes as a string without copying them. The result must not outlive the call it is made for.
func text(b []byte) string {
	return unsafe.String(unsafe.SliceData(b), len(b))
}

// mix spreads the bits of a number over the whole word and maps different numbers to different ones (the finalizer of
// splitmix64), so that a mixed number can stand for the number.
func mix(n uint64) uint64 {
	n += 0x9e3779b97f4a7c15
	n = (n ^ n>>30) * 0xbf58476d1ce4e5b9
	n = (n ^ n>>27) * 0x94d049bb133111eb
	return n ^ n>>31
}

func (d Dest) hash() uint64     { return mix(uint64(d)) }
func (d Dest) same(o Dest) bool { return d == o }
