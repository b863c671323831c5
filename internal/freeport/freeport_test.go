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
