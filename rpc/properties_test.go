package rpc

import (
	"bytes"
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

// drawValue draws a value of any kind.
func drawValue(t *rapid.T, depth int) *brokerv1.FieldValue {
	kinds := 15
	if depth < 3 {
		kinds = 17
	}
	v := &brokerv1.FieldValue{}
	switch rapid.IntRange(0, kinds).Draw(t, "kind") {
	case 0:
	case 1:
		v.Kind = &brokerv1.FieldValue_BoolValue{BoolValue: rapid.Bool().Draw(t, "v")}
	case 2:
		v.Kind = &brokerv1.FieldValue_Int64Value{Int64Value: rapid.Int64().Draw(t, "v")}
	case 3:
		v.Kind = &brokerv1.FieldValue_StringValue{StringValue: rapid.String().Draw(t, "v")}
	case 4:
		v.Kind = &brokerv1.FieldValue_DoubleValue{DoubleValue: rapid.Float64().Draw(t, "v")}
	case 5:
		v.Kind = &brokerv1.FieldValue_BytesValue{BytesValue: rapid.SliceOf(rapid.Byte()).Draw(t, "v")}
	case 6:
		v.Kind = &brokerv1.FieldValue_TimestampValue{TimestampValue: rapid.Uint64().Draw(t, "v")}
	case 7:
		v.Kind = &brokerv1.FieldValue_Int32Value{Int32Value: rapid.Int32().Draw(t, "v")}
	case 8:
		v.Kind = &brokerv1.FieldValue_Int16Value{Int16Value: int32(rapid.Int16().Draw(t, "v"))}
	case 9:
		v.Kind = &brokerv1.FieldValue_Int8Value{Int8Value: int32(rapid.Int8().Draw(t, "v"))}
	case 10:
		v.Kind = &brokerv1.FieldValue_Uint32Value{Uint32Value: rapid.Uint32().Draw(t, "v")}
	case 11:
		v.Kind = &brokerv1.FieldValue_Uint16Value{Uint16Value: uint32(rapid.Uint16().Draw(t, "v"))}
	case 12:
		v.Kind = &brokerv1.FieldValue_Uint8Value{Uint8Value: uint32(rapid.Uint8().Draw(t, "v"))}
	case 13:
		v.Kind = &brokerv1.FieldValue_FloatValue{FloatValue: rapid.Float32().Draw(t, "v")}
	case 14:
		v.Kind = &brokerv1.FieldValue_DecimalValue{DecimalValue: &brokerv1.Decimal{Scale: uint32(rapid.Uint8().Draw(t, "scale")), Unscaled: rapid.Uint32().Draw(t, "v")}}
	case 15:
		v.Kind = &brokerv1.FieldValue_OctetsValue{OctetsValue: append([]byte{0xff}, rapid.SliceOf(rapid.Byte()).Draw(t, "v")...)}
	case 16:
		a := &brokerv1.FieldArray{}
		for range rapid.IntRange(0, 3).Draw(t, "n") {
			a.Values = append(a.Values, drawValue(t, depth+1))
		}
		v.Kind = &brokerv1.FieldValue_ArrayValue{ArrayValue: a}
	case 17:
		v.Kind = &brokerv1.FieldValue_TableValue{TableValue: &brokerv1.FieldTable{Fields: drawFields(t, depth+1)}}
	}
	return v
}

func drawFields(t *rapid.T, depth int) map[string]*brokerv1.FieldValue {
	var fields map[string]*brokerv1.FieldValue
	for range rapid.IntRange(0, 4).Draw(t, "n") {
		if fields == nil {
			fields = map[string]*brokerv1.FieldValue{}
		}
		fields[rapid.StringN(0, 20, 255).Draw(t, "key")] = drawValue(t, depth)
	}
	return fields
}

func drawProperties(t *rapid.T) *brokerv1.Properties {
	text := func(name string) *string {
		if rapid.Bool().Draw(t, "has "+name) {
			return proto.String(rapid.StringN(0, 20, 255).Draw(t, name))
		}
		return nil
	}
	octet := func(name string) *uint32 {
		if rapid.Bool().Draw(t, "has "+name) {
			return proto.Uint32(uint32(rapid.Uint8().Draw(t, name)))
		}
		return nil
	}
	p := &brokerv1.Properties{ContentType: text("type"), ContentEncoding: text("encoding"), Headers: drawFields(t, 0), DeliveryMode: octet("mode"),
		Priority: octet("priority"), CorrelationId: text("correlation"), ReplyTo: text("reply"), Expiration: text("expiration"),
		MessageId: text("id"), Type: text("type"), UserId: text("user"), AppId: text("app"), ClusterId: text("cluster")}
	if rapid.Bool().Draw(t, "has time") {
		p.TimestampSeconds = proto.Uint64(rapid.Uint64().Draw(t, "time"))
	}
	return p
}

func TestPropertiesKeepEverything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawProperties(t)
		raw, err := appendProperties(nil, p)
		if err != nil {
			t.Fatal(err)
		}
		again := &brokerv1.Properties{}
		if err := readProperties(again, raw); err != nil {
			t.Fatalf("%x: %v", raw, err)
		}
		if !proto.Equal(p, again) {
			t.Fatalf("%v became %v", p, again)
		}
	})
}

func TestArgumentsKeepEverything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fields := drawFields(t, 0)
		stored, err := storedTable(fields, 0)
		if err != nil {
			t.Fatal(err)
		}
		want := &brokerv1.FieldTable{Fields: fields}
		if got := (&brokerv1.FieldTable{Fields: shownTable(stored)}); !proto.Equal(got, want) {
			t.Fatalf("%v became %v", want, got)
		}
	})
}

