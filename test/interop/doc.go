// Package interop runs programs that know nothing of Warren against real nodes: the tutorial's programs by pika, the Go
// client amqp091-go and the Node.js client amqplib. What it needs beside Go is installed by test/setup; a test whose
// client is missing is skipped with its reason, and fails on CI.
package interop
