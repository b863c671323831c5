package catalog

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm"
	"github.com/warrenmq/warren/raftfsm/queue"
	"google.golang.org/protobuf/proto"
)

// Restore reads a snapshot up to its end and returns the state. Damage, and what this build does not know, are errors.
func Restore(r io.Reader) (*State, error) {
	s, err := restore(&summingReader{r: bufio.NewReader(r)})
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("restore catalog: %w", err)
	}
	return s, nil
}

// summingReader checksums what is read through it.
type summingReader struct {
	r   io.Reader
	sum uint32
}

func (r *summingReader) read(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(r.r, b); err != nil {
		return nil, err
	}
	r.sum = crc32.Update(r.sum, castagnoli(), b)
	return b, nil
}

func restore(r *summingReader) (*State, error) {
	header, err := r.read(headerSize)
	if err != nil {
		return nil, err
	}
	if string(header[:len(snapshotMagic)]) != snapshotMagic || header[len(snapshotMagic)] != snapshotVersion {
		return nil, fmt.Errorf("header %q is not that of a snapshot of version %d", header[:len(snapshotMagic)+1], snapshotVersion)
	}
	s := New()
	s.index = binary.LittleEndian.Uint64(header[len(snapshotMagic)+1:])
	for {
		record, err := readRecord(r)
		if err != nil {
			return nil, err
		}
		if record == nil {
			return s, checkSum(r)
		}
		if err := s.restore(record); err != nil {
			return nil, err
		}
	}
}

func checkSum(r *summingReader) error {
	sum := r.sum
	stored, err := r.read(4)
	if err == nil && binary.LittleEndian.Uint32(stored) != sum {
		err = fmt.Errorf("checksum %x, but %x is stored", sum, stored)
	}
	return err
}

// readRecord returns nil at the end.
func readRecord(r *summingReader) (*raftv1.CatalogRecord, error) {
	length, err := r.read(4)
	if err != nil {
		return nil, err
	}
	size := binary.LittleEndian.Uint32(length)
	if size == 0 {
		return nil, nil
	}
	if size > maxRecord {
		return nil, fmt.Errorf("a record of %d bytes is larger than %d", size, maxRecord)
	}
	data, err := r.read(int(size))
	if err != nil {
		return nil, err
	}
	record := new(raftv1.CatalogRecord)
	if err := proto.Unmarshal(data, record); err != nil {
		return nil, fmt.Errorf("decode a record: %w", err)
	}
	return record, refuseUnknown(record.ProtoReflect())
}

// restore puts what a record tells into the state.
func (s *State) restore(record *raftv1.CatalogRecord) error {
	switch r := record.Record.(type) {
	case *raftv1.CatalogRecord_Cluster:
		return s.restoreCluster(r.Cluster)
	case *raftv1.CatalogRecord_Node:
		m := r.Node
		if m.Number == 0 || m.Number > uint32(maxNode) {
			return fmt.Errorf("node %d cannot be", m.Number)
		}
		s.nodes[uint16(m.Number)] = &Node{Number: uint16(m.Number), UUID: m.Uuid, Name: m.Name, Run: m.Run,
			MachineVersion: m.MachineVersion, Version: m.Version, StartedAt: m.StartedAtMillis, Leaving: m.Leaving}
	case *raftv1.CatalogRecord_Shard:
		shard := newShard(r.Shard)
		s.shards[shard.ID] = shard
	case *raftv1.CatalogRecord_User:
		s.users[r.User.Name] = &User{Name: r.User.Name, PasswordHash: r.User.PasswordHash, Tags: r.User.Tags}
	case *raftv1.CatalogRecord_Vhost:
		s.vhosts[r.Vhost.Name] = newVHost(r.Vhost.Name, r.Vhost.Description)
	default:
		return s.restoreInVHost(record)
	}
	return nil
}

func (s *State) restoreCluster(m *raftv1.ClusterRecord) error {
	if m.MachineVersion > LatestMachineVersion {
		return tooOld(m.MachineVersion)
	}
	if m.LastNode > uint32(maxNode) {
		return fmt.Errorf("node %d cannot be", m.LastNode)
	}
	s.cluster = cluster{id: m.ClusterId, shards: m.Shards, replication: m.Replication, machineVersion: m.MachineVersion,
		lastNode: uint16(m.LastNode), timeMillis: m.TimeMillis}
	for _, f := range m.Former {
		s.cluster.former = append(s.cluster.former, Former{ClusterID: f.ClusterId, Survivor: f.Survivor, RecoveredAt: f.RecoveredAtMillis})
	}
	return nil
}

func (s *State) restoreInVHost(record *raftv1.CatalogRecord) error {
	var refusal *raftfsm.Error
	switch r := record.Record.(type) {
	case *raftv1.CatalogRecord_Permission:
		refusal = s.restorePermission(r.Permission)
	case *raftv1.CatalogRecord_Exchange:
		refusal = s.restoreExchange(r.Exchange)
	case *raftv1.CatalogRecord_Queue:
		refusal = s.restoreQueue(r.Queue)
	case *raftv1.CatalogRecord_Binding:
		refusal = s.restoreBinding(r.Binding)
	default:
		return fmt.Errorf("unknown record %T", r)
	}
	if refusal != nil { // not returned as it is: a nil *raftfsm.Error in an error is not nil
		return refusal
	}
	return nil
}

func (s *State) restorePermission(m *raftv1.SetPermission) *raftfsm.Error {
	v, err := s.vhost(m.Vhost)
	if err == nil {
		err = s.user(m.User)
	}
	if err == nil {
		v.permissions[m.User] = newPermission(m)
	}
	return err
}

func (s *State) restoreExchange(m *raftv1.DeclareExchange) *raftfsm.Error {
	v, err := s.vhost(m.Vhost)
	if err != nil {
		return err
	}
	x, err := newExchange(m)
	if err == nil {
		v.exchanges[x.Name] = x
	}
	return err
}

func (s *State) restoreQueue(m *raftv1.AddQueue) *raftfsm.Error {
	v, err := s.vhost(m.Vhost)
	if err == nil {
		err = checkTable(m.Arguments)
	}
	if err == nil && (v.queues[m.Name] != nil || s.queues[queue.QueueID(m.Id)] != nil) {
		err = raftfsm.Errorf(raftfsm.Exists, "%s is there twice", queueResource(m.Vhost, m.Name))
	}
	if err == nil {
		s.putQueue(v, newQueue(m))
	}
	return err
}

func (s *State) restoreBinding(m *raftv1.Bind) *raftfsm.Error {
	v, err := s.vhost(m.Vhost)
	if err == nil {
		err = checkTable(m.Arguments)
	}
	if err != nil {
		return err
	}
	b := newBinding(m)
	if err := v.checkBinding(b); err != nil {
		return err
	}
	v.putBinding(b)
	return nil
}

// Changes lists the vhosts, exchanges, queues and bindings that there are as if they had just been added: what a reader
// of changes needs when the whole state was replaced.
func (s *State) Changes() []Change {
	var all []Change
	for v := range s.VHosts() {
		all = append(all, Change{Kind: VHostAdded, VHost: v.Name})
		for x := range v.Exchanges() {
			if x.Name != "" {
				all = append(all, Change{Kind: ExchangeAdded, VHost: v.Name, Exchange: x})
			}
		}
		for q := range v.Queues() {
			all = append(all, Change{Kind: QueueAdded, VHost: v.Name, Queue: q})
		}
		for b := range v.Bindings() {
			all = append(all, Change{Kind: BindingAdded, VHost: v.Name, Binding: b})
		}
	}
	return all
}
