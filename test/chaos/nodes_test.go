package chaos

import (
	"context"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestAGracefulEndIsJudged: SIGTERM must end a node with status 0.
func TestAGracefulEndIsJudged(t *testing.T) {
	for status, want := range map[string]string{"0": "", "3": "exit status 3"} {
		n := &Node{name: "n", binary: "/bin/sh", logPath: filepath.Join(t.TempDir(), "log"),
			flags: []string{"-c", "trap 'exit " + status + "' TERM; echo up; while :; do sleep 0.01; done"}}
		if err := n.start(nil); err != nil {
			t.Fatal(err)
		}
		defer n.kill()
		for !strings.Contains(n.logTail(1), "up") {
			time.Sleep(time.Millisecond)
		}
		switch err := n.end(syscall.SIGTERM, time.Minute); {
		case want == "" && err != nil:
			t.Error(err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("status %s: %v", status, err)
		}
	}
}

// TestASickNodeMayEnd: who waits for a node that ends since its disk is sick waits on, until it is started again; of another the end is told
// at once.
func TestASickNodeMayEnd(t *testing.T) {
	ended := make(chan struct{})
	n := &Node{name: "n", binary: "/bin/true", logPath: filepath.Join(t.TempDir(), "log"), ports: []int{1, 1, 1, 1, 1}}
	if err := n.start(func(*Node) { close(ended) }); err != nil {
		t.Fatal(err)
	}
	<-ended
	that := func(sick bool) func() bool { return func() bool { return sick } }
	if err := n.waitReady(t.Context(), that(false)); err == nil || !strings.Contains(err.Error(), "ended before it was ready") {
		t.Errorf("of a node that is well: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := n.waitReady(ctx, that(true)); err == nil || !strings.Contains(err.Error(), "is not ready") {
		t.Errorf("of a sick node: %v", err)
	}
}

func TestFileKind(t *testing.T) {
	for target, want := range map[string]string{"socket:[123]": "socket", "anon_inode:[eventpoll]": "anon_inode", "/d/store/wal/0001.wal": ".wal",
		"/d/store/wal/0001.wal (deleted)": ".wal (deleted)", "/d/store/CURRENT": "CURRENT"} {
		if got := fileKind(target); got != want {
			t.Errorf("%s: %s", target, got)
		}
	}
}
