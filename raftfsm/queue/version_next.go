//go:build warren_next

package queue

// With the tag warren_next the program is one of the version that comes after this: it knows a machine version more, whose
// entries no earlier program reads. It is for the tests of rolling upgrades.

// Version is the latest machine version that this program knows.
const Version = 2

// EntryFormat is the version of the entries that are written for a machine of a version.
func EntryFormat(machine uint32) uint8 {
	if machine < 2 {
		return EntryVersion
	}
	return EntryVersion + 1
}
