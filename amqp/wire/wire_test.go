package wire

import (
	"bytes"
	"errors"
	"io"
	"math"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// allIDs are the ids of all methods of the specification's classes.
func allIDs() []MethodID {
	var ids []MethodID
	for class := range MethodID(100) {
		for method := range MethodID(130) {
			if newMethod(class<<16|method) != nil {
				ids = append(ids, class<<16|method)
			}
		}
	}
	return ids
}

func TestMethodBytes(t *testing.T) {
	for _, c := range []struct {
		name    string
		payload string
		want    Method
	}{
		{"queue.declare", "\x00\x32\x00\x0a\x00\x00\x05hello\x0a\x00\x00\x00\x00", &QueueDeclare{Queue: "hello", Durable: true, AutoDelete: true, Arguments: Table{}}},
		{"basic.ack", "\x00\x3c\x00\x50\x00\x00\x00\x00\x00\x00\x00\x07\x01", &BasicAck{DeliveryTag: 7, Multiple: true}},
		{"connection.tune", "\x00\x0a\x00\x1e\x07\xff\x00\x02\x00\x00\x00\x3c", &ConnectionTune{ChannelMax: 2047, FrameMax: 131072, Heartbeat: 60}},
		{"exchange.unbind-ok", "\x00\x28\x00\x33", &ExchangeUnbindOk{}},
		{"basic.nack", "\x00\x3c\x00\x78\x00\x00\x00\x00\x00\x00\x00\x01\x02", &BasicNack{DeliveryTag: 1, Requeue: true}},
	} {
		m, err := ParseMethod([]byte(c.payload))
		if err != nil || !reflect.DeepEqual(m, c.want) {
			t.Errorf("%s: read %+v, %v", c.name, m, err)
		}
		if out := AppendMethod(nil, c.want); string(out) != c.payload {
			t.Errorf("%s: written %q", c.name, out)
		}
	}
	if n := len(allIDs()); n != 66 {
		t.Errorf("%d methods, want 66", n)
	}
}

func TestMethodFaults(t *testing.T) {
	for _, c := range []struct {
		name, payload string
		code          uint16
		unknown       bool
	}{
		{"short id", "\x00\x32", FrameError, false},
		{"cut short", "\x00\x32\x00\x0a\x00\x00\x05hel", FrameError, false},
		{"left over", "\x00\x28\x00\x33x", FrameError, false},
		{"unknown", "\x00\x32\x00\x63", CommandInvalid, true},
	} {
		_, err := ParseMethod([]byte(c.payload))
		var e *Error
		if !errors.As(err, &e) || e.Code != c.code || IsUnknownMethod(err) != c.unknown {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// tables draws tables with all kinds of values.
func tables(depth int) *rapid.Generator[Table] {
	return rapid.Custom(func(t *rapid.T) Table {
		table := Table{}
		for _, key := range rapid.SliceOfN(rapid.StringN(0, 10, 40), 0, 5).Draw(t, "keys") {
			table[key] = values(depth).Draw(t, "value")
		}
		return table
	})
}

func values(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		kinds := 16
		if depth == 0 {
			kinds = 14
		}
		switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
		case 0:
			return nil
		case 1:
			return rapid.Bool().Draw(t, "bool")
		case 2:
			return rapid.Int8().Draw(t, "v")
		case 3:
			return rapid.Uint8().Draw(t, "v")
		case 4:
			return rapid.Int16().Draw(t, "v")
		case 5:
			return rapid.Uint16().Draw(t, "v")
		case 6:
			return rapid.Int32().Draw(t, "v")
		case 7:
			return rapid.Uint32().Draw(t, "v")
		case 8:
			return rapid.Int64().Draw(t, "v")
		case 9:
			return Timestamp(rapid.Int64().Draw(t, "v"))
		case 10:
			return rapid.Float32().Draw(t, "v")
		case 11:
			return rapid.Float64().Draw(t, "v")
		case 12:
			return Decimal{rapid.Uint8().Draw(t, "scale"), rapid.Int32().Draw(t, "v")}
		case 13:
			return rapid.String().Draw(t, "v")
		case 14:
			return tables(depth-1).Draw(t, "v")
		}
		return rapid.SliceOfN(values(depth-1), 0, 4).Draw(t, "v")
	})
}

func TestTableRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := tables(3).Draw(t, "table")
		data := AppendTable(nil, table)
		got, err := ParseTableBody(data[4:])
		if err != nil || !reflect.DeepEqual(normal(got), normal(table)) {
			t.Fatalf("wrote %v, read %v, %v", table, got, err)
		}
		if again := AppendTable(nil, got); !bytes.Equal(again, data) {
			t.Fatal("written twice, two forms")
		}
		p := Properties{Headers: table}
		if err := CheckProperties(p.Append(nil)); err != nil {
			t.Fatal(err)
		}
	})
}

