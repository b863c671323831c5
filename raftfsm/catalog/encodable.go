package catalog

import (
	"unicode/utf8"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm"
	"google.golang.org/protobuf/proto"
)

// AMQP's long strings and routing keys are octets; protobuf's strings are UTF-8. What is not UTF-8 is written as octets,
// into another field.

// encodable returns the command, or a copy of it, in a form that can be written.
func encodable(cmd *Command) (*Command, *raftfsm.Error) {
	if err := checkTable(commandArguments(cmd)); err != nil {
		return nil, err
	}
	if encodableKey(cmd) && encodableTable(commandArguments(cmd)) {
		return cmd, nil
	}
	cmd = proto.CloneOf(cmd)
	switch c := cmd.Command.(type) {
	case *raftv1.CatalogCommand_Bind:
		c.Bind.RoutingKey, c.Bind.RoutingKeyOctets = splitKey(routingKey(c.Bind))
	case *raftv1.CatalogCommand_Unbind:
		c.Unbind.RoutingKey, c.Unbind.RoutingKeyOctets = splitKey(routingKey(c.Unbind))
	}
	textToOctets(commandArguments(cmd))
	return cmd, nil
}

// keyed is Bind and Unbind.
type keyed interface {
	GetRoutingKey() string
	GetRoutingKeyOctets() []byte
}

// routingKey returns the routing key, whichever field has it.
func routingKey(m keyed) string {
	if octets := m.GetRoutingKeyOctets(); len(octets) > 0 {
		return string(octets)
	}
	return m.GetRoutingKey()
}

// splitKey returns the two fields of a routing key, one of which is empty.
func splitKey(key string) (text string, octets []byte) {
	if utf8.ValidString(key) {
		return key, nil
	}
	return "", []byte(key)
}

func encodableKey(cmd *Command) bool {
	return utf8.ValidString(cmd.GetBind().GetRoutingKey()) && utf8.ValidString(cmd.GetUnbind().GetRoutingKey())
}

// commandArguments returns the table of a command that has one.
func commandArguments(cmd *Command) *raftv1.Table {
	switch c := cmd.Command.(type) {
	case *raftv1.CatalogCommand_Bind:
		return c.Bind.GetArguments()
	case *raftv1.CatalogCommand_Unbind:
		return c.Unbind.GetArguments()
	case *raftv1.CatalogCommand_AddQueue:
		return c.AddQueue.GetArguments()
	case *raftv1.CatalogCommand_DeclareExchange:
		return c.DeclareExchange.GetArguments()
	}
	return nil
}

// encodableTable tells whether all long strings of a table are UTF-8.
func encodableTable(t *raftv1.Table) bool {
	for _, f := range t.GetFields() {
		if !encodableValue(f.GetValue()) {
			return false
		}
	}
	return true
}

func encodableValue(v *raftv1.Value) bool {
	switch x := v.GetValue().(type) {
	case *raftv1.Value_Text:
		return utf8.ValidString(x.Text)
	case *raftv1.Value_Table:
		return encodableTable(x.Table)
	case *raftv1.Value_Array:
		for _, inner := range x.Array.GetValues() {
			if !encodableValue(inner) {
				return false
			}
		}
	}
	return true
}

// textToOctets changes the long strings of a table that are not UTF-8 to octets.
func textToOctets(t *raftv1.Table) {
	for _, f := range t.GetFields() {
		valueToOctets(f.GetValue())
	}
}

func valueToOctets(v *raftv1.Value) {
	switch x := v.GetValue().(type) {
	case *raftv1.Value_Text:
		if !utf8.ValidString(x.Text) {
			v.Value = &raftv1.Value_Binary{Binary: []byte(x.Text)}
		}
	case *raftv1.Value_Table:
		textToOctets(x.Table)
	case *raftv1.Value_Array:
		for _, inner := range x.Array.GetValues() {
			valueToOctets(inner)
		}
	}
}
