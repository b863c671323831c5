package freeport

import (
	"os"
	"os/exec"
	"strconv"
	"testing"
)

// TestReserved: a port that this process has found is not found by another one, as long as this one runs.
func TestReserved(t *testing.T) {
	if port := os.Getenv("RESERVED_PORT"); port != "" {
		n, err := strconv.Atoi(port)
		if err != nil {
			t.Fatal(err)
		}
		if reserve(n, 1) {
			t.Error("the other process has the port as well")
		}
		if _, err := Find(10); err != nil {
			t.Error(err)
		}
		return
	}
	ports, err := Find(1)
	if err != nil {
		t.Fatal(err)
	}
	other := exec.Command(os.Args[0], "-test.run", "TestReserved$")
	other.Env = append(os.Environ(), "RESERVED_PORT="+strconv.Itoa(ports[0]))
	if out, err := other.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestFoundOnce: the ports of nodes that do not run yet, or just now, are free, and are not found again.
func TestFoundOnce(t *testing.T) {
	found := map[int]bool{}
	for range 60 { // so many that some would be found twice by chance
		ports, err := Find(5)
		if err != nil {
			t.Fatal(err)
		}
		row, err := Row(5)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			for _, port := range []int{ports[i], row + i} {
				if found[port] {
					t.Fatalf("port %d was found twice", port)
				}
				found[port] = true
			}
		}
	}
}