// normal makes what is equal on the wire equal to DeepEqual.
func normal(v any) any {
	switch v := v.(type) {
	case Table:
		out := map[string]any{}
		for key, value := range v {
			out[key[:min(len(key), 255)]] = normal(value)
		}
		return out
	case []any:
		out := []any{}
		for _, value := range v {
			out = append(out, normal(value))
		}
		return out
	case float32:
		return math.Float32bits(v)
	case float64:
		return math.Float64bits(v)
	}
	return v
}

func TestRabbitDialect(t *testing.T) {
	body := "\x01s" + "s\xff\xff" + "\x01l" + "l\xff\xff\xff\xff\xff\xff\xff\xff" + "\x01L" + "L\x00\x00\x00\x00\x00\x00\x00\x05" + "\x01S" + "S\x00\x00\x00\x01z" + "\x01x" + "x\x00\x00\x00\x01z"
	got, err := ParseTableBody([]byte(body))
	want := Table{"s": int16(-1), "l": int64(-1), "L": int64(5), "S": "z", "x": []byte("z")}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%v, %v", got, err)
	}
}

func TestTableFaults(t *testing.T) {
	deep := AppendTable(nil, nest(maxDepth+1))
	for name, body := range map[string]string{
		"unknown type": "\x01a?", "no value": "\x01a", "short string": "\x05a", "long string": "\x01aS\xff\xff\xff\xff",
		"inner table": "\x01aF\x00\x00\x00\x09", "too deep": string(deep[4:]), "inner value": "\x01aA\x00\x00\x00\x02It",
	} {
		var e *Error
		if _, err := ParseTableBody([]byte(body)); !errors.As(err, &e) || e.Code != SyntaxError {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func nest(depth int) Table {
	if depth == 0 {
		return Table{}
	}
	return Table{"t": nest(depth - 1)}
}

func TestPropertiesRoundTrip(t *testing.T) {
	full := Properties{ContentType: "text/plain", ContentEncoding: "utf-8", Headers: Table{"a": int32(1)}, DeliveryMode: 2, Priority: 5,
		CorrelationID: "c", ReplyTo: "r", Expiration: "60000", MessageID: "m", Timestamp: 1234567890, Type: "t", UserID: "guest", AppID: "app", ClusterID: "x"}
	for _, p := range []Properties{{}, full, {DeliveryMode: 2}, {Headers: Table{}}, {ReplyTo: strings.Repeat("r", 255)}} {
		data := p.Append(nil)
		got, err := ParseProperties(data)
		if err != nil || !reflect.DeepEqual(got, p) {
			t.Errorf("wrote %+v, read %+v, %v", p, got, err)
		}
		if err := CheckProperties(data); err != nil {
			t.Errorf("%+v: %v", p, err)
		}
		for cut := range len(data) {
			if CheckProperties(data[:cut]) == nil {
				t.Errorf("%+v: cut at %d is taken for whole", p, cut)
			}
			if _, err := ParseProperties(data[:cut]); err == nil {
				t.Errorf("%+v: cut at %d was read", p, cut)
			}
		}
	}
	for _, bad := range []string{"\x00\x01", "\x00\x02", "\x00\x00x"} {
		if CheckProperties([]byte(bad)) == nil {
			t.Errorf("%q is taken for properties", bad)
		}
	}
}

// slowly gives a few bytes at a time.
type slowly struct {
	data []byte
	step int
}

func (s *slowly) Read(p []byte) (int, error) {
	if len(s.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.data[:min(s.step, len(s.data))])
	s.data = s.data[n:]
	return n, nil
}

type frameCopy struct {
	kind    uint8
	channel uint16
	payload string
}

func scanAll(s *Scanner) ([]frameCopy, error) {
	var frames []frameCopy
	for {
		for {
			f, ok, err := s.Next()
			if err != nil {
				return frames, err
			}
			if !ok {
				break
			}
			frames = append(frames, frameCopy{f.Type, f.Channel, string(f.Payload)})
		}
		if err := s.Fill(); err != nil {
			return frames, err
		}
	}
}

func TestScannerWhateverTheSteps(t *testing.T) {
	body := bytes.Repeat([]byte("x"), 20000)
	p := Properties{DeliveryMode: 2}
	stream := AppendHeartbeat(nil)
	stream = AppendPublish(stream, 1, "ex", "key", true, false, p.Append(nil), body, 8192)
	stream = AppendPublish(stream, 7, "", "empty", false, false, nil, nil, 8192)
	stream = AppendAck(stream, 2, 9, true)
	var first []frameCopy
	for _, step := range []int{1, 2, 7, 100, 4096, 1 << 20} {
		frames, err := scanAll(NewScanner(&slowly{stream, step}, 8192))
		if err != io.EOF {
			t.Fatalf("step %d: %v", step, err)
		}
		if first == nil {
			first = frames
		}
		if len(frames) != 9 || !reflect.DeepEqual(frames, first) {
			t.Fatalf("step %d: %d frames", step, len(frames))
		}
	}
	if got := first[3].payload + first[4].payload + first[5].payload; got != string(body) {
		t.Fatalf("the body came as %d bytes", len(got))
	}
	m, err := ParsePublish([]byte(first[1].payload))
	if err != nil || string(m.Exchange) != "ex" || string(m.RoutingKey) != "key" || !m.Mandatory || m.Immediate {
		t.Fatalf("%+v, %v", m, err)
	}
	h, err := ParseContentHeader([]byte(first[2].payload))
	if err != nil || h.BodySize != 20000 || h.Class != 60 {
		t.Fatalf("%+v, %v", h, err)
	}
}

func TestFrameFaults(t *testing.T) {
	for _, c := range []struct{ name, stream, want string }{
		{"too large", "\x01\x00\x00\x00\x00\x20\x01abcdefghijklmnopqrstuvwxyz", `FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,8193,8184}`},
		{"end marker", "\x01\x00\x00\x00\x00\x00\x02\x00\x01\x07", "FRAME_ERROR - type 1, all octets = <<0,1>>: {invalid_frame_end_marker,7}"},
	} {
		_, err := scanAll(NewScanner(strings.NewReader(c.stream), 8192))
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestDeliverRoundTrip(t *testing.T) {
	data := AppendDeliver(nil, 3, "ctag", 42, true, []byte("ex"), []byte("rk"), nil, []byte("body"), 8192)
	frames, _ := scanAll(NewScanner(bytes.NewReader(data), 8192))
	m, err := ParseMethod([]byte(frames[0].payload))
	want := &BasicDeliver{ConsumerTag: "ctag", DeliveryTag: 42, Redelivered: true, Exchange: "ex", RoutingKey: "rk"}
	if err != nil || !reflect.DeepEqual(m, want) || len(frames) != 3 || frames[2].payload != "body" {
		t.Fatalf("%+v %v %v", m, err, frames)
	}
	quick, err := ParseDeliver([]byte(frames[0].payload))
	if err != nil || string(quick.ConsumerTag) != "ctag" || quick.DeliveryTag != 42 || !quick.Redelivered || string(quick.RoutingKey) != "rk" {
		t.Fatalf("%+v %v", quick, err)
	}
	data = AppendGetOk(nil, 3, 5, false, []byte("e"), []byte("k"), 9, nil, nil, 8192)
	frames, _ = scanAll(NewScanner(bytes.NewReader(data), 8192))
	if m, err := ParseMethod([]byte(frames[0].payload)); err != nil || !reflect.DeepEqual(m, &BasicGetOk{DeliveryTag: 5, Exchange: "e", RoutingKey: "k", MessageCount: 9}) {
		t.Fatalf("%+v %v", m, err)
	}
	data = AppendReturn(nil, 3, NoRoute, "NO_ROUTE", []byte("e"), []byte("k"), nil, nil, 8192)
	frames, _ = scanAll(NewScanner(bytes.NewReader(data), 8192))
	if m, err := ParseMethod([]byte(frames[0].payload)); err != nil || !reflect.DeepEqual(m, &BasicReturn{ReplyCode: 312, ReplyText: "NO_ROUTE", Exchange: "e", RoutingKey: "k"}) {
		t.Fatalf("%+v %v", m, err)
	}
}

func TestReplyTextIsCut(t *testing.T) {
	if got := ReplyText(NotFound, strings.Repeat("x", 300)); len(got) != 255 || !strings.HasPrefix(got, "NOT_FOUND - x") {
		t.Fatal(got)
	}
	if got := ReplyText(InternalError, ""); got != "INTERNAL_ERROR" {
		t.Fatal(got)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(AppendHeartbeat(nil), 3)
	f.Add(AppendPublish(nil, 1, "e", "k", true, true, []byte{0, 0}, []byte("body"), 4096), 50)
	f.Fuzz(func(t *testing.T, data []byte, step int) {
		s := NewScanner(&slowly{data, min(max(step, 1), 1<<16)}, 8192)
		if _, err := scanAll(s); err == nil {
			t.Fatal("a stream without end")
		}
		if len(s.buf) > max(readSize, 2*(8192+FrameOverhead)) {
			t.Fatalf("the buffer grew to %d", len(s.buf))
		}
	})
}

func FuzzMethods(f *testing.F) {
	for _, id := range allIDs() {
		f.Add(AppendMethod(nil, newMethod(id)))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		_, _ = ParsePublish(payload)
		_, _ = ParseAck(payload)
		_, _ = ParseDeliver(payload)
		m, err := ParseMethod(payload)
		if err != nil {
			return
		}
		again, err := ParseMethod(AppendMethod(nil, m))
		if err != nil || !bytes.Equal(AppendMethod(nil, again), AppendMethod(nil, m)) {
			t.Fatalf("%+v came back as %+v, %v", m, again, err)
		}
	})
}

func FuzzTables(f *testing.F) {
	f.Add(AppendTable(nil, Table{"a": []any{int32(1), Table{"b": nil}}, "c": Decimal{1, 2}})[4:])
	f.Fuzz(func(t *testing.T, body []byte) {
		table, err := ParseTableBody(body)
		p := Properties{Headers: table}
		if err != nil {
			return
		}
		data := AppendTable(nil, table)
		again, err := ParseTableBody(data[4:])
		if err != nil || !bytes.Equal(AppendTable(nil, again), data) {
			t.Fatalf("%v came back as %v, %v", table, again, err)
		}
		if len(data) < 1<<20 && CheckProperties(p.Append(nil)) != nil {
			t.Fatal("a table that was read is refused as headers")
		}
	})
}

func FuzzProperties(f *testing.F) {
	p := Properties{ContentType: "a", Headers: Table{"x": int8(1)}, DeliveryMode: 1, Timestamp: 5}
	f.Add(p.Append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, parseErr := ParseProperties(data)
		if checkErr := CheckProperties(data); (parseErr == nil) != (checkErr == nil) {
			t.Fatalf("parse says %v, check says %v", parseErr, checkErr)
		}
	})
}

func BenchmarkScanPublishes(b *testing.B) {
	p := Properties{DeliveryMode: 2}
	one := AppendPublish(nil, 1, "", "queue", false, false, p.Append(nil), make([]byte, 1024), 131072)
	stream := bytes.Repeat(one, 64)
	source := bytes.NewReader(stream)
	s := NewScanner(source, 131072)
	b.ReportAllocs()
	b.SetBytes(int64(len(one)))
	count := 0
	for b.Loop() {
		for {
			f, ok, err := s.Next()
			if err != nil {
				b.Fatal(err)
			}
			if !ok {
				if source.Len() == 0 {
					source.Reset(stream)
				}
				if err := s.Fill(); err != nil {
					b.Fatal(err)
				}
				continue
			}
			if f.Type == FrameMethod {
				if _, err := ParsePublish(f.Payload); err != nil {
					b.Fatal(err)
				}
			}
			if f.Type == FrameBody {
				count++
				break
			}
			if f.Type == FrameHeader {
				if _, err := ParseContentHeader(f.Payload); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
}

func BenchmarkAppendDeliver(b *testing.B) {
	body := make([]byte, 1024)
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendDeliver(buf[:0], 1, "amq.ctag-0123456789012345678901", 77, false, nil, []byte("queue"), []byte{0, 0}, body, 131072)
	}
}

// FuzzContentHeader checks that a header that is read keeps its properties.
func FuzzContentHeader(f *testing.F) {
	p := Properties{ContentType: "a", Headers: Table{"x": int8(1), "CC": []any{"k"}}, Priority: 1, Timestamp: 5}
	f.Add(append([]byte{0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5}, p.Append(nil)...))
	f.Add([]byte{0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 1, 0, 0})
	f.Add([]byte{0, 50, 0, 0})
	f.Fuzz(func(t *testing.T, payload []byte) {
		h, err := ParseContentHeader(payload)
		if err != nil || h.Class != classBasic {
			return
		}
		p, err := ParseProperties(h.Properties)
		if err != nil {
			t.Fatalf("%x was accepted: %v", h.Properties, err)
		}
		again, err := ParseProperties(p.Append(nil))
		if err != nil || !bytes.Equal(again.Append(nil), p.Append(nil)) {
			t.Fatalf("%+v came back as %+v, %v", p, again, err)
		}
	})
}

func TestShrink(t *testing.T) {
	stream := AppendPublish(nil, 1, "", "k", false, false, nil, make([]byte, 500_000), 131072)
	source := bytes.NewReader(append(stream, AppendHeartbeat(nil)...))
	s := NewScanner(source, 131072)
	frames, err := scanAll(s)
	if !errors.Is(err, io.EOF) || len(s.buf) < 131072 {
		t.Fatalf("%d frames, %v, a buffer of %d", len(frames), err, len(s.buf))
	}
	s.Shrink()
	if len(s.buf) != 0 {
		t.Errorf("a buffer of %d is left", len(s.buf))
	}
	source.Reset(AppendHeartbeat(nil))
	if err := s.Fill(); err != nil || len(s.buf) != firstBuffer {
		t.Fatalf("%v, a buffer of %d", err, len(s.buf))
	}
	s.Shrink()
	if f, ok, err := s.Next(); !ok || err != nil || f.Type != FrameHeartbeat {
		t.Errorf("%+v %v %v", f, ok, err)
	}
}
