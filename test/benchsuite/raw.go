package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warrenmq/warren/internal/bench"
)

// Suite is all that one run of the suite measured: what the raw file holds.
type Suite struct {
	Machine  Machine
	Begin    time.Time
	Duration time.Duration // of each measurement
	Repeats  int
	Scale    float64
	Limit    map[string][]bench.LimitResult
	Brokers  []BrokerInfo
	Skipped  []Skip
	Samples  []Sample
}

// Machine is what it was measured on.
type Machine struct {
	Kernel, Processor string
	Cores             int
	MemoryBytes       uint64
}

// BrokerInfo is a broker that was measured.
type BrokerInfo struct{ Name, Version string }

// Skip is a broker that was not, and why.
type Skip struct{ Broker, Why string }

// Sample is one run of one work on one broker.
type Sample struct {
	Broker, Work string
	Repeat       int
	Load         float64 // the machine's load average of the last minute, before the work began
	Values       values  `json:",omitempty"`
	Failed       string  `json:",omitempty"`
}

// line tells a sample while the suite runs.
func (s Sample) line() string {
	if s.Failed != "" {
		return fmt.Sprintf("%-12s %-22s failed: %s", s.Broker, s.Work, s.Failed)
	}
	var parts []string
	for _, metric := range slices.Sorted(maps.Keys(s.Values)) {
		parts = append(parts, fmt.Sprintf("%s %s", metric, figure(s.Values[metric])))
	}
	return fmt.Sprintf("%-12s %-22s load %.1f: %s", s.Broker, s.Work, s.Load, strings.Join(parts, ", "))
}

func thisMachine() Machine {
	m := Machine{Cores: runtime.NumCPU(), Processor: "unknown", Kernel: "unknown"}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.MemoryBytes = info.Totalram * uint64(info.Unit)
	}
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(data)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				m.Processor = strings.TrimSpace(value)
				break
			}
		}
	}
	return m
}

// loadAverage is that of the last minute; 0 where it cannot be read.
func loadAverage() (load float64) {
	if data, err := os.ReadFile("/proc/loadavg"); err == nil {
		_, _ = fmt.Fscan(bytes.NewReader(data), &load)
	}
	return load
}

func writeRaw(path string, s *Suite) error {
	if path == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(s); err != nil {
		return err
	}
	return os.WriteFile(path, text.Bytes(), 0o644)
}

func readRaw(path string) (*Suite, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var s Suite
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &s, nil
}
