package node

import (
	"fmt"
	"os"

	"github.com/warrenmq/warren/auth"
)

// readTokenKeys reads the keys of bearer tokens; no file: no tokens.
func readTokenKeys(file string) (*auth.Tokens, error) {
	if file == "" {
		return nil, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("keys of tokens: %w", err)
	}
	t, err := auth.ParseTokenKeys(data)
	if err != nil {
		return nil, fmt.Errorf("keys of tokens in %s: %w", file, err)
	}
	return t, nil
}
