package raftnet

import (
	"bytes"
	"reflect"
	"runtime"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"
)

// octets gives nil instead of an empty slice: a frame does not tell them apart.
func octets(t *rapid.T, max int, label string) []byte {
	b := rapid.SliceOfN(rapid.Byte(), 0, max).Draw(t, label)
	if len(b) == 0 {
		return nil
	}
	return b
}

func number(t *rapid.T, label string) uint64 { return rapid.Uint64().Draw(t, label) }

func drawAddress(t *rapid.T) address {
	return address{
		from:     rapid.StringN(0, 50, 200).Draw(t, "from"),
		to:       rapid.StringN(0, 50, 200).Draw(t, "to"),
		protocol: raft.ProtocolVersion(rapid.IntRange(0, 3).Draw(t, "protocol")),
	}
}

func drawEntry(t *rapid.T) *raft.Log {
	e := &raft.Log{Index: number(t, "index"), Term: number(t, "term"), Type: raft.LogType(rapid.Byte().Draw(t, "type")),
		Data: octets(t, 50, "data"), Extensions: octets(t, 20, "extensions")}
	if rapid.Bool().Draw(t, "large") { // such data is not copied but a part of its own
		e.Data = bytes.Repeat([]byte{byte(e.Index)}, shared+int(e.Term%100))
	}
	if at := rapid.Int64().Draw(t, "appended at"); at != 0 {
		e.AppendedAt = time.Unix(0, at)
	}
	return e
}

// drawRequest gives a request and what it is as a frame, less its header.
func drawRequest(t *rapid.T, a *address) (kind byte, request any, frame []byte) {
	h := a.rpcHeader()
	dst := a.append(nil)
	switch kind = byte(rapid.IntRange(kindAppend, kindSnapshot).Draw(t, "kind")); kind {
	case kindAppend:
		q := &raft.AppendEntriesRequest{RPCHeader: h, Term: number(t, "term"), PrevLogEntry: number(t, "previous"), PrevLogTerm: number(t, "previous term"),
			LeaderCommitIndex: number(t, "commit"), Entries: rapid.SliceOfN(rapid.Custom(drawEntry), 0, 10).Draw(t, "entries")}
		return kind, q, bytes.Join(appendEntriesParts(dst, q), nil)
	case kindVote:
		q := &raft.RequestVoteRequest{RPCHeader: h, Term: number(t, "term"), LastLogIndex: number(t, "last"), LastLogTerm: number(t, "last term"),
			LeadershipTransfer: rapid.Bool().Draw(t, "transfer")}
		return kind, q, appendVote(dst, q)
	case kindPreVote:
		q := &raft.RequestPreVoteRequest{RPCHeader: h, Term: number(t, "term"), LastLogIndex: number(t, "last"), LastLogTerm: number(t, "last term")}
		return kind, q, appendPreVote(dst, q)
	case kindTimeout:
		return kind, &raft.TimeoutNowRequest{RPCHeader: h}, dst
	}
	q := &raft.InstallSnapshotRequest{RPCHeader: h, SnapshotVersion: raft.SnapshotVersion(rapid.IntRange(0, 255).Draw(t, "version")), Term: number(t, "term"),
		LastLogIndex: number(t, "last"), LastLogTerm: number(t, "last term"), ConfigurationIndex: number(t, "configuration index"),
		Configuration: octets(t, 100, "configuration"), Size: rapid.Int64Min(0).Draw(t, "size")}
	return kind, q, appendSnapshot(dst, q)
}

// sameNothing makes empty slices of a request nil, at whatever depth it has them.
func sameNothing(request any) any {
	switch q := request.(type) {
	case *raft.AppendEntriesRequest:
		for _, e := range q.Entries {
			if len(e.Data) == 0 {
				e.Data = nil
			}
		}
		if len(q.Entries) == 0 {
			q.Entries = nil
		}
	case *raft.InstallSnapshotRequest:
		if len(q.Configuration) == 0 {
			q.Configuration = nil
		}
	}
	return request
}

func TestRequestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := drawAddress(t)
		kind, request, payload := drawRequest(t, &a)
		sent := header{kind: kind, group: rapid.Uint32().Draw(t, "group"), id: number(t, "id")}
		frame := append(sent.append(nil), payload...)
		r := reader{b: frame}
		h, err := cutHeader(&r)
		if err != nil || h != sent {
			t.Fatalf("header %+v: %v", h, err)
		}
		to := cutAddress(&r)
		if to != a {
			t.Fatalf("address %+v, not %+v", to, a)
		}
		got, err := cutRequest(h, &r, &to)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(sameNothing(got), sameNothing(request)) {
			t.Fatalf("request %+v, not %+v", got, request)
		}
		// A frame that is shorter, or longer, makes no sense.
		if _, err := readRequest(frame[:rapid.IntRange(0, len(frame)-1).Draw(t, "cut")]); err == nil {
			t.Fatal("a frame that was cut short was read")
		}
		if _, err := readRequest(append(frame, 0)); err == nil {
			t.Fatal("a frame that is too long was read")
		}
	})
}

// readRequest reads a whole frame.
func readRequest(frame []byte) (any, error) {
	r := reader{b: frame}
	h, err := cutHeader(&r)
	if err != nil {
		return nil, err
	}
	a := cutAddress(&r)
	return cutRequest(h, &r, &a)
}

func TestAnswerRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		term, yes := number(t, "term"), rapid.Bool().Draw(t, "yes")
		pair := rapid.SampledFrom([][2]any{
			{&raft.AppendEntriesResponse{Term: term, LastLog: number(t, "last"), Success: yes, NoRetryBackoff: rapid.Bool().Draw(t, "no back-off")}, &raft.AppendEntriesResponse{}},
			{&raft.RequestVoteResponse{Term: term, Granted: yes}, &raft.RequestVoteResponse{}},
			{&raft.RequestPreVoteResponse{Term: term, Granted: yes}, &raft.RequestPreVoteResponse{}},
			{&raft.InstallSnapshotResponse{Term: term, Success: yes}, &raft.InstallSnapshotResponse{}},
			{&raft.TimeoutNowResponse{}, &raft.TimeoutNowResponse{}},
		}).Draw(t, "answer")
		sent := header{kind: kindVote, group: 3, id: term}
		frame := answerFrame(sent, pair[0], nil)
		if err := readAnswer(frame, pair[1]); err != nil || !reflect.DeepEqual(pair[0], pair[1]) {
			t.Fatalf("answer %+v, not %+v: %v", pair[1], pair[0], err)
		}
		if readAnswer(frame[:rapid.IntRange(0, len(frame)-1).Draw(t, "cut")], pair[1]) == nil || readAnswer(append(frame, 0), pair[1]) == nil {
			t.Fatal("an answer of another length was read")
		}
	})
}

// What an announced number would need must be there before room is made for it.
func TestLengthsAreCheckedBeforeAllocating(t *testing.T) {
	prefix := func(kind byte) []byte { return (&address{}).append((&header{kind: kind}).append(nil)) }
	entries := le.AppendUint32(append(prefix(kindAppend), make([]byte, 32)...), 1<<32-1)
	entriesBelowMax := le.AppendUint32(append(prefix(kindAppend), make([]byte, 32)...), maxEntries)
	oneEntry := append(le.AppendUint32(append(prefix(kindAppend), make([]byte, 32)...), 1), make([]byte, 25)...)
	for name, frame := range map[string][]byte{
		"entries":         entries,
		"entries, fewer":  entriesBelowMax,
		"data":            le.AppendUint32(le.AppendUint32(bytes.Clone(oneEntry), 1<<32-1), 0),
		"extensions":      le.AppendUint32(le.AppendUint32(bytes.Clone(oneEntry), 0), 1<<32-1),
		"both":            le.AppendUint32(le.AppendUint32(bytes.Clone(oneEntry), 1<<32-1), 1<<32-1),
		"configuration":   le.AppendUint32(append(prefix(kindSnapshot), make([]byte, 41)...), 1<<32-1),
		"negative size":   le.AppendUint32(append(append(prefix(kindSnapshot), make([]byte, 40)...), 0x80), 0),
		"text of 64 Ki":   append((&header{kind: kindVote}).append(nil), 0xff, 0xff),
		"nothing at all":  {},
		"only the header": (&header{kind: kindVote}).append(nil),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := readRequest(frame)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: read", name)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
			t.Errorf("%s: %d octets were allocated for a frame of %d", name, n, len(frame))
		}
	}
}

