package brokerv1_test

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

// The rules are those of buf's category STANDARD that apply, but one: the folder is broker/v1 below proto/ and not
// warren/broker/v1, as all .proto files of the module have it. The check of breaking changes is buf's category WIRE_JSON:
// nothing that is in testdata/v1.binpb may go or change.

var extend = flag.Bool("extend", false, "write testdata/v1.binpb with what has been added; what it has already must still be there")

const baseline = "testdata/v1.binpb"

var files = []protoreflect.FileDescriptor{brokerv1.File_broker_v1_message_proto, brokerv1.File_broker_v1_publishing_proto,
	brokerv1.File_broker_v1_consuming_proto, brokerv1.File_broker_v1_topology_proto, brokerv1.File_broker_v1_admin_proto}

func TestNothingOfV1BreaksClients(t *testing.T) {
	data, err := os.ReadFile(baseline)
	if err != nil && !*extend {
		t.Fatal(err)
	}
	var before descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(data, &before); err != nil {
		t.Fatal(err)
	}
	for _, breach := range breaches(t, &before) {
		t.Error(breach)
	}
	if *extend && !t.Failed() {
		write(t)
	}
}

func write(t *testing.T) {
	set := &descriptorpb.FileDescriptorSet{}
	for _, f := range files {
		set.File = append(set.File, protodesc.ToFileDescriptorProto(f))
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(baseline, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// breaches lists what was there before and is not any more, or is something else.
func breaches(t *testing.T, before *descriptorpb.FileDescriptorSet) (found []string) {
	t.Helper()
	old, err := protodesc.NewFiles(before)
	if err != nil {
		t.Fatal(err)
	}
	old.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for was := range described(f) {
			now, err := protoregistry.GlobalFiles.FindDescriptorByName(was.FullName())
			if err != nil {
				found = append(found, fmt.Sprintf("%s is gone", was.FullName()))
			} else if a, b := meaning(was), meaning(now); a != b {
				found = append(found, fmt.Sprintf("%s was %s and is %s", was.FullName(), a, b))
			}
		}
		return true
	})
	return found
}

// described yields everything that a file declares.
func described(f protoreflect.FileDescriptor) func(yield func(protoreflect.Descriptor) bool) {
	return func(yield func(protoreflect.Descriptor) bool) {
		var all []protoreflect.Descriptor
		addMessages(&all, f.Messages())
		addEnums(&all, f.Enums())
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			all = append(all, s)
			for k := range s.Methods().Len() {
				all = append(all, s.Methods().Get(k))
			}
		}
		for _, d := range all {
			if !yield(d) {
				return
			}
		}
	}
}

func addMessages(all *[]protoreflect.Descriptor, ms protoreflect.MessageDescriptors) {
	for i := range ms.Len() {
		m := ms.Get(i)
		*all = append(*all, m)
		for k := range m.Fields().Len() {
			*all = append(*all, m.Fields().Get(k))
		}
		addMessages(all, m.Messages())
		addEnums(all, m.Enums())
	}
}

func addEnums(all *[]protoreflect.Descriptor, es protoreflect.EnumDescriptors) {
	for i := range es.Len() {
		e := es.Get(i)
		*all = append(*all, e)
		for k := range e.Values().Len() {
			*all = append(*all, e.Values().Get(k))
		}
	}
}

// meaning is what clients rely on.
func meaning(d protoreflect.Descriptor) string {
	switch d := d.(type) {
	case protoreflect.FieldDescriptor:
		kind := d.Kind().String()
		switch d.Kind() {
		case protoreflect.MessageKind:
			kind = string(d.Message().FullName())
		case protoreflect.EnumKind:
			kind = string(d.Enum().FullName())
		}
		oneof := ""
		if o := d.ContainingOneof(); o != nil {
			oneof = string(o.Name())
		}
		return fmt.Sprintf("field %d %s %s json %s presence %t oneof %q", d.Number(), d.Cardinality(), kind, d.JSONName(), d.HasPresence(), oneof)
	case protoreflect.EnumValueDescriptor:
		return fmt.Sprintf("value %d", d.Number())
	case protoreflect.MethodDescriptor:
		return fmt.Sprintf("method (stream %t %s) (stream %t %s)", d.IsStreamingClient(), d.Input().FullName(), d.IsStreamingServer(), d.Output().FullName())
	}
	return fmt.Sprintf("%T", d)
}

