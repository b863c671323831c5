package broker

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
)

func TestProperties(t *testing.T) {
	values := map[string]string{"content-type": "text/plain", "mode": "2", "priority": "7", "correlation-id": "c", "reply-to": "r",
		"expiration": "100", "message-id": "m", "user-id": "guest", "h.a": "1", "h.BCC": "[x,y]", "h.z": "text"}
	_, _, table := options([]string{"h.a=1", "h.BCC=[x,y]", "h.z=text"})
	raw := properties(values, table)
	var p Properties
	if err := p.Parse(raw); err != nil {
		t.Fatal(err)
	}
	if p.DeliveryMode != 2 || !p.HasPriority || p.Priority != 7 || string(p.ReplyTo) != "r" || string(p.Expiration) != "100" || string(p.UserID) != "guest" {
		t.Errorf("%+v", p)
	}
	edited := p.AppendEdited(nil, []byte("longer"), func(key []byte) bool { return string(key) == "BCC" })
	delete(values, "h.BCC")
	values["reply-to"] = "longer"
	_, _, table = options([]string{"h.a=1", "h.z=text"})
	if want := properties(values, table); !bytes.Equal(edited, want) {
		t.Errorf("edited\n%q, want\n%q", edited, want)
	}
	if same := p.AppendEdited(nil, nil, nil); !bytes.Equal(same, raw) {
		t.Errorf("edited without a change\n%q, want\n%q", same, raw)
	}
}

func TestCountHeader(t *testing.T) {
	for _, raw := range [][]byte{{0, 0}, properties(map[string]string{"content-type": "x", "mode": "1", "user-id": "u"}, nil),
		properties(map[string]string{"h.x-delivery-count": "9", "h.b": "1", "mode": "1"}, &Table{Fields: []*Field{{Key: "h.b"}, {Key: "h.x-delivery-count"}}})} {
		var p, q Properties
		if err := p.Parse(raw); err != nil {
			t.Fatal(err)
		}
		if err := q.Parse(p.AppendWithCount(nil, deliveryCountHeader, 3)); err != nil {
			t.Fatal(err)
		}
		headers := decodeTable(q.Headers, 0)
		if headers[deliveryCountHeader] != int64(3) || q.DeliveryMode != p.DeliveryMode || string(q.UserID) != string(p.UserID) {
			t.Errorf("%v %+v", headers, q)
		}
	}
}

func TestEnvelope(t *testing.T) {
	e := envelope{[]byte("exchange"), []byte("key"), []byte{0, 0}, []byte("body")}
	data := e.append(nil)
	var got envelope
	if err := got.decode(data); err != nil || !slices.EqualFunc([][]byte{e.exchange, e.routingKey, e.properties, e.body},
		[][]byte{got.exchange, got.routingKey, got.properties, got.body}, bytes.Equal) {
		t.Errorf("%q %v", got, err)
	}
	for n := range e.headSize() {
		if err := got.decode(data[:n]); err == nil {
			t.Errorf("the first %d bytes decode", n)
		}
	}
	var whole []byte
	for piece := range pieces(e.appendHead(nil), make([]byte, 3*flushSize)) {
		if len(piece) > flushSize {
			t.Errorf("piece of %d bytes", len(piece))
		}
		whole = append(whole, piece...)
	}
	if len(whole) != e.headSize()+3*flushSize || !bytes.HasPrefix(whole, e.appendHead(nil)) {
		t.Errorf("the pieces have %d bytes", len(whole))
	}
}

// FuzzProperties checks that no properties of a client break the reader, and that what it accepts survives an edit.
func FuzzProperties(f *testing.F) {
	f.Add([]byte{0, 0})
	_, _, table := options([]string{"h.CC=[x,y]", "h.z=5"})
	f.Add(properties(map[string]string{"content-type": "x", "mode": "2", "reply-to": "r", "expiration": "1", "h.CC": "[x,y]", "h.z": "5"}, table))
	deep := []byte{}
	for range 40 {
		deep = append(binary.BigEndian.AppendUint32([]byte{1, 'k', 'F'}, uint32(len(deep))), deep...)
	}
	f.Add(append(binary.BigEndian.AppendUint32([]byte{0x20, 0}, uint32(len(deep))), deep...))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var p, q Properties
		if p.Parse(raw) != nil {
			return
		}
		if _, _, err := carbonCopies(p.Headers, nil); err != nil {
			return // then the message is refused
		}
		decodeTable(p.Headers, 0)
		if same := p.AppendEdited(nil, nil, nil); !bytes.Equal(same, raw) {
			t.Fatalf("%x became %x", raw, same)
		}
		if err := q.Parse(p.AppendEdited(nil, []byte("other"), nil)); err != nil || p.replyToAt > 0 && string(q.ReplyTo) != "other" {
			t.Fatalf("reply-to %q: %v", q.ReplyTo, err)
		}
		if err := q.Parse(p.AppendWithCount(nil, "n", 1)); err != nil || decodeTable(q.Headers, 0)["n"] != int64(1) {
			t.Fatalf("count: %v", err)
		}
	})
}

func TestReplyToAddress(t *testing.T) {
	address := replyToAddress(0x8001_0000_0000_0007)
	if id, ok := parseReplyTo([]byte(address)); !ok || id != 0x8001_0000_0000_0007 {
		t.Errorf("%x %v", id, ok)
	}
	if address == replyToAddress(0x8001_0000_0000_0007) {
		t.Error("the address can be guessed")
	}
	for _, bad := range []string{"", replyToName, replyToPrefix, address + "x", address[:len(address)-1], replyToPrefix + "!!!!!!!!!!!!!!!!!!!!!!",
		replyToAddress(0x0001_0000_0000_0007)} {
		if _, ok := parseReplyTo([]byte(bad)); ok {
			t.Errorf("%q is taken for an address", bad)
		}
	}
}
