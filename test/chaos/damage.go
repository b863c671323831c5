package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// errNothing says that a fault found nothing to do harm to.
var errNothing = errors.New("there was nothing to do harm to")

// damageFiles does harm to one to three of the files that match a pattern below dir, and says what it did. Files that have nothing in
// them, such as those that are reserved, are left alone; errNothing: there are no others.
func damageFiles(dir, pattern string, random *rand.Rand, damage func(string, *rand.Rand) (string, error)) (string, error) {
	paths, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		return "", err
	}
	slices.Sort(paths)
	random.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
	var all []string
	for most := 1 + random.IntN(3); len(paths) > 0 && len(all) < most; paths = paths[1:] {
		did, err := damage(paths[0], random)
		switch {
		case errors.Is(err, errNothing):
			continue
		case err != nil:
			return "", fmt.Errorf("damage %s: %w", paths[0], err)
		}
		name, err := filepath.Rel(dir, paths[0])
		if err != nil {
			return "", err
		}
		all = append(all, name+": "+did)
	}
	if len(all) == 0 {
		return "", fmt.Errorf("%w: no file %s with anything in it", errNothing, pattern)
	}
	return strings.Join(all, "; "), nil
}

// insistsFor is how long awaitFile waits at most.
const insistsFor = time.Minute

// awaitFile waits until damageFiles would find a file below dir.
func awaitFile(ctx context.Context, dir, pattern string) {
	ctx, cancel := context.WithTimeout(ctx, insistsFor)
	defer cancel()
	for ctx.Err() == nil {
		paths, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return // damageFiles tells
		}
		for _, path := range paths {
			if data, err := os.ReadFile(path); err == nil && used(data) > 0 {
				return
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// used is the part of a file up to its last byte that is not zero: files are reserved to their full size beforehand.
func used(data []byte) int { return len(bytes.TrimRight(data, "\x00")) }

// flipBits flips one to eight bits in the part of the file that is in use.
func flipBits(path string, random *rand.Rand) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	n := used(data)
	if n == 0 {
		return "", errNothing
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var at []string
	for range 1 + random.IntN(8) {
		i, bit := random.IntN(n), random.IntN(8)
		data[i] ^= 1 << bit
		if _, err := f.WriteAt(data[i:i+1], int64(i)); err != nil {
			return "", err
		}
		at = append(at, fmt.Sprintf("%d.%d", i, bit))
	}
	return fmt.Sprintf("flipped %s of %d", strings.Join(at, " "), n), nil
}

// truncate cuts the file somewhere in the part that is in use.
func truncate(path string, random *rand.Rand) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	n := used(data)
	if n == 0 {
		return "", errNothing
	}
	size := random.IntN(n)
	return fmt.Sprintf("cut to %d of %d", size, n), os.Truncate(path, int64(size))
}