func TestABreakingChangeIsFound(t *testing.T) {
	set := &descriptorpb.FileDescriptorSet{}
	for _, f := range files {
		set.File = append(set.File, protodesc.ToFileDescriptorProto(f))
	}
	if found := breaches(t, set); len(found) > 0 {
		t.Fatalf("the same is not the same: %v", found)
	}
	m := set.File[0].MessageType[0] // Message
	m.Field[0].Type = descriptorpb.FieldDescriptorProto_TYPE_BYTES.Enum()
	m.Field[1].Number = proto.Int32(77)
	m.Field = append(m.Field, &descriptorpb.FieldDescriptorProto{Name: proto.String("old"), Number: proto.Int32(78), Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(), Type: descriptorpb.FieldDescriptorProto_TYPE_BYTES.Enum(), JsonName: proto.String("old")})
	set.File[1].Service[0].Method[0].ServerStreaming = proto.Bool(false)
	if found := breaches(t, set); len(found) != 4 {
		t.Errorf("found %q", found)
	}
}

var (
	snake  = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)
	pascal = regexp.MustCompile(`^([A-Z][a-z0-9]+)+$`)
	upper  = regexp.MustCompile(`^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*$`)
)

func TestLint(t *testing.T) {
	used := map[protoreflect.FullName]string{}
	for _, f := range files {
		if f.Package() != "warren.broker.v1" {
			t.Errorf("%s: package %s", f.Path(), f.Package())
		}
		if name, ok := strings.CutSuffix(strings.TrimPrefix(f.Path(), "broker/v1/"), ".proto"); !ok || !snake.MatchString(name) {
			t.Errorf("%s: file name", f.Path())
		}
		for d := range described(f) {
			lint(t, d, used)
		}
	}
}

func lint(t *testing.T, d protoreflect.Descriptor, used map[protoreflect.FullName]string) {
	name := string(d.Name())
	ok := true
	switch d := d.(type) {
	case protoreflect.MessageDescriptor:
		ok = pascal.MatchString(name) || d.IsMapEntry()
	case protoreflect.FieldDescriptor:
		ok = snake.MatchString(name)
	case protoreflect.EnumDescriptor:
		ok = pascal.MatchString(name) && strings.HasSuffix(string(d.Values().ByNumber(0).Name()), "_UNSPECIFIED")
	case protoreflect.EnumValueDescriptor:
		ok = upper.MatchString(name) && strings.HasPrefix(name, prefix(string(d.Parent().Name())))
	case protoreflect.ServiceDescriptor:
		ok = pascal.MatchString(name) && strings.HasSuffix(name, "Service")
	case protoreflect.MethodDescriptor:
		service := string(d.Parent().Name())
		ok = pascal.MatchString(name) && slices.Contains([]string{name + "Request", service + name + "Request"}, string(d.Input().Name())) &&
			slices.Contains([]string{name + "Response", service + name + "Response"}, string(d.Output().Name()))
		for _, m := range []protoreflect.MessageDescriptor{d.Input(), d.Output()} {
			if other := used[m.FullName()]; other != "" {
				t.Errorf("%s is used by %s and %s", m.FullName(), other, d.FullName())
			}
			used[m.FullName()] = string(d.FullName())
		}
	}
	if !ok {
		t.Errorf("%s breaks a rule of names", d.FullName())
	}
}

// prefix turns DestinationType into DESTINATION_TYPE_.
func prefix(enum string) string {
	return strings.ToUpper(regexp.MustCompile(`([a-z0-9])([A-Z])`).ReplaceAllString(enum, "${1}_${2}")) + "_"
}
