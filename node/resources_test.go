package node

import (
	"log/slog"
	"testing"
	"testing/synctest"

	"github.com/warrenmq/warren/config"
	"github.com/warrenmq/warren/storage"
	"github.com/warrenmq/warren/storage/vfs"
)

func TestAlarmReasons(t *testing.T) {
	for _, c := range []struct {
		memory, disk bool
		want         string
	}{{false, false, ""}, {true, false, "low on memory"}, {false, true, "low on disk"}, {true, true, "low on memory & disk"}} {
		if got := alarm(c.memory, c.disk); got != c.want {
			t.Errorf("memory %v, disk %v: %q, want %q", c.memory, c.disk, got, c.want)
		}
	}
}

func TestAnyAlarm(t *testing.T) {
	for want, reasons := range map[string][]string{
		"": {"", ""}, "low on memory": {"", "low on memory"}, "low on disk": {"low on disk", "low on disk"},
		"low on memory & disk": {"low on disk", "", "low on memory"},
	} {
		if got := anyAlarm(reasons); got != want {
			t.Errorf("%q: %q, want %q", reasons, got, want)
		}
	}
}

// TestNoRoomForTheLog: the disk counts as low while there is no room for the log's next file, however low the limit is, and no longer.
func TestNoRoomForTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		mem.SetCapacity(100 << 10) // for one file
		n := newNode(&config.Server{DataDir: t.TempDir()}, slog.New(slog.DiscardHandler))
		var err error
		if n.store, err = storage.Open(storage.Options{Dir: "d", FS: mem, WALFileSize: 64 << 10}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			synctest.Wait()
			if !n.diskLow() {
				t.Fatal("no alarm, and the log will be full")
			}
		}
		mem.SetCapacity(0)
		n.diskLow()
		synctest.Wait()
		if n.diskLow() {
			t.Error("the alarm stays though there is room")
		}
		if err := n.store.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestTheMachineTells(t *testing.T) {
	if total := totalMemory(); total < 64<<20 {
		t.Errorf("memory in all: %d", total)
	}
	used := usedMemory()
	block := make([]byte, 64<<20)
	for i := 0; i < len(block); i += 4096 {
		block[i] = 1
	}
	if grown := usedMemory(); grown < used+(32<<20) {
		t.Errorf("64 MiB more in use and %d became %d", used, grown)
	}
	if block[4096] != 1 {
		t.Fatal("unreachable: keeps the block alive")
	}
	free, _, err := diskSpace(t.TempDir())
	if err != nil || free <= 0 {
		t.Errorf("free disk: %d, %v", free, err)
	}
}

// TestRest: garbage is given back once after a busy time, when it is quiet, and if there is enough of it.
func TestRest(t *testing.T) {
	r := rest{kept: 20 << 20}
	allocated, calls := uint64(0), 0
	periods := func(n int, grows uint64, used int64) {
		calls = 0
		for range n {
			allocated += grows
			if r.due(allocated, used) {
				calls++
				used /= 2
				r.kept = used
			}
		}
	}
	for _, c := range []struct {
		what  string
		grows uint64
		used  int64
		want  int
	}{
		{"idle, as it began", 1000, 30 << 20, 0},
		{"busy", 100 << 20, 300 << 20, 0},
		{"quiet after it", 1000, 300 << 20, 1},
		{"still quiet, as it was left", 1000, 150 << 20, 0},
		{"emptied", 1000, 40 << 20, 0},
		{"more than after it was emptied", 1000, 140 << 20, 1},
	} {
		if periods(3*quietPeriods, c.grows, c.used); calls != c.want {
			t.Errorf("%s: given back %d times, want %d", c.what, calls, c.want)
		}
	}
	if periods(quietPeriods-1, 100<<20, 300<<20); calls != 0 {
		t.Errorf("given back while busy")
	}
	if periods(quietPeriods-1, 0, 300<<20); calls != 0 {
		t.Errorf("given back before it was quiet for long")
	}
}

func TestClientSockets(t *testing.T) {
	for _, c := range []struct {
		files uint64
		want  int
	}{{64, 32}, {1024, 512}, {20000, 17500}, {1 << 20, 2 * maxClients}, {^uint64(0), 2 * maxClients}} {
		if got := clientSockets(c.files); got != c.want {
			t.Errorf("of %d files clients get %d, want %d", c.files, got, c.want)
		}
	}
	if got := fileLimit(); got == 0 {
		t.Error("no limit on open files")
	}
}
