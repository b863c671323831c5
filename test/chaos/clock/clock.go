// Package clock moves the wall clock of a running process and of nobody else. The process needs no preparation and no
// library: what it calls for the time, clock_gettime in the vDSO that the kernel maps into it, is replaced in its memory
// by a function that asks the kernel and adds an offset. Its monotonic clock goes on undisturbed, as it does when an
// administrator or a time server sets a machine's clock. Linux on amd64 only.
package clock

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Symbols of the vDSO: the one that programs call, and one that nobody calls who has the other, in whose place the
// replacement is put.
const (
	called = "__vdso_clock_gettime"
	unused = "__vdso_gettimeofday"
)

// replacement is the function: it makes the system call, and adds the seconds when the clock asked for is the wall clock.
var replacement = []byte{
	0xb8, 0xe4, 0x00, 0x00, 0x00, // mov eax, 228 (clock_gettime)
	0x0f, 0x05, // syscall; keeps rdi and rsi
	0x85, 0xff, // test edi, edi (0 is CLOCK_REALTIME)
	0x75, 0x0d, // jnz to ret
	0x48, 0xb9, 0, 0, 0, 0, 0, 0, 0, 0, // mov rcx, seconds
	0x48, 0x01, 0x0e, // add [rsi], rcx
	0xc3, // ret
}

const (
	secondsAt  = 13 // in replacement
	jumpLength = 5
)

// span is a function's place in a process's memory.
type span struct{ start, size uint64 }

func (s span) has(pc uint64) bool { return pc >= s.start && pc < s.start+s.size }

// Missing says why clocks cannot be moved here, or nothing. It tries on this process, without changing it.
func Missing() string {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return "the clock of a process can be moved on linux/amd64 only"
	}
	p, err := open(os.Getpid())
	if err != nil {
		return "the clock of a process: " + err.Error()
	}
	defer p.close()
	same := make([]byte, jumpLength)
	if err = p.read(same, p.unused.start); err == nil {
		err = p.write(same, p.unused.start)
	}
	if err != nil {
		return "the clock of a process: " + err.Error()
	}
	return ""
}

// Shift moves the wall clock of a process by whole seconds against the machine's; a second call replaces the first. The process
// must be stopped (SIGSTOP), and is continued by the caller. ErrBusy means that it was stopped at a place where its code cannot be
// changed: continue it and try again.
func Shift(pid int, by time.Duration) error {
	p, err := open(pid)
	if err != nil {
		return err
	}
	defer p.close()
	if err := p.settled(); err != nil {
		return err
	}
	code := bytes.Clone(replacement)
	binary.LittleEndian.PutUint64(code[secondsAt:], uint64(int64(by/time.Second)))
	if err := p.write(code, p.unused.start); err != nil {
		return err
	}
	jump := make([]byte, jumpLength)
	jump[0] = 0xe9 // jmp, relative to the next instruction
	binary.LittleEndian.PutUint32(jump[1:], uint32(int64(p.unused.start)-int64(p.called.start)-jumpLength))
	return p.write(jump, p.called.start)
}

// ErrBusy says that a thread of the process is inside the code that is to be changed.
var ErrBusy = errors.New("a thread is inside the code that is to be changed")

// process is the memory of a process and the two functions in it.
type process struct {
	pid            int
	memory         *os.File
	called, unused span
}

func open(pid int) (*process, error) {
	start, size, err := vdso(pid)
	if err != nil {
		return nil, err
	}
	memory, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	p := &process{pid: pid, memory: memory}
	if err := p.find(start, size); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *process) close() { _ = p.memory.Close() } // nothing is buffered

func (p *process) read(data []byte, at uint64) error {
	_, err := p.memory.ReadAt(data, int64(at))
	return err
}

func (p *process) write(data []byte, at uint64) error {
	_, err := p.memory.WriteAt(data, int64(at))
	return err
}

// vdso finds where the kernel has mapped it.
func vdso(pid int) (start, size uint64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(maps)) {
		if strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			var end uint64
			if _, err := fmt.Sscanf(line, "%x-%x", &start, &end); err != nil {
				return 0, 0, err
			}
			return start, end - start, nil
		}
	}
	return 0, 0, errors.New("it has no vDSO")
}

// find looks the functions up. Symbols of the vDSO are relative to its start.
func (p *process) find(start, size uint64) error {
	image := make([]byte, size)
	if err := p.read(image, start); err != nil {
		return err
	}
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return fmt.Errorf("the vDSO: %w", err)
	}
	symbols, err := file.DynamicSymbols()
	if err != nil {
		return fmt.Errorf("the vDSO: %w", err)
	}
	for _, s := range symbols {
		switch s.Name {
		case called:
			p.called = span{start + s.Value, s.Size}
		case unused:
			p.unused = span{start + s.Value, s.Size}
		}
	}
	if p.called.size < jumpLength || p.unused.size < uint64(len(replacement)) {
		return fmt.Errorf("the vDSO has no room: %s has %d bytes, %s %d", called, p.called.size, unused, p.unused.size)
	}
	return nil
}

// settled checks that every thread is stopped, and none where code is changed.
func (p *process) settled() error {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.pid))
	if err != nil {
		return err
	}
	entry := span{p.called.start + 1, jumpLength - 1} // at its first byte a thread has not begun it
	for _, task := range tasks {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/syscall", p.pid, task.Name()))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return err
		}
		fields := strings.Fields(string(data))
		if len(fields) < 3 { // "running"
			return ErrBusy
		}
		pc, err := strconv.ParseUint(strings.TrimPrefix(fields[len(fields)-1], "0x"), 16, 64)
		if err != nil {
			return fmt.Errorf("thread %s: %w", task.Name(), err)
		}
		if entry.has(pc) || p.unused.has(pc) {
			return ErrBusy
		}
	}
	return nil
}
