package auth

import (
	"fmt"
	"regexp"
	"sync"
)

// Operation is what somebody wants to do with a queue or an exchange.
type Operation uint8

// The operations that permissions tell apart.
const (
	Configure Operation = iota
	Write
	Read
)

// String returns the word that texts have for the operation.
func (o Operation) String() string {
	if o > Read {
		return "unknown"
	}
	return [...]string{"configure", "write", "read"}[o]
}

// DefaultExchange is the name by which permissions know the exchange "".
const DefaultExchange = "amq.default"

// Permission is what a user may do in a vhost. The zero value permits nothing.
type Permission struct {
	patterns [3]*pattern // by Operation; nil matches nothing
}

// Allows tells whether the permission lets the operation be done with the queue or exchange of that name. The default
// exchange is called amq.default.
func (p *Permission) Allows(op Operation, name string) bool {
	if p == nil || op > Read {
		return false
	}
	return p.patterns[op].matches(name)
}

// pattern is a regular expression that may match anywhere in a name, as RabbitMQ's.
type pattern struct {
	everything bool
	expression *regexp.Regexp
}

func (p *pattern) matches(name string) bool {
	return p != nil && (p.everything || p.expression.MatchString(name))
}

// maxPattern bounds a pattern, in bytes.
const maxPattern = 4096

// CheckPattern tells whether a pattern can be used. Patterns are RE2's (package regexp): without the look-around and
// back references that RabbitMQ's have.
func CheckPattern(text string) error {
	_, err := compile(text)
	return err
}

// compile follows RabbitMQ: a pattern is not anchored, and an empty one is "^$", which no name matches.
func compile(text string) (*pattern, error) {
	switch text {
	case "":
		text = "^$"
	case ".*", "^.*", ".*$":
		return &pattern{everything: true}, nil
	}
	if len(text) > maxPattern {
		return nil, fmt.Errorf("the pattern has %d bytes; at most %d can be used", len(text), maxPattern)
	}
	expression, err := regexp.Compile(text)
	if err != nil {
		return nil, fmt.Errorf("pattern %q: %w", text, err)
	}
	return &pattern{expression: expression}, nil
}

// Patterns compiles permissions and keeps what it has compiled. It is safe for use by many goroutines.
type Patterns struct {
	mu       sync.Mutex // guards what follows
	compiled map[string]*pattern
	limit    int
}

// defaultPatterns is how many patterns are kept unless told otherwise.
const defaultPatterns = 1024

// NewPatterns returns a Patterns that keeps up to limit patterns; 0 means 1024.
func NewPatterns(limit int) *Patterns {
	if limit <= 0 {
		limit = defaultPatterns
	}
	return &Patterns{compiled: map[string]*pattern{}, limit: limit}
}

// Permission makes a permission of three patterns. A pattern that cannot be used permits nothing and is told by the
// error; the permission serves for the others all the same.
func (c *Patterns) Permission(configure, write, read string) (*Permission, error) {
	var p Permission
	var first error
	for op, text := range [...]string{Configure: configure, Write: write, Read: read} {
		compiled, err := c.get(text)
		if err != nil && first == nil {
			first = fmt.Errorf("%s permission: %w", Operation(op), err)
		}
		p.patterns[op] = compiled
	}
	return &p, first
}

func (c *Patterns) get(text string) (*pattern, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.compiled[text]; p != nil {
		return p, nil
	}
	p, err := compile(text)
	if err != nil {
		return nil, err
	}
	if len(c.compiled) >= c.limit {
		clear(c.compiled)
	}
	c.compiled[text] = p
	return p, nil
}
