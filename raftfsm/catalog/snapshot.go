package catalog

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"slices"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"google.golang.org/protobuf/proto"
)

// A snapshot is a header, records, and an end:
//
//	header  "warrenC" | version u8 (1) | index u64 of the last command
//	record  length u32, not 0 | CatalogRecord
//	end     length u32 (0) | CRC32C u32 of all before it
//
// All integers are little endian. The records come in this order: cluster, nodes, shards, users; then for each vhost
// itself, its permissions, exchanges, queues and bindings; each sort by key. So equal states have equal bytes.
const (
	snapshotMagic   = "warrenC"
	snapshotVersion = 1
	headerSize      = len(snapshotMagic) + 1 + 8
	maxRecord       = maxCommandSize + 1<<10
)

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// Snapshot is the state at one moment. It stays as it is while the state goes on.
type Snapshot struct {
	index  uint64
	first  cluster
	nodes  []*Node
	shards []*Shard
	users  []*User
	vhosts []vhostSnapshot
}

// vhostSnapshot is the things of a vhost: pointers to what never changes, sorted when they are written.
type vhostSnapshot struct {
	name, description string
	permissions       []*Permission
	exchanges         []*Exchange
	queues            []*Queue
	bindings          []*Binding
}

// Snapshot pins the state. It copies a pointer for each thing, some milliseconds for 100,000 of them; the work is in
// Snapshot.WriteTo, which needs no lock.
func (s *State) Snapshot() *Snapshot {
	sn := &Snapshot{
		index:  s.index,
		first:  s.cluster,
		nodes:  slices.Collect(s.Nodes()),
		shards: slices.Collect(s.Shards()),
		users:  slices.Collect(s.Users()),
	}
	for v := range s.VHosts() {
		sn.vhosts = append(sn.vhosts, vhostSnapshot{v.Name, v.Description, values(v.permissions), values(v.exchanges),
			values(v.queues), values(v.bindings)})
	}
	return sn
}

func values[K comparable, V any](m map[K]V) []V {
	all := make([]V, 0, len(m))
	for _, v := range m {
		all = append(all, v)
	}
	return all
}

// Index is the index of the last command in the snapshot.
func (sn *Snapshot) Index() uint64 { return sn.index }

// WriteTo writes the snapshot.
func (sn *Snapshot) WriteTo(w io.Writer) (int64, error) {
	out := &recordWriter{w: w, sum: crc32.New(castagnoli())}
	out.write(binary.LittleEndian.AppendUint64(append([]byte(snapshotMagic), snapshotVersion), sn.index))
	for r := range sn.records {
		out.record(r)
	}
	out.flush()
	out.write(make([]byte, 4))
	out.flush()
	out.write(binary.LittleEndian.AppendUint32(nil, out.sum.Sum32()))
	out.flush()
	if out.err != nil {
		return out.written, fmt.Errorf("write catalog snapshot %d: %w", sn.index, out.err)
	}
	return out.written, nil
}

// Hash returns a hash of the state, the same for the same catalog whatever the index.
func (s *State) Hash() ([sha256.Size]byte, error) {
	sum := sha256.New()
	out := &recordWriter{w: sum, sum: crc32.New(castagnoli())}
	for r := range s.Snapshot().records {
		out.record(r)
	}
	out.flush()
	return [sha256.Size]byte(sum.Sum(nil)), out.err
}

// recordWriter gathers records into large writes. After an error it does nothing.
type recordWriter struct {
	w       io.Writer
	sum     hash.Hash32
	buffer  []byte
	written int64
	err     error
}

const writeSize = 64 << 10

func (o *recordWriter) write(b []byte) { o.buffer = append(o.buffer, b...) }

func (o *recordWriter) record(r *raftv1.CatalogRecord) {
	if o.err != nil {
		return
	}
	start := len(o.buffer)
	o.buffer = append(o.buffer, 0, 0, 0, 0)
	o.buffer, o.err = proto.MarshalOptions{Deterministic: true}.MarshalAppend(o.buffer, r)
	if o.err != nil {
		return
	}
	binary.LittleEndian.PutUint32(o.buffer[start:], uint32(len(o.buffer)-start-4))
	if len(o.buffer) >= writeSize {
		o.flush()
	}
}

func (o *recordWriter) flush() {
	if o.err != nil {
		return
	}
	o.sum.Write(o.buffer)
	n, err := o.w.Write(o.buffer)
	o.written, o.err = o.written+int64(n), err
	o.buffer = o.buffer[:0]
}
