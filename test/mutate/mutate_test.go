package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestRemediesAreCurrent holds the list against the sources: each edit finds its place, each test is there, and docs/faults.md has
// the same list. Taking the remedies out takes minutes: make mutate.
func TestRemediesAreCurrent(t *testing.T) {
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, r := range remedies {
		if names[r.name] {
			t.Errorf("%s is there twice", r.name)
		}
		names[r.name] = true
		if _, err := regexp.Compile(r.fails); err != nil || r.fails == "" {
			t.Errorf("%s: what its test says: %q, %v", r.name, r.fails, err)
		}
		for _, e := range r.edits {
			data, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(e.file)))
			if err != nil {
				t.Errorf("%s: %v", r.name, err)
			} else if n := bytes.Count(data, []byte(e.old)); n != 1 {
				t.Errorf("%s: %s has %d times %q", r.name, e.file, n, e.old)
			}
		}
		if !hasTest(t, filepath.Join(root, filepath.FromSlash(r.pkg)), r.test) {
			t.Errorf("%s: package %s has no %s", r.name, r.pkg, r.test)
		}
	}
	faults, err := os.ReadFile(filepath.Join(root, "docs", "faults.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(faults), table()) {
		t.Error("docs/faults.md has another list: see go run ./test/mutate -list")
	}
}

func hasTest(t *testing.T, dir, name string) bool {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	head := regexp.MustCompile(`(?m)^func ` + regexp.QuoteMeta(name) + `\(`)
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if head.Match(data) {
			return true
		}
	}
	return false
}
