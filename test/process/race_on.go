//go:build race

package process

// RaceDetector says that the tests run with it, and so do the brokers.
const RaceDetector = true