// FuzzRequest feeds whatever may come from a broken peer. What is read must be written as it was.
func FuzzRequest(f *testing.F) {
	a := address{"a.1", "b.1", 3}
	start := func(kind byte) []byte { return a.append((&header{kind: kind, group: 7, id: 9}).append(nil)) }
	f.Add(bytes.Join(appendEntriesParts(start(kindAppend), &raft.AppendEntriesRequest{Term: 1, Entries: []*raft.Log{
		{Index: 1, Term: 1, Data: []byte("data"), Extensions: []byte("more"), AppendedAt: time.Unix(5, 0)}, {Index: 2}}}), nil))
	f.Add(bytes.Join(appendEntriesParts(start(kindAppend), &raft.AppendEntriesRequest{Term: 1}), nil))
	f.Add(appendVote(start(kindVote), &raft.RequestVoteRequest{Term: 1, LeadershipTransfer: true}))
	f.Add(appendPreVote(start(kindPreVote), &raft.RequestPreVoteRequest{Term: 1}))
	f.Add(start(kindTimeout))
	f.Add(appendSnapshot(start(kindSnapshot), &raft.InstallSnapshotRequest{Size: 5, Configuration: []byte("members")}))
	f.Fuzz(func(t *testing.T, frame []byte) {
		request, err := readRequest(frame)
		if err != nil {
			return
		}
		var again []byte
		r := reader{b: frame}
		h, _ := cutHeader(&r)
		to := cutAddress(&r)
		dst := to.append(h.append(nil))
		switch q := request.(type) {
		case *raft.AppendEntriesRequest:
			again = bytes.Join(appendEntriesParts(dst, q), nil)
		case *raft.RequestVoteRequest:
			again = appendVote(dst, q)
		case *raft.RequestPreVoteRequest:
			again = appendPreVote(dst, q)
		case *raft.TimeoutNowRequest:
			again = dst
		case *raft.InstallSnapshotRequest:
			again = appendSnapshot(dst, q)
		}
		if len(again) != len(frame) {
			t.Fatalf("a frame of %d octets is written as %d", len(frame), len(again))
		}
		second, err := readRequest(again)
		if err != nil || !reflect.DeepEqual(request, second) {
			t.Fatalf("%+v became %+v: %v", request, second, err)
		}
	})
}

// FuzzAnswer reads an answer as each kind of response: an error or a value, no panic.
func FuzzAnswer(f *testing.F) {
	h := header{kind: kindVote, id: 4}
	f.Add(answerFrame(h, &raft.AppendEntriesResponse{Term: 1, LastLog: 2, Success: true}, nil))
	f.Add(answerFrame(h, &raft.RequestVoteResponse{Term: 1, Granted: true}, nil))
	f.Add(answerFrame(h, &raft.InstallSnapshotResponse{Term: 1}, nil))
	f.Add(answerFrame(h, &raft.TimeoutNowResponse{}, nil))
	f.Add(refusal(h, errGroupClosed))
	f.Fuzz(func(t *testing.T, frame []byte) {
		for _, response := range []any{&raft.AppendEntriesResponse{}, &raft.RequestVoteResponse{}, &raft.RequestPreVoteResponse{},
			&raft.InstallSnapshotResponse{}, &raft.TimeoutNowResponse{}} {
			if err := readAnswer(frame, response); err != nil {
				continue
			}
			var r reader
			r.b = frame
			h, _ := cutHeader(&r)
			h.kind &^= answerBit
			if again := answerFrame(h, response, nil); len(again) != len(frame) {
				t.Fatalf("a frame of %d octets is written as %d", len(frame), len(again))
			}
		}
	})
}
