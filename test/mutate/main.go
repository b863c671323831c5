// Command mutate shows that each remedy has a test that fails without it: in a scratch copy of the sources it takes one remedy
// after the other out, runs the test that goes with it, and expects a failure.
//
//	go run ./test/mutate                  # all of them; minutes
//	go run ./test/mutate -run lease       # those whose name matches
//	go run ./test/mutate -list            # the table in docs/faults.md
//
// The exit status is 0 when every test passes with its remedy and fails without it, 1 when one does not, 2 when the tool could
// not do its work. What belongs to the tool is in main.go; the remedies are in remedies.go.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// remedy is something that keeps a promise, and the test that shows that it is needed.
type remedy struct {
	name  string // short, unique
	what  string // for readers: what it is there for
	where string // package and function
	edits []edit // take it out
	pkg   string // of the test, from the module's root
	test  string // its name
	fails string // regular expression: what the test says without the remedy; other failures show nothing
}

// edit replaces the only occurrence of a text in a file.
type edit struct{ file, old, new string }

// testTimeout bounds one run of a test; one that hangs without its remedy has failed.
const testTimeout = 4 * time.Minute

func main() {
	run := flag.String("run", "", "remedies whose name matches this regular expression; empty: all")
	list := flag.Bool("list", false, "print the table of remedies as it stands in docs/faults.md, and do nothing")
	flag.Parse()
	pattern, err := regexp.Compile(*run)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate: -run:", err)
		os.Exit(2)
	}
	if *list {
		fmt.Print(table())
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	survived, err := mutate(ctx, pattern)
	stop()
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(2)
	case survived > 0:
		fmt.Printf("%d tests do not show that their remedy is needed\n", survived)
		os.Exit(1)
	}
}

// table is the list of remedies in Markdown.
func table() string {
	var b strings.Builder
	b.WriteString("| remedy | where | test that fails without it |\n|---|---|---|\n")
	for _, r := range remedies {
		fmt.Fprintf(&b, "| %s: %s | `%s` | `%s` `%s` |\n", r.name, r.what, r.where, r.pkg, r.test)
	}
	return b.String()
}

// mutate takes the remedies out, and returns for how many that is not noticed.
func mutate(ctx context.Context, pattern *regexp.Regexp) (survived int, err error) {
	root, err := moduleRoot()
	if err != nil {
		return 0, err
	}
	scratch, err := os.MkdirTemp("", "warren-mutate-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	if err := copySources(ctx, root, scratch); err != nil {
		return 0, err
	}
	for i := range remedies {
		r := &remedies[i]
		if !pattern.MatchString(r.name) {
			continue
		}
		began := time.Now()
		verdict, ok, err := try(ctx, scratch, r)
		if err != nil {
			return survived, fmt.Errorf("%s: %w", r.name, err)
		}
		if !ok {
			survived++
		}
		fmt.Printf("%-22s %-38s %4.0fs  %s\n", r.name, r.test, time.Since(began).Seconds(), verdict)
	}
	return survived, nil
}

// try runs a remedy's test with it and without it; ok: only the second run failed.
func try(ctx context.Context, dir string, r *remedy) (verdict string, ok bool, err error) {
	if out, failed, err := runTest(ctx, dir, r); err != nil || failed {
		return "FAILS ALSO WITH IT: " + firstFailure(out, told), false, err
	}
	undo, err := apply(dir, r.edits)
	if err != nil {
		return "", false, errors.Join(err, undo())
	}
	out, failed, err := runTest(ctx, dir, r)
	if err := errors.Join(err, undo()); err != nil {
		return "", false, err
	}
	if !failed {
		return "NOT NOTICED", false, nil
	}
	line := firstFailure(out, regexp.MustCompile(r.fails))
	if line == "" {
		return "FAILS FOR ANOTHER REASON: " + firstFailure(out, told), false, nil
	}
	return line, true, nil
}

// apply makes the edits; undo takes them back.
func apply(dir string, edits []edit) (undo func() error, err error) {
	saved := map[string][]byte{}
	undo = func() (err error) {
		for file, data := range saved {
			err = errors.Join(err, os.WriteFile(file, data, 0o600))
		}
		return err
	}
	for _, e := range edits {
		file := filepath.Join(dir, filepath.FromSlash(e.file))
		data, err := os.ReadFile(file)
		if err != nil {
			return undo, err
		}
		if n := bytes.Count(data, []byte(e.old)); n != 1 {
			return undo, fmt.Errorf("%s has %d times %q", e.file, n, e.old)
		}
		if saved[file] == nil {
			saved[file] = data
		}
		if err := os.WriteFile(file, bytes.Replace(data, []byte(e.old), []byte(e.new), 1), 0o600); err != nil {
			return undo, err
		}
	}
	return undo, nil
}

var errBuild = errors.New("it does not build")

// runTest runs the remedy's test and tells whether it failed; an error: it could not be run.
func runTest(ctx context.Context, dir string, r *remedy) (output string, failed bool, err error) {
	c := exec.CommandContext(ctx, "go", "test", "-count=1", "-vet=off", "-timeout", testTimeout.String(), "-run", "^"+r.test+"$", "./"+r.pkg)
	c.Dir = dir
	out, err := c.CombinedOutput()
	output = string(out)
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return output, false, ctx.Err()
	case strings.Contains(output, "[build failed]") || strings.Contains(output, "[setup failed]") || strings.Contains(output, "no tests to run"):
		return output, false, fmt.Errorf("%w, or there is no such test:\n%s", errBuild, output)
	case errors.As(err, &exit):
		return output, true, nil
	}
	return output, false, err
}

// told is a line that says what failed.
var told = regexp.MustCompile(`_test\.go:\d+: |^panic: |^fatal error: |deadlock`)

// firstFailure is the first line that says what failed, of those that match.
func firstFailure(output string, match *regexp.Regexp) string {
	for line := range strings.Lines(output) {
		if told.MatchString(line) && match.MatchString(line) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// copySources copies what git knows of, as it is in the working tree.
func copySources(ctx context.Context, from, to string) error {
	c := exec.CommandContext(ctx, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*.go", "go.mod", "go.sum", "*testdata*", "management/ui")
	c.Dir = from
	out, err := c.Output()
	if err != nil {
		return fmt.Errorf("list the sources: %w", err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		data, err := os.ReadFile(filepath.Join(from, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted, not committed yet
		}
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(target, data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// moduleRoot is the nearest directory upwards that has a go.mod.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod here or above")
		}
	}
}
