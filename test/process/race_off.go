//go:build !race

package process

// RaceDetector says that the tests run without it, and so do the brokers.
const RaceDetector = false
