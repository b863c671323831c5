package raftnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// A frame is a request or the answer to one; all integers are little endian:
//
//	request   version u8 (1) | kind u8 | zero u16 | group u32 | id u64 | from text | to text | protocol u8 | payload
//	answer    version u8 (1) | kind u8 + 128 | status u8 | zero u8 | group u32 | id u64 | payload, or a text if the status is
//	          1 (an error) or 2 (the seat is not on the node), or nothing if it is 3 (a snapshot's: the answer is still to come)
//	text      length u16 | bytes
//	append    term u64 | previous index u64 | previous term u64 | commit u64 | entries u32 | entry…
//	entry     index u64 | term u64 | appended at i64 (nanoseconds since 1970; 0: unknown) | type u8 | data u32 | extensions u32 |
//	          data | extensions
//	          answered by: term u64 | last index u64 | success u8 | no back-off u8
//	vote      term u64 | last index u64 | last term u64 | transfer u8; answered by: term u64 | granted u8
//	pre-vote  term u64 | last index u64 | last term u64;               answered by: term u64 | granted u8
//	timeout   nothing;                                                 answered by nothing
//	snapshot  snapshot version u8 | term u64 | index u64 | index's term u64 | configuration index u64 | size u64 |
//	          configuration length u32 | configuration; answered by: term u64 | success u8
//	presence  nothing;                                                 answered by nothing once the seat is there
//
// A snapshot's request is the first frame of a bulk stream; the octets follow as frames of any length, up to its size. Its status is 3
// instead of zero where the sender knows that status: it is then told every few seconds, once all octets were taken, that the group is
// still at work on them.
const (
	version = 1

	kindAppend   = 1
	kindVote     = 2
	kindPreVote  = 3
	kindTimeout  = 4
	kindSnapshot = 5
	kindPresence = 6
	answerBit    = 0x80

	statusOK      = 0
	statusError   = 1
	statusAbsent  = 2
	statusWorking = 3

	headerSize = 16
	statusAt   = 2 // where a header has the status
	entrySize  = 8 + 8 + 8 + 1 + 4 + 4
	maxEntries = 1 << 16
	// shared is the size up to which an entry's data is copied beside the heads instead of being a part of its own.
	shared = 1 << 10
)

var errMalformed = errors.New("malformed Raft frame")

var le = binary.LittleEndian

// header is what all frames begin with.
type header struct {
	kind, status byte
	group        uint32
	id           uint64
}

func (h *header) append(dst []byte) []byte {
	dst = append(dst, version, h.kind, h.status, 0)
	dst = le.AppendUint32(dst, h.group)
	return le.AppendUint64(dst, h.id)
}

