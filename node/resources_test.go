package node

import "testing"

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
