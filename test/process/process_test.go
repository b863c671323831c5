package process

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// witness is a test that notes its failures and goes on.
type witness struct {
	testing.TB
	errors string
}

func (w *witness) Errorf(format string, args ...any) { w.errors += fmt.Sprintf(format, args...) + "\n" }
func (w *witness) Failed() bool                      { return w.errors != "" }
func (w *witness) Logf(string, ...any)               {}

func (w *witness) Fatalf(format string, args ...any) { w.Errorf(format, args...) }
func (w *witness) Skipf(string, ...any)              {}

// TestWhatIsMissingFailsOnCI: elsewhere it skips.
func TestWhatIsMissingFailsOnCI(t *testing.T) {
	for ci, want := range map[string]bool{"true": true, "": false} {
		t.Setenv("CI", ci)
		w := &witness{TB: t}
		Missing(w, "a thing")
		if w.Failed() != want {
			t.Errorf("CI=%q: %q", ci, w.errors)
		}
	}
}

// TestEndsAreJudged: a node that does not end well when it is stopped, that ends unasked, or whose log tells of a panic or a race fails
// the test that started it.
func TestEndsAreJudged(t *testing.T) {
	const serves = "echo up; while :; do sleep 0.01; done"
	stop := func(n *Node) { n.Stop() }
	nothing := func(*Node) {}
	for _, c := range []struct {
		name, script string
		do           func(*Node)
		want         string
	}{
		{"stopped well", "trap 'exit 0' TERM; " + serves, stop, ""},
		{"stopped badly", "trap 'exit 3' TERM; " + serves, stop, "exit status 3 after signal terminated"},
		{"stopped without a word", serves, stop, "after signal terminated"},
		{"killed", serves, func(n *Node) { n.Kill() }, ""},
		{"killed by the end of the test", serves, nothing, ""},
		{"ended by itself", "echo up", func(n *Node) { <-n.exited }, "had ended by itself: exit status 0"},
		{"ended before it was killed", "echo up; exit 2", func(n *Node) { <-n.exited; n.Kill() }, "had ended by itself: exit status 2"},
		{"ended as it must", "echo up; exit 2", func(n *Node) { n.AwaitEnd("its end") }, ""},
		{"panic", "echo panic: oh; " + serves, nothing, "panic: oh"},
		{"fatal error", "echo fatal error: all goroutines are asleep; " + serves, nothing, "fatal error: all"},
		{"race", "echo WARNING: DATA RACE; " + serves, nothing, "DATA RACE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &witness{TB: t}
			n := &Node{Name: "n", binary: "/bin/sh", Flags: []string{"-c", c.script}, t: w, logFile: filepath.Join(t.TempDir(), "log")}
			n.start()
			Await(t, "its first word", func() bool { return strings.Contains(n.Log(), "up") })
			c.do(n)
			(&Cluster{Nodes: []*Node{n}, t: w}).stop()
			if c.want == "" && w.errors != "" || !strings.Contains(w.errors, c.want) {
				t.Errorf("said %q, want %q", w.errors, c.want)
			}
		})
	}
}