// reader takes values off a frame. After an error it gives zeros.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.bad = true
		r.b = nil
	}
	if r.bad {
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) u8() byte {
	if p := r.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if p := r.take(2); p != nil {
		return le.Uint16(p)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if p := r.take(4); p != nil {
		return le.Uint32(p)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if p := r.take(8); p != nil {
		return le.Uint64(p)
	}
	return 0
}

func (r *reader) text() string { return string(r.take(int(r.u16()))) }

// err says that a frame did not hold what it should, or held more.
func (r *reader) err(what string) error {
	if r.bad || len(r.b) > 0 {
		return fmt.Errorf("%s: %w", what, errMalformed)
	}
	return nil
}

func cutHeader(r *reader) (header, error) {
	v := r.u8()
	h := header{kind: r.u8(), status: r.u8()}
	r.u8()
	h.group, h.id = r.u32(), r.u64()
	if r.bad || v != version {
		return h, fmt.Errorf("header of version %d: %w", v, errMalformed)
	}
	return h, nil
}

func appendText(dst []byte, s string) []byte {
	dst = le.AppendUint16(dst, uint16(len(s)))
	return append(dst, s...)
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// address is whom a request is from and for, beside its header.
type address struct {
	from, to string
	protocol raft.ProtocolVersion
}

func (a *address) append(dst []byte) []byte {
	dst = appendText(appendText(dst, a.from), a.to)
	return append(dst, byte(a.protocol))
}

func cutAddress(r *reader) address {
	return address{r.text(), r.text(), raft.ProtocolVersion(r.u8())}
}

// rpcHeader is the sender as the Raft library wants it.
func (a *address) rpcHeader() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: a.protocol, ID: []byte(a.from), Addr: []byte(a.from)}
}

// appendEntriesParts is the payload behind a head that is made already; large entries are not copied.
func appendEntriesParts(head []byte, q *raft.AppendEntriesRequest) [][]byte {
	for _, n := range []uint64{q.Term, q.PrevLogEntry, q.PrevLogTerm, q.LeaderCommitIndex} {
		head = le.AppendUint64(head, n)
	}
	head = le.AppendUint32(head, uint32(len(q.Entries)))
	var parts [][]byte
	for _, e := range q.Entries {
		head = appendEntryHead(head, e)
		if len(e.Data) <= shared {
			head = append(head, e.Data...)
		} else {
			parts = append(parts, head, e.Data)
			head = make([]byte, 0, len(e.Extensions)+entrySize+shared)
		}
		head = append(head, e.Extensions...)
	}
	return append(parts, head)
}

func appendEntryHead(dst []byte, e *raft.Log) []byte {
	dst = le.AppendUint64(dst, e.Index)
	dst = le.AppendUint64(dst, e.Term)
	at := int64(0)
	if !e.AppendedAt.IsZero() {
		at = e.AppendedAt.UnixNano()
	}
	dst = le.AppendUint64(dst, uint64(at))
	dst = append(dst, byte(e.Type))
	dst = le.AppendUint32(dst, uint32(len(e.Data)))
	return le.AppendUint32(dst, uint32(len(e.Extensions)))
}

func cutAppend(r *reader, a *address) (*raft.AppendEntriesRequest, error) {
	q := &raft.AppendEntriesRequest{RPCHeader: a.rpcHeader()}
	q.Term, q.PrevLogEntry, q.PrevLogTerm, q.LeaderCommitIndex = r.u64(), r.u64(), r.u64(), r.u64()
	n := r.u32()
	if n > maxEntries || uint64(n)*entrySize > uint64(len(r.b)) {
		return nil, fmt.Errorf("%d entries in %d octets: %w", n, len(r.b), errMalformed)
	}
	logs := make([]raft.Log, n)
	q.Entries = make([]*raft.Log, n)
	for i := range logs {
		cutEntry(r, &logs[i])
		q.Entries[i] = &logs[i]
	}
	return q, r.err("entries to append")
}

func cutEntry(r *reader, e *raft.Log) {
	e.Index, e.Term = r.u64(), r.u64()
	if at := int64(r.u64()); at != 0 {
		e.AppendedAt = time.Unix(0, at)
	}
	e.Type = raft.LogType(r.u8())
	data, extensions := r.u32(), r.u32()
	if uint64(data)+uint64(extensions) > uint64(len(r.b)) {
		r.bad = true
		return
	}
	e.Data = r.take(int(data))
	if extensions > 0 {
		e.Extensions = r.take(int(extensions))
	}
}

func appendVote(dst []byte, q *raft.RequestVoteRequest) []byte {
	dst = le.AppendUint64(dst, q.Term)
	dst = le.AppendUint64(dst, q.LastLogIndex)
	dst = le.AppendUint64(dst, q.LastLogTerm)
	return append(dst, flag(q.LeadershipTransfer))
}

func cutVote(r *reader, a *address) (*raft.RequestVoteRequest, error) {
	q := &raft.RequestVoteRequest{RPCHeader: a.rpcHeader()}
	q.Term, q.LastLogIndex, q.LastLogTerm, q.LeadershipTransfer = r.u64(), r.u64(), r.u64(), r.u8() == 1
	return q, r.err("request for a vote")
}

func appendPreVote(dst []byte, q *raft.RequestPreVoteRequest) []byte {
	dst = le.AppendUint64(dst, q.Term)
	dst = le.AppendUint64(dst, q.LastLogIndex)
	return le.AppendUint64(dst, q.LastLogTerm)
}

func cutPreVote(r *reader, a *address) (*raft.RequestPreVoteRequest, error) {
	q := &raft.RequestPreVoteRequest{RPCHeader: a.rpcHeader()}
	q.Term, q.LastLogIndex, q.LastLogTerm = r.u64(), r.u64(), r.u64()
	return q, r.err("request for a pre-vote")
}

func appendSnapshot(dst []byte, q *raft.InstallSnapshotRequest) []byte {
	dst = append(dst, byte(q.SnapshotVersion))
	for _, n := range []uint64{q.Term, q.LastLogIndex, q.LastLogTerm, q.ConfigurationIndex, uint64(q.Size)} {
		dst = le.AppendUint64(dst, n)
	}
	dst = le.AppendUint32(dst, uint32(len(q.Configuration)))
	return append(dst, q.Configuration...)
}

func cutSnapshot(r *reader, a *address) (*raft.InstallSnapshotRequest, error) {
	q := &raft.InstallSnapshotRequest{RPCHeader: a.rpcHeader(), SnapshotVersion: raft.SnapshotVersion(r.u8())}
	q.Term, q.LastLogIndex, q.LastLogTerm, q.ConfigurationIndex, q.Size = r.u64(), r.u64(), r.u64(), r.u64(), int64(r.u64())
	q.Configuration = r.take(int(min(uint64(r.u32()), uint64(len(r.b))+1)))
	if q.Size < 0 {
		r.bad = true
	}
	return q, r.err("announcement of a snapshot")
}

// cutRequest reads the payload of a request.
func cutRequest(h header, r *reader, a *address) (any, error) {
	switch h.kind {
	case kindAppend:
		return cutAppend(r, a)
	case kindVote:
		return cutVote(r, a)
	case kindPreVote:
		return cutPreVote(r, a)
	case kindTimeout:
		return &raft.TimeoutNowRequest{RPCHeader: a.rpcHeader()}, r.err("request to campaign")
	case kindSnapshot:
		return cutSnapshot(r, a)
	case kindPresence:
		return nil, r.err("question for a seat")
	}
	return nil, fmt.Errorf("request of kind %d: %w", h.kind, errMalformed)
}

// appendAnswer writes the payload of an answer.
func appendAnswer(dst []byte, response any) ([]byte, error) {
	switch p := response.(type) {
	case *raft.AppendEntriesResponse:
		dst = le.AppendUint64(dst, p.Term)
		dst = le.AppendUint64(dst, p.LastLog)
		return append(dst, flag(p.Success), flag(p.NoRetryBackoff)), nil
	case *raft.RequestVoteResponse:
		return append(le.AppendUint64(dst, p.Term), flag(p.Granted)), nil
	case *raft.RequestPreVoteResponse:
		return append(le.AppendUint64(dst, p.Term), flag(p.Granted)), nil
	case *raft.InstallSnapshotResponse:
		return append(le.AppendUint64(dst, p.Term), flag(p.Success)), nil
	case *raft.TimeoutNowResponse:
		return dst, nil
	}
	return dst, fmt.Errorf("the Raft library answered with a %T", response)
}

// cutAnswer reads the payload of an answer into the response that the library waits for.
func cutAnswer(r *reader, response any) error {
	switch p := response.(type) {
	case *raft.AppendEntriesResponse:
		p.Term, p.LastLog, p.Success, p.NoRetryBackoff = r.u64(), r.u64(), r.u8() == 1, r.u8() == 1
	case *raft.RequestVoteResponse:
		p.Term, p.Granted = r.u64(), r.u8() == 1
	case *raft.RequestPreVoteResponse:
		p.Term, p.Granted = r.u64(), r.u8() == 1
	case *raft.InstallSnapshotResponse:
		p.Term, p.Success = r.u64(), r.u8() == 1
	case *raft.TimeoutNowResponse, nil:
	default:
		return fmt.Errorf("answer for a %T", response)
	}
	return r.err("answer")
}
