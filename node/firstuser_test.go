package node

import (
	"os"
	"path/filepath"
	"testing"
)

func TestReadPassword(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	for text, want := range map[string]string{"secret": "secret", "secret\n": "secret", " two words \r\n": " two words ", "": "", "\n": ""} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readPassword(file); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	if _, err := readPassword(file + ".missing"); err == nil {
		t.Error("a file that is missing was read")
	}
}