// TestPropertiesThatFieldsCannotSay looks at AMQP's octets that have no equal: they come along as they are.
func TestPropertiesThatFieldsCannotSay(t *testing.T) {
	for name, raw := range map[string][]byte{
		"text that is not UTF-8": {0x80, 0, 2, 0xc3, 0x28},
		"empty headers":          {0x20, 0, 0, 0, 0, 0},
		"a name twice":           {0x20, 0, 0, 0, 0, 6, 1, 'a', 'V', 1, 'a', 'V'},
		"L for l":                {0x20, 0, 0, 0, 0, 11, 1, 'a', 'L', 0, 0, 0, 0, 0, 0, 0, 7},
		"a name not UTF-8":       {0x20, 0, 0, 0, 0, 3, 1, 0xff, 'V'},
		"2 for true":             {0x20, 0, 0, 0, 0, 4, 1, 'a', 't', 2},
	} {
		p := &brokerv1.Properties{}
		if err := readProperties(p, raw); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := proto.Marshal(p); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !bytes.Equal(p.AmqpEncoded, raw) {
			t.Errorf("%s: %x became %v", name, raw, p)
		}
		if again, err := appendProperties(nil, p); err != nil || !bytes.Equal(again, raw) {
			t.Errorf("%s: sent on as %x, %v", name, again, err)
		}
	}
}

func FuzzReadProperties(f *testing.F) {
	f.Add([]byte{0x20, 0, 0, 0, 0, 4, 1, 'a', 't', 2})
	f.Fuzz(func(t *testing.T, raw []byte) {
		p := &brokerv1.Properties{}
		if readProperties(p, raw) != nil {
			return
		}
		if _, err := proto.Marshal(p); err != nil {
			t.Fatal(err)
		}
		again, err := appendProperties(nil, p)
		if err != nil {
			t.Fatal(err)
		}
		q := &brokerv1.Properties{}
		if err := readProperties(q, again); err != nil {
			t.Fatal(err)
		}
		if x, y := bytes.Clone(again), raw; len(p.AmqpEncoded) > 0 && !bytes.Equal(x, y) {
			t.Fatalf("%x became %x", raw, again)
		}
	})
}

// TestDeepHeaders: what is nested deeper than clients can read is cut in what they see, and nothing is lost.
func TestDeepHeaders(t *testing.T) {
	nested := func(levels int) *brokerv1.Properties { // tables, and here and there an array
		v := &brokerv1.FieldValue{Kind: &brokerv1.FieldValue_BoolValue{BoolValue: true}}
		for i := range levels - 1 {
			if i%7 == 6 {
				v = &brokerv1.FieldValue{Kind: &brokerv1.FieldValue_ArrayValue{ArrayValue: &brokerv1.FieldArray{Values: []*brokerv1.FieldValue{v}}}}
			} else {
				v = &brokerv1.FieldValue{Kind: &brokerv1.FieldValue_TableValue{TableValue: &brokerv1.FieldTable{Fields: map[string]*brokerv1.FieldValue{"k": v}}}}
			}
		}
		return &brokerv1.Properties{MessageId: proto.String("id"), Headers: map[string]*brokerv1.FieldValue{"k": v}}
	}
	for _, levels := range []int{1, shownDepth, shownDepth + 1, maxDepth} {
		raw, err := appendProperties(nil, nested(levels))
		if err != nil {
			t.Fatalf("%d levels: %v", levels, err)
		}
		var got brokerv1.Properties
		if err := readProperties(&got, raw); err != nil {
			t.Fatalf("%d levels: %v", levels, err)
		}
		if want := nested(levels); levels <= shownDepth && !proto.Equal(&got, want) || got.GetMessageId() != "id" || len(got.Headers) != 1 {
			t.Errorf("%d levels: read %v", levels, &got)
		}
		if cut := levels > shownDepth; cut != bytes.Equal(got.AmqpEncoded, raw) {
			t.Errorf("%d levels: encoded %x", levels, got.AmqpEncoded)
		}
		shown, err := proto.Marshal(&brokerv1.ConsumeResponse{Response: &brokerv1.ConsumeResponse_Deliveries{Deliveries: &brokerv1.Deliveries{
			Deliveries: []*brokerv1.Delivery{{Message: &brokerv1.Message{Properties: &got}}}}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := (proto.UnmarshalOptions{RecursionLimit: 100}).Unmarshal(shown, &brokerv1.ConsumeResponse{}); err != nil {
			t.Errorf("%d levels: most clients cannot read what they get: %v", levels, err)
		}
		if again, err := appendProperties(nil, &got); err != nil || !bytes.Equal(again, raw) {
			t.Errorf("%d levels: published again %x, %v", levels, again, err)
		}
	}
	if _, err := appendProperties(nil, nested(maxDepth+1)); !errors.Is(err, errTooDeep) {
		t.Errorf("one level too many: %v", err)
	}
	arguments := nested(maxDepth).Headers
	stored, err := storedTable(arguments, 0)
	if err != nil {
		t.Fatal(err)
	}
	if shown, want := shownTable(stored), (&octets{rest: mustAppend(t, arguments)}).table(0); !proto.Equal(&brokerv1.FieldTable{Fields: shown}, &brokerv1.FieldTable{Fields: want}) {
		t.Errorf("arguments are shown as %v, headers as %v", shown, want)
	}
	if _, err := storedTable(nested(maxDepth+1).Headers, 0); !errors.Is(err, errTooDeep) {
		t.Errorf("arguments of one level too many: %v", err)
	}
}

func mustAppend(t *testing.T, fields map[string]*brokerv1.FieldValue) []byte {
	t.Helper()
	raw, err := appendTable(nil, fields, 0)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
