// Package arrows holds the import arrows of docs/ARCHITECTURE.md against the sources.
package arrows

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/warrenmq/warren/"

// allowed is the picture: what a package (or a folder with all below it, ending in /...) may import of this module. A
// package that is not named here may not exist. Test files may import test-only packages as well.
var allowed = map[string][]string{
	"router":            {},
	"auth":              {},
	"config":            {},
	"tlsfiles":          {},
	"amqp/wire":         {},
	"amqp/wire/gen":     {},
	"storage/vfs":       {},
	"backup":            {},
	"proto/...":         {},
	"raftfsm":           {},
	"raftfsm/queue":     {"raftfsm", "proto/raft/v1"},
	"raftfsm/catalog":   {"raftfsm", "raftfsm/queue", "router", "proto/raft/v1"},
	"broker":            {"auth", "router", "raftfsm", "raftfsm/queue", "raftfsm/catalog", "proto/raft/v1"},
	"storage":           {"storage/vfs"},
	"cluster/...":       {"backup", "broker", "raftfsm", "raftfsm/queue", "raftfsm/catalog", "storage", "storage/vfs", "proto/node/v1", "proto/raft/v1", "cluster/..."},
	"amqp":              {"amqp/wire", "broker", "auth"},
	"rpc":               {"auth", "broker", "proto/broker/v1", "proto/raft/v1"},
	"client":            {"proto/broker/v1"},
	"management":        {"broker"},
	"node":              {"..."},
	"internal/bench":    {"amqp/wire", "proto/broker/v1"},
	"internal/amqptest": {"..."},
	"cmd/warren":        {"auth", "backup", "client", "config", "node", "internal/bench", "storage", "storage/vfs", "tlsfiles"},
	"internal/arrows":   {},
	"internal/freeport": {},
	"test/...":          {"..."},
}

// onlyIn names foreign packages that one folder alone may name.
var onlyIn = map[string]string{
	"github.com/hashicorp/raft":        "cluster",
	"github.com/hashicorp/raft-boltdb": "cluster",
	"github.com/hashicorp/memberlist":  "cluster",
}

// pure lists packages that decide and do nothing: they may not reach for these standard packages.
var pure = map[string]bool{"raftfsm": true, "raftfsm/queue": true, "raftfsm/catalog": true}

var impure = []string{"time", "os", "net", "context", "sync", "sync/atomic", "log", "log/slog", "math/rand", "math/rand/v2", "crypto/rand", "unsafe"}

func TestImportArrows(t *testing.T) {
	root := moduleRoot(t)
	files := 0
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && file != root || d.Name() == "node_modules" || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(file, ".go") {
			return nil
		}
		files++
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		checkFile(t, file, filepath.ToSlash(rel))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 20 {
		t.Fatalf("only %d files were read: the walk is broken", files)
	}
}

func TestAnUndrawnArrowFails(t *testing.T) {
	for _, c := range []struct {
		from, imported string
		test, want     bool
	}{
		{"router", module + "broker", false, false},
		{"amqp", module + "cluster", false, false},
		{"amqp", module + "amqp/wire", false, true},
		{"raftfsm/queue", "time", false, false},
		{"raftfsm/queue", "time", true, true},
		{"broker", "github.com/hashicorp/raft", false, false},
		{"cluster/raftnet", "github.com/hashicorp/raft", false, true},
		{"nowhere", module + "router", false, false},
	} {
		if got := mayImport(c.from, c.imported, c.test) == ""; got != c.want {
			t.Errorf("%s importing %s (test %v): allowed %v, want %v", c.from, c.imported, c.test, got, c.want)
		}
	}
}

func checkFile(t *testing.T, file, rel string) {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Errorf("%s: %v", rel, err)
		return
	}
	for _, spec := range parsed.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Errorf("%s: %v", rel, err)
			continue
		}
		if why := mayImport(path.Dir(rel), imported, strings.HasSuffix(rel, "_test.go")); why != "" {
			t.Errorf("%s imports %s: %s", rel, imported, why)
		}
	}
}

// mayImport says why folder may not import the path, or nothing.
func mayImport(folder, imported string, test bool) string {
	if !test && pure[folder] && slices.Contains(impure, imported) {
		return "the state machines are pure"
	}
	for foreign, home := range onlyIn {
		if (imported == foreign || strings.HasPrefix(imported, foreign+"/")) && folder != home && !strings.HasPrefix(folder, home+"/") {
			return "only " + home + " names it"
		}
	}
	ours, ok := strings.CutPrefix(imported, module)
	if !ok {
		return ""
	}
	entries, known := arrowsOf(folder)
	if !known {
		return "the folder is not in the picture"
	}
	for _, entry := range entries {
		if matches(entry, ours) {
			return ""
		}
	}
	if test && (strings.HasPrefix(ours, "internal/") || strings.HasPrefix(ours, "test/") || strings.HasPrefix(ours, folder) || testOnly[folder+" "+ours]) {
		return ""
	}
	return "there is no such arrow in docs/ARCHITECTURE.md"
}

// testOnly are arrows that test files alone may use.
var testOnly = map[string]bool{
	"broker amqp/wire":     true,
	"rpc amqp":             true, // to cross the two
	"client node":          true, // what it is tested with
	"client config":        true,
	"amqp proto/raft/v1":   true, // what tests of the front door declare behind its back
	"amqp raftfsm":         true,
	"amqp raftfsm/catalog": true,
	"amqp raftfsm/queue":   true,
}

func arrowsOf(folder string) ([]string, bool) {
	if entries, ok := allowed[folder]; ok {
		return entries, true
	}
	for parent := folder; parent != "."; parent = path.Dir(parent) {
		if entries, ok := allowed[parent+"/..."]; ok {
			return entries, true
		}
	}
	return nil, false
}

func matches(entry, imported string) bool {
	prefix, wild := strings.CutSuffix(entry, "...")
	if !wild {
		return entry == imported
	}
	return imported == strings.TrimSuffix(prefix, "/") || strings.HasPrefix(imported, prefix)
}

func moduleRoot(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the test")
		}
		dir = parent
	}
}
