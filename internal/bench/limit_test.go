package bench

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// followerOfTest in the environment makes the test's binary a follower: its last argument is the folder.
const followerOfTest = "WARREN_TEST_LIMIT_FOLLOWER"

func TestMain(m *testing.M) {
	if os.Getenv(followerOfTest) != "" {
		if err := ServeLimit(os.Args[len(os.Args)-1], os.Stdin, os.Stdout); err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestLimitCountsWhatAMajorityHasOnDisk(t *testing.T) {
	t.Setenv(followerOfTest, "1")
	dir := t.TempDir()
	longEnough(t, func(d time.Duration) (bool, error) {
		results, err := Limit(t.Context(), LimitOptions{Dir: dir, Sizes: []int{16, 1 << 20}, Window: 2000, EntryBytes: 256 << 10, InFlight: 4,
			Follower: []string{os.Args[0]}, Warmup: 50 * time.Millisecond, Duration: d})
		if err != nil || len(results) != 2 {
			return false, err
		}
		for _, r := range results {
			if r.Messages <= 0 || r.Bytes != r.Messages*float64(r.Size) || r.LeaderSyncs <= 0 || r.FollowerSyncs <= 0 || r.CommitTime.Count == 0 || r.CommitTime.P50 == 0 {
				return false, nil
			}
		}
		return true, nil
	})
	if left, err := filepath.Glob(dir + "/*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestLimitSaysWhyAFollowerDoesNotStart(t *testing.T) {
	_, err := Limit(t.Context(), LimitOptions{Dir: t.TempDir(), Sizes: []int{16}, EntryBytes: 1024, InFlight: 1, Duration: time.Second, Follower: []string{"/nonexistent/follower"}})
	if err == nil || !strings.Contains(err.Error(), "/nonexistent/follower") {
		t.Fatalf("error %v", err)
	}
}

func TestFollowerEndsWithItsLeader(t *testing.T) {
	in, leader := io.Pipe()
	out, address := io.Pipe()
	ended := make(chan error, 1)
	dir := t.TempDir()
	go func() { ended <- ServeLimit(dir, in, address) }()
	if _, err := out.Read(make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
	if err := leader.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

func TestEntriesOfAWindow(t *testing.T) {
	o := LimitOptions{EntryBytes: 256 << 10, InFlight: 4, Window: 2000}
	for _, c := range []struct{ size, window, entry, inFlight int }{
		{16, 2000, 32000, 1},
		{16, 0, 256 << 10, 4},
		{1024, 2000, 256 << 10, 4},
		{1000, 2000, 262000, 4},
		{1024, 1, 1024, 1},
		{1 << 20, 2000, 256 << 10, 4},
	} {
		o.Window = c.window
		if entry, inFlight := o.entriesOf(c.size); entry != c.entry || inFlight != c.inFlight {
			t.Errorf("size %d, window %d: %d entries of %d, want %d of %d", c.size, c.window, inFlight, entry, c.inFlight, c.entry)
		}
	}
}

func TestLimitFileGoesRound(t *testing.T) {
	f, err := newLimitFile(filepath.Join(t.TempDir(), "entries"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.at = limitFileSize - 3
	if err := f.append([][]byte{[]byte("ab"), []byte("cd")}); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, []byte("abcd")) || f.at != 4 || f.syncs != 1 {
		t.Fatalf("read %q, at %d, %d syncs, %v", got, f.at, f.syncs, err)
	}
	if info, err := f.Stat(); err != nil || info.Size() != limitFileSize {
		t.Fatalf("size %v %v", info.Size(), err)
	}
}
