package gossip

import (
	"bytes"
	"context"
	"encoding/base64"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func writeKeys(t *testing.T, path string, keys ...[]byte) {
	t.Helper()
	var text strings.Builder
	text.WriteString("# a comment\n\n")
	for _, k := range keys {
		text.WriteString(base64.StdEncoding.EncodeToString(k) + "\n")
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

func testKey(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

// TestKeysChange goes through the steps of a change of keys; a file that cannot be used changes nothing.
func TestKeysChange(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	synctest.Test(t, func(t *testing.T) {
		writeKeys(t, file, testKey(1))
		ring, err := openKeys(file)
		if err != nil {
			t.Fatal(err)
		}
		ctx, end := context.WithCancel(context.Background())
		defer end()
		go watchKeys(ctx, file, ring, slog.New(slog.DiscardHandler))
		for _, step := range []struct{ write, want [][]byte }{
			{[][]byte{testKey(1), testKey(2)}, [][]byte{testKey(1), testKey(2)}},
			{[][]byte{testKey(2), testKey(1)}, [][]byte{testKey(2), testKey(1)}},
			{nil, [][]byte{testKey(2), testKey(1)}},
			{[][]byte{testKey(2), testKey(3)[:31]}, [][]byte{testKey(2), testKey(1)}},
			{[][]byte{testKey(2)}, [][]byte{testKey(2)}},
		} {
			writeKeys(t, file, step.write...)
			time.Sleep(2 * readKeys)
			synctest.Wait()
			got := ring.GetKeys()
			if len(got) != len(step.want) || !bytes.Equal(got[0], step.want[0]) || !bytes.Equal(ring.GetPrimaryKey(), step.want[0]) {
				t.Fatalf("after %x: %x", step.write, got)
			}
		}
	})
}

func TestKeyFileRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	for _, text := range []string{"", "# nothing\n", "not base64!\n", base64.StdEncoding.EncodeToString(make([]byte, 20))} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openKeys(file); err == nil || text != "" && strings.Contains(err.Error(), strings.TrimSpace(text)) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := openKeys(file + "x"); err == nil {
		t.Error("a file that is not there was read")
	}
}
