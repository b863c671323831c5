//go:build !warren_next

package queue

// Version is the latest machine version that this program knows.
const Version = 1

// EntryFormat is the version of the entries that are written for a machine of a version.
func EntryFormat(uint32) uint8 { return EntryVersion }
