package clock

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	harness "github.com/warrenmq/warren/test/process"
)

// TestMain is also the program whose clock is moved: it tells both clocks for each line that it reads.
func TestMain(m *testing.M) {
	if os.Getenv("CLOCK_TEST_TELL") == "" {
		os.Exit(m.Run())
	}
	go func() { // somebody always asks for the time
		for {
			_ = time.Now()
		}
	}()
	begin := time.Now()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fmt.Println(time.Now().Unix(), time.Since(begin).Milliseconds())
	}
}

// TestShift moves a busy process's wall clock forth and back and leaves its monotonic clock and everybody else's alone.
func TestShift(t *testing.T) {
	if why := Missing(); why != "" {
		harness.Missing(t, why)
	}
	program := exec.Command(os.Args[0])
	program.Env = append(os.Environ(), "CLOCK_TEST_TELL=1")
	stdin, err := program.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := program.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = program.Process.Kill()
		_ = program.Wait()
	})
	answers := bufio.NewScanner(stdout)
	begin := time.Now()
	ask := func() (offset time.Duration) {
		t.Helper()
		before := time.Now().Unix()
		if _, err := fmt.Fprintln(stdin); err != nil || !answers.Scan() {
			t.Fatalf("the program is gone: %v %v", err, answers.Err())
		}
		wall, monotonic, _ := strings.Cut(answers.Text(), " ")
		seconds, err1 := strconv.ParseInt(wall, 10, 64)
		milliseconds, err2 := strconv.ParseInt(monotonic, 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if since := time.Duration(milliseconds) * time.Millisecond; since < 0 || since > time.Since(begin)+time.Second {
			t.Fatalf("its monotonic clock says %v, which cannot be", since)
		}
		// The answer lies between the question and now; whole seconds are compared.
		offset = time.Duration(seconds-before) * time.Second
		slack := time.Since(time.Unix(before, 0)) + time.Second
		return offset.Round(time.Minute) + max(0, (offset-offset.Round(time.Minute)).Abs()-slack)
	}
	shift := func(by time.Duration) {
		t.Helper()
		for {
			if err := program.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			err := Shift(program.Process.Pid, by)
			if err := program.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			if !errors.Is(err, ErrBusy) {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
		}
	}
	for _, by := range []time.Duration{0, time.Hour, -time.Hour, 2 * time.Minute, 0} {
		shift(by)
		for range 3 {
			if got := ask(); got != by {
				t.Fatalf("moved by %v, its clock is off by %v", by, got)
			}
		}
	}
}
