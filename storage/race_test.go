//go:build race

package storage

// racing tells that the race detector watches, with which recovery takes ten times as long. What tries every offset is about
// what is on the disk, not about who runs beside whom: it then tries some, as with -short.
const racing = true
