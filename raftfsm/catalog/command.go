package catalog

import (
	"errors"
	"fmt"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Command is one entry of the catalog's log. Its proposer sets TimeMillis before it is encoded.
type Command = raftv1.CatalogCommand

// The functions from here on make commands; catalog.proto says what each means.

// CreateCluster makes the first command of a cluster.
func CreateCluster(m *raftv1.CreateCluster) *Command {
	return &Command{Command: &raftv1.CatalogCommand_CreateCluster{CreateCluster: m}}
}

// RegisterNode makes the command that begins a run of a node.
func RegisterNode(m *raftv1.RegisterNode) *Command {
	return &Command{Command: &raftv1.CatalogCommand_RegisterNode{RegisterNode: m}}
}

// AdmitNode makes the command that makes a node a member before its first run.
func AdmitNode(m *raftv1.AdmitNode) *Command {
	return &Command{Command: &raftv1.CatalogCommand_AdmitNode{AdmitNode: m}}
}

// SetLeaving makes the command that begins or calls off that a node leaves.
func SetLeaving(m *raftv1.SetLeaving) *Command {
	return &Command{Command: &raftv1.CatalogCommand_SetLeaving{SetLeaving: m}}
}

// RemoveNode makes the command that forgets a node.
func RemoveNode(m *raftv1.RemoveNode) *Command {
	return &Command{Command: &raftv1.CatalogCommand_RemoveNode{RemoveNode: m}}
}

// SessionOver makes the command that removes exclusive queues.
func SessionOver(m *raftv1.SessionOver) *Command {
	return &Command{Command: &raftv1.CatalogCommand_SessionOver{SessionOver: m}}
}

// SetReplicas makes the command that places shards.
func SetReplicas(m *raftv1.SetReplicas) *Command {
	return &Command{Command: &raftv1.CatalogCommand_SetReplicas{SetReplicas: m}}
}

// SetMachineVersion makes the command that raises the machine version.
func SetMachineVersion(m *raftv1.SetMachineVersion) *Command {
	return &Command{Command: &raftv1.CatalogCommand_SetMachineVersion{SetMachineVersion: m}}
}

// RecoverCluster makes the command that leaves a cluster to one survivor.
func RecoverCluster(m *raftv1.RecoverCluster) *Command {
	return &Command{Command: &raftv1.CatalogCommand_RecoverCluster{RecoverCluster: m}}
}

// CreateVHost makes the command that adds a vhost.
func CreateVHost(m *raftv1.CreateVHost) *Command {
	return &Command{Command: &raftv1.CatalogCommand_CreateVhost{CreateVhost: m}}
}

// DeleteVHost makes the command that removes a vhost with all that is in it.
func DeleteVHost(m *raftv1.DeleteVHost) *Command {
	return &Command{Command: &raftv1.CatalogCommand_DeleteVhost{DeleteVhost: m}}
}

// PutUser makes the command that adds a user or replaces one.
func PutUser(m *raftv1.PutUser) *Command {
	return &Command{Command: &raftv1.CatalogCommand_PutUser{PutUser: m}}
}

// DeleteUser makes the command that removes a user with the permissions.
func DeleteUser(m *raftv1.DeleteUser) *Command {
	return &Command{Command: &raftv1.CatalogCommand_DeleteUser{DeleteUser: m}}
}

// SetPermission makes the command that gives a user permissions in a vhost.
func SetPermission(m *raftv1.SetPermission) *Command {
	return &Command{Command: &raftv1.CatalogCommand_SetPermission{SetPermission: m}}
}

// ClearPermission makes the command that takes a user's permissions in a vhost.
func ClearPermission(m *raftv1.ClearPermission) *Command {
	return &Command{Command: &raftv1.CatalogCommand_ClearPermission{ClearPermission: m}}
}

// DeclareExchange makes the command that adds an exchange, or checks that the one there is the same.
func DeclareExchange(m *raftv1.DeclareExchange) *Command {
	return &Command{Command: &raftv1.CatalogCommand_DeclareExchange{DeclareExchange: m}}
}

// DeleteExchange makes the command that removes an exchange.
func DeleteExchange(m *raftv1.DeleteExchange) *Command {
	return &Command{Command: &raftv1.CatalogCommand_DeleteExchange{DeleteExchange: m}}
}

// AddQueue makes the command that names a queue.
func AddQueue(m *raftv1.AddQueue) *Command {
	return &Command{Command: &raftv1.CatalogCommand_AddQueue{AddQueue: m}}
}

// DeleteQueue makes the command that forgets queues.
func DeleteQueue(m *raftv1.DeleteQueue) *Command {
	return &Command{Command: &raftv1.CatalogCommand_DeleteQueue{DeleteQueue: m}}
}

// Bind makes the command that adds a binding.
func Bind(m *raftv1.Bind) *Command {
	return &Command{Command: &raftv1.CatalogCommand_Bind{Bind: m}}
}

// Unbind makes the command that removes a binding.
func Unbind(m *raftv1.Unbind) *Command {
	return &Command{Command: &raftv1.CatalogCommand_Unbind{Unbind: m}}
}

// maxCommandSize bounds an encoded command, in bytes.
const maxCommandSize = 4 << 20

// Encode returns the command as Apply wants it. What Apply could not read back is a *raftfsm.Error.
func Encode(cmd *Command) ([]byte, error) {
	if cmd.GetCommand() == nil {
		return nil, errors.New("encode catalog command: it is empty")
	}
	cmd, refusal := encodable(cmd)
	if refusal != nil {
		return nil, refusal
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(cmd)
	if err != nil {
		// The only thing that protobuf refuses in these messages is text that is not UTF-8.
		return nil, raftfsm.Errorf(raftfsm.PreconditionFailed, "a name or an argument is not valid UTF-8")
	}
	if len(data) > maxCommandSize {
		return nil, raftfsm.Errorf(raftfsm.PreconditionFailed, "the command takes %d bytes, more than %d", len(data), maxCommandSize)
	}
	return data, nil
}

// ProposalOf reads what tells an encoded command apart from others; 0: it says nothing.
func ProposalOf(data []byte) uint64 {
	const field = 30
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return 0
		}
		data = data[n:]
		if number == field && kind == protowire.Fixed64Type {
			v, _ := protowire.ConsumeFixed64(data)
			return v
		}
		if n = protowire.ConsumeFieldValue(number, kind, data); n < 0 {
			return 0
		}
		data = data[n:]
	}
	return 0
}

// decode reads a command. A field that this build does not know would be a meaning that it does not know, so it is an
// error too.
func decode(data []byte) (*Command, error) {
	cmd := new(Command)
	if err := proto.Unmarshal(data, cmd); err != nil {
		return nil, err
	}
	if err := refuseUnknown(cmd.ProtoReflect()); err != nil {
		return nil, err
	}
	return cmd, nil
}

func refuseUnknown(m protoreflect.Message) (err error) {
	if len(m.GetUnknown()) > 0 {
		return fmt.Errorf("%s has fields that this version does not know", m.Descriptor().FullName())
	}
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if field.Message() == nil {
			return true
		}
		if !field.IsList() {
			err = refuseUnknown(v.Message())
			return err == nil
		}
		for i := range v.List().Len() {
			if err = refuseUnknown(v.List().Get(i).Message()); err != nil {
				return false
			}
		}
		return true
	})
	return err
}
