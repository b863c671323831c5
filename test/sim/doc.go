// Package sim runs whole Warren clusters in one process, in a bubble of testing/synctest: real nodes from the broker down to
// the log, with a network, disks and wall clocks that a seed makes misbehave. Clients publish, consume and declare meanwhile,
// and package check holds what they saw against the promises, as it does for real processes in test/chaos.
//
// A schedule is what a seed makes: the cluster's size, delays, the clients' choices, the faults and their times. The order in
// which goroutines run is Go's, so a seed repeats a schedule, not every step of it.
package sim
