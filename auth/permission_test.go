package auth

import (
	"fmt"
	"strings"
	"testing"
)

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		allowed       bool
	}{
		{".*", "anything", true},
		{".*$", "anything", true},
		{"", "q", false},
		{"", "amq.default", false},
		{"^$", "q", false},
		{"orders", "old-orders-2", true}, // not anchored
		{"^orders$", "old-orders-2", false},
		{"^orders$", "orders", true},
		{"^orders", "orders-2", true},
		{"^(amq\\.gen|app-)", "amq.gen-x", true},
		{"^(amq\\.gen|app-)", "other", false},
		{"amq\\.default", DefaultExchange, true},
		{"q", "Q", false},
		{"^.$", "\xff", true},
	} {
		p, err := NewPatterns(0).Permission(c.pattern, "", c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if p.Allows(Configure, c.name) != c.allowed || p.Allows(Read, c.name) != c.allowed || p.Allows(Write, c.name) {
			t.Errorf("pattern %q, name %q: configure %v, write %v, read %v; want %v", c.pattern, c.name,
				p.Allows(Configure, c.name), p.Allows(Write, c.name), p.Allows(Read, c.name), c.allowed)
		}
	}
}

func TestOperationsAreApart(t *testing.T) {
	p, err := NewPatterns(0).Permission("c", "w", "r")
	if err != nil {
		t.Fatal(err)
	}
	for op, name := range map[Operation]string{Configure: "c", Write: "w", Read: "r"} {
		for _, other := range []string{"c", "w", "r"} {
			if p.Allows(op, other) != (name == other) {
				t.Errorf("%s of %q: %v", op, other, p.Allows(op, other))
			}
		}
	}
	var none *Permission
	if none.Allows(Read, "q") || new(Permission).Allows(Read, "q") || p.Allows(Read+1, "r") {
		t.Error("nothing allows something")
	}
}

func TestUnusablePatterns(t *testing.T) {
	for _, pattern := range []string{"(", "^(?!amq)", strings.Repeat("x", maxPattern+1)} {
		if CheckPattern(pattern) == nil {
			t.Errorf("%.20q is accepted", pattern)
		}
		p, err := NewPatterns(0).Permission(".*", pattern, "r")
		if err == nil || !strings.HasPrefix(err.Error(), "write permission: ") {
			t.Errorf("%.20q: %v", pattern, err)
		}
		if p.Allows(Write, "q") || !p.Allows(Configure, "q") || !p.Allows(Read, "r") {
			t.Errorf("%.20q: the others are not what they were", pattern)
		}
	}
}

func TestPatternsAreBounded(t *testing.T) {
	c := NewPatterns(4)
	for i := range 100 {
		if _, err := c.Permission(fmt.Sprint("c", i), "w", "w"); err != nil {
			t.Fatal(err)
		}
		if len(c.compiled) > 4 {
			t.Fatalf("%d patterns are kept", len(c.compiled))
		}
	}
	before, after := c.compiled["w"], (*pattern)(nil)
	p, err := c.Permission("w", "w", "w")
	if after = p.patterns[Write]; err != nil || after != before {
		t.Error("a pattern that is kept is compiled again")
	}
}
