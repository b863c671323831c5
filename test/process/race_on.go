//go:build race

package process

// raceDetector says that the tests run with it, and so should the brokers.
const raceDetector = true
