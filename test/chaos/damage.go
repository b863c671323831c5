package chaos

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// damageFiles does harm to one to three of the files that match a pattern below dir, and says what it did.
func damageFiles(dir, pattern string, random *rand.Rand, damage func(string, *rand.Rand) (string, error)) (string, error) {
	paths, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		return "", err
	}
	slices.Sort(paths)
	random.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
	if len(paths) == 0 {
		return "there is no such file yet", nil
	}
	var all []string
	for _, path := range paths[:min(len(paths), 1+random.IntN(3))] {
		did, err := damage(path, random)
		if err != nil {
			return "", fmt.Errorf("damage %s: %w", path, err)
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return "", err
		}
		all = append(all, name+": "+did)
	}
	return strings.Join(all, "; "), nil
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
		return "is empty", nil
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
		return "is empty", nil
	}
	size := random.IntN(n)
	return fmt.Sprintf("cut to %d of %d", size, n), os.Truncate(path, int64(size))
}
