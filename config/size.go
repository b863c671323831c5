package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes. It is written with a unit (KiB, MiB, GiB, TiB, or kB, MB, GB, TB) or without.
type Size int64

var units = []struct {
	name  string
	bytes int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1},
}

// Set reads a size; it is what pflag calls.
func (s *Size) Set(text string) error {
	factor := int64(1)
	number := strings.TrimSpace(text)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(number, u.name); ok {
			number, factor = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/factor {
		return fmt.Errorf("%q is not a size such as 512MiB", text)
	}
	*s = Size(n * factor)
	return nil
}

// String writes the size with the largest binary unit that divides it.
func (s *Size) String() string {
	for _, u := range units[:4] {
		if *s != 0 && int64(*s)%u.bytes == 0 {
			return strconv.FormatInt(int64(*s)/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(*s), 10)
}

// Type names the value in help texts.
func (s *Size) Type() string { return "size" }

// Memory is a limit on memory: a share of what the machine (or its control group) has, or a size.
type Memory struct {
	Percent int // 1 to 100, or 0: Bytes counts
	Bytes   Size
}

// Set reads a limit; it is what pflag calls.
func (m *Memory) Set(text string) error {
	if number, ok := strings.CutSuffix(strings.TrimSpace(text), "%"); ok {
		n, err := strconv.Atoi(strings.TrimSpace(number))
		if err != nil || n < 1 || n > 100 {
			return fmt.Errorf("%q is not a share between 1%% and 100%%", text)
		}
		*m = Memory{Percent: n}
		return nil
	}
	var size Size
	if err := size.Set(text); err != nil {
		return err
	}
	if size == 0 {
		return fmt.Errorf("a memory limit of nothing blocks everything")
	}
	*m = Memory{Bytes: size}
	return nil
}

// String writes the limit as it is given.
func (m *Memory) String() string {
	if m.Percent > 0 {
		return strconv.Itoa(m.Percent) + "%"
	}
	return m.Bytes.String()
}

// Type names the value in help texts.
func (m *Memory) Type() string { return "size|percent" }

// Of resolves the limit on a machine with so much memory.
func (m *Memory) Of(total int64) int64 {
	if m.Percent > 0 {
		return total / 100 * int64(m.Percent)
	}
	return int64(m.Bytes)
}
