package raftnet

import (
	"testing"

	"github.com/hashicorp/raft"
)

// BenchmarkAppendEntries makes the frame of a request with full entries, as the leader does for each follower, and reads it, as
// a follower does. The copy is what the socket does in between.
func BenchmarkAppendEntries(b *testing.B) {
	for _, c := range []struct {
		name          string
		entries, size int
	}{{"4x256KiB", 4, 256 << 10}, {"1x1KiB", 1, 1 << 10}, {"heartbeat", 0, 0}} {
		b.Run(c.name, func(b *testing.B) {
			q := &raft.AppendEntriesRequest{RPCHeader: requestHeader("a.1"), Term: 5, PrevLogEntry: 6, PrevLogTerm: 5, LeaderCommitIndex: 6}
			for i := range c.entries {
				q.Entries = append(q.Entries, &raft.Log{Index: uint64(7 + i), Term: 5, Data: make([]byte, c.size)})
			}
			a, h := address{from: "a.1", to: "b.1"}, header{kind: kindAppend}
			frame := make([]byte, 0, c.entries*(c.size+256)+256)
			b.SetBytes(int64(c.entries * c.size))
			b.ReportAllocs()
			for b.Loop() {
				frame = frame[:0]
				for _, part := range appendEntriesParts(a.append(h.append(make([]byte, 0, 256))), q) {
					frame = append(frame, part...)
				}
				if _, err := readRequest(frame); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
