package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/warrenmq/warren/storage"
)

// TestStorageDump prints a store, as text and as JSON, and finds a flipped bit in it.
func TestStorageDump(t *testing.T) {
	dir := t.TempDir()
	s, err := storage.Open(storage.Options{Dir: dir, WALFileSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	g, err := s.Group(1)
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= 3; i++ {
		if err := g.Append([]storage.Entry{{Index: i, Term: 1, Data: []byte("a body that is looked for")}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	dump := func(args ...string) (string, error) {
		c := storageCommand()
		var out bytes.Buffer
		c.SetOut(&out)
		c.SetErr(&out)
		c.SetArgs(append([]string{"dump", dir}, args...))
		err := c.Execute()
		return out.String(), err
	}
	text, err := dump()
	if err != nil || !bytes.Contains([]byte(text), []byte("entry      group 1  batch at")) {
		t.Fatalf("%v\n%s", err, text)
	}
	lines, err := dump("--json")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range bytes.Split(bytes.TrimSpace([]byte(lines)), []byte("\n")) {
		var l struct{ File, What string }
		if err := json.Unmarshal(line, &l); err != nil || l.File == "" || l.What == "" {
			t.Errorf("%s: %v", line, err)
		}
	}

	name := filepath.Join(dir, "wal", "0000000000000001.wal")
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data[bytes.Index(data, []byte("looked"))] ^= 1
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err := dump(); !errors.Is(err, storage.ErrCorrupt) || !bytes.Contains([]byte(text), []byte("DAMAGED")) {
		t.Errorf("%v\n%s", err, text)
	}
	if _, err := dump("--nonsense"); err == nil {
		t.Error("an unknown flag was taken")
	}
}
