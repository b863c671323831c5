package gossip

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
)

// A file of keys has one key a line, in base64: 16, 24 or 32 bytes for AES. The first encrypts, all decrypt. So a key is
// changed without a pause in three steps, each on all nodes: the new key as the last line; the new key as the first; the old
// one away.

const (
	maxKeyFile = 16 << 10 // bytes
	readKeys   = time.Second
)

// keyFile reads the keys.
func keyFile(path string) ([][]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("gossip keys: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("gossip keys: %w", err)
	}
	var keys [][]byte
	line := 0
	for in := bufio.NewScanner(bytes.NewReader(data)); in.Scan(); {
		line++
		text := strings.TrimSpace(in.Text())
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(text)
		if err == nil {
			err = memberlist.ValidateKey(key)
		}
		if err != nil {
			return nil, fmt.Errorf("gossip keys: %s, line %d: no key of 16, 24 or 32 bytes in base64", path, line)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("gossip keys: %s: no key in it", path)
	}
	return keys, nil
}

// openKeys makes the ring of the keys in a file.
func openKeys(path string) (*memberlist.Keyring, error) {
	keys, err := keyFile(path)
	if err != nil {
		return nil, err
	}
	ring, err := memberlist.NewKeyring(keys, keys[0])
	if err != nil {
		return nil, fmt.Errorf("gossip keys: %w", err)
	}
	return ring, nil
}

// setKeys makes the ring have exactly these keys. None is missing meanwhile.
func setKeys(ring *memberlist.Keyring, keys [][]byte) error {
	for _, key := range keys {
		if err := ring.AddKey(key); err != nil {
			return err
		}
	}
	if err := ring.UseKey(keys[0]); err != nil {
		return err
	}
	for _, old := range slices.Clone(ring.GetKeys()) {
		if !slices.ContainsFunc(keys, func(key []byte) bool { return bytes.Equal(key, old) }) {
			if err := ring.RemoveKey(old); err != nil {
				return err
			}
		}
	}
	return nil
}

// watchKeys reads the file again and again until ctx ends. A file that cannot be used changes nothing, and is told once.
func watchKeys(ctx context.Context, path string, ring *memberlist.Keyring, log *slog.Logger) {
	complaint := ""
	same := func(keys [][]byte) bool {
		now := ring.GetKeys() // the first is in use, the others have no order
		return len(now) == len(keys) && bytes.Equal(now[0], keys[0]) &&
			!slices.ContainsFunc(now, func(k []byte) bool {
				return !slices.ContainsFunc(keys, func(l []byte) bool { return bytes.Equal(k, l) })
			})
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(readKeys):
		}
		keys, err := keyFile(path)
		if err == nil && !same(keys) {
			if err = setKeys(ring, keys); err == nil {
				log.Info("gossip keys are changed", "keys", len(keys))
			}
		}
		switch {
		case err == nil:
			complaint = ""
		case err.Error() != complaint:
			complaint = err.Error()
			log.Error("the keys for gossip stay as they were", "err", err)
		}
	}
}
