package chaos

import (
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

func TestFileKind(t *testing.T) {
	for target, want := range map[string]string{"socket:[123]": "socket", "anon_inode:[eventpoll]": "anon_inode", "/d/store/wal/0001.wal": ".wal",
		"/d/store/wal/0001.wal (deleted)": ".wal (deleted)", "/d/store/CURRENT": "CURRENT"} {
		if got := fileKind(target); got != want {
			t.Errorf("%s: %s", target, got)
		}
	}
}
